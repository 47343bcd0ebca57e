"""What every run needs: a device, a place to continue from, and a record."""
