"""What happens when a fast kernel does not work here: the reference layer is used, and one line says so."""

from __future__ import annotations

import sys

_warned: set[str] = set()


def warn_once(text: str) -> None:
    """Print a line on stderr, once per process."""
    if text not in _warned:
        _warned.add(text)
        print(f"alexnet: note: {text}", file=sys.stderr)
