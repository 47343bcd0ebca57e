"""See: figures and reports made from what a run left."""
