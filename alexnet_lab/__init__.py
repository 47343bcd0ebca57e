"""The laboratory: benchmarks, claims, experiments, fault injection and measured results of alexnet."""
