"""A training as Markdown and as one HTML page."""
