"""Weights in other formats: in and out."""
