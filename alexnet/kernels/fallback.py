"""The message for a fast kernel that cannot be used here: the reference layer is used, and one line is printed."""

from __future__ import annotations

import sys

_warned: set[str] = set()


def warn_once(text: str) -> None:
    """Print a line on stderr, once per process."""
    if text not in _warned:
        _warned.add(text)
        print(f"alexnet: note: {text}", file=sys.stderr)
