"""Measures of a classifier: exact counts, calibration, intervals."""
