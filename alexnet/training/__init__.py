"""Train a model and evaluate it."""
