"""Plots of trainings, networks and recipes: one file for each plot, and one row for it in ``registry.py``."""
