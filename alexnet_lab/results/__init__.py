"""Measured results: JSON files that are part of the package, and the code that reads and writes them."""
