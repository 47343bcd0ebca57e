"""Every number: what was run, where, and what came out."""
