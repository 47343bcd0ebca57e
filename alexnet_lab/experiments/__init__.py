"""The trainings that claims need, and the queue that runs them."""
