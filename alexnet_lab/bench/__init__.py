"""Benchmarks: interleaved timing against stock PyTorch and other runtimes."""
