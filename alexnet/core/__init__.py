"""What all other packages use: the error for a user's mistake, complete files, random numbers without state."""
