"""How fast: ours beside stock PyTorch and beside what the machine can do, by turns in one run."""
