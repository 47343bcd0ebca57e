"""What everything stands on: the user's error, whole files, and draws without state."""
