"""How far ``alexnet verify`` can be trusted: fresh networks, trained networks, and faults made on purpose."""
