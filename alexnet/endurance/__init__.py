"""What it survives: kills, signals, damage and full disks, tried by the hundred and counted."""
