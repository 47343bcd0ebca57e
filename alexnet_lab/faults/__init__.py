"""Fault injection: what trainings, checkpoints and image reading survive."""
