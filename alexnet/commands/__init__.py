"""One module a command: each composes rooms and prints. ``alexnet X`` is function ``X`` of module ``X``."""
