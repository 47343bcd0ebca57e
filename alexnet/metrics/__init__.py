"""What is computed from counted images."""
