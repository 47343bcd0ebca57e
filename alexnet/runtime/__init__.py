"""What every run needs: a device, a run folder, checkpoints, logs, a lock, signals and a progress display."""
