"""The trainings that claims need, and the job queue that runs them."""
