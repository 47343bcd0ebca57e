"""Weights in and out: other systems' names for the same network."""
