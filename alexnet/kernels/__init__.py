"""Fast layers that ``accelerate`` puts in place of reference layers; tests compare each with its reference layer."""
