"""Code for all other packages: the error for a user's mistake, atomic files, random numbers without state."""
