"""How fast it is: interleaved timing against stock PyTorch and other runtimes."""
