"""Make a model and measure it."""
