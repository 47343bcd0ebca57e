"""See: pictures and reports made from what a run left, or from a network or a recipe by name."""
