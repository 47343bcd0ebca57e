"""Measured runs, as JSON files, and the code that reads and writes them."""
