"""Options that several commands share, and how a word on the command line becomes a number."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., object]
"""``ArgumentParser.add_argument`` of a command."""

PRECISION = "int8 is for trained networks, their weights, on a CPU (default: bf16 where the machine does it well)"


def count(word: str) -> int:
    """A whole number of 1 or more. Raises ``ArgumentTypeError``."""
    if not word.isdigit() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of 1 or more")
    return int(word)


def positive(word: str) -> float:
    """A finite number above 0. Raises ``ArgumentTypeError``."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is no number above 0")
    return number


def add_device(add: Add) -> None:
    """``--device``."""
    add("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")


def add_device_and_precision(add: Add) -> None:
    """``--device`` and ``--precision``."""
    add_device(add)
    add("--precision", choices=("auto", "fp32", "bf16", "int8"), help=PRECISION)


def add_data_root(add: Add) -> None:
    """``--data-root``."""
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in sets are looked for first")
