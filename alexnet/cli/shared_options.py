"""Options that several commands share, and the conversion of command-line words to numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

Add = Callable[..., object]
"""``ArgumentParser.add_argument`` of a command."""

SOURCE = (
    "a built-in name, NAME:PATH (e.g. imagenet:PATH), a folder of class folders, a tar or zip of one, or tars of "
    "WebDataset"
)
PRECISION = (
    "default: bf16 if the hardware supports it natively, else fp32; int8: int8 weights of a trained model, on a CPU"
)


def count(word: str) -> int:
    """A whole number of 1 or more. Raises ``ArgumentTypeError``."""
    if not word.isdigit() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of 1 or more")
    return int(word)


def whole(word: str) -> int:
    """A whole number of 0 or more. Raises ``ArgumentTypeError``."""
    if not (word.isascii() and word.isdigit()):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number of 0 or more")
    return int(word)


def positive(word: str) -> float:
    """A finite number above 0. Raises ``ArgumentTypeError``."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return number


def share(word: str) -> float:
    """A number from 0 to 1. Raises ``ArgumentTypeError``."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number from 0 to 1")
    return number


def add_seed(add: Add) -> None:
    """``--seed``."""
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")


def add_device(add: Add) -> None:
    """``--device``."""
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")


def add_device_and_precision(add: Add) -> None:
    """``--device`` and ``--precision``."""
    add_device(add)
    add("--precision", choices=("auto", "fp32", "bf16", "int8"), help=PRECISION)


def add_reference(add: Add) -> None:
    """``--reference``, and its earlier name ``--plain``, which ``--help`` does not show."""
    add("--reference", action="store_true", help="use reference PyTorch layers instead of the fast kernels")
    add("--plain", dest="reference", action="store_true", help=argparse.SUPPRESS)


def add_labels(add: Add) -> None:
    """``--labels``."""
    about = "a CSV file,label[,split] or a list 'path label' with the classes of the images in SOURCE, a folder"
    add("--labels", action="append", default=[], metavar="FILE", help=f"{about}; may be repeated: train.txt, val.txt")


def add_names(add: Add) -> None:
    """``--names``."""
    about = "a CSV file that only you can read, with the file of each number that stands for a DICOM file"
    add("--names", metavar="FILE", help=about)


def add_data_root(add: Add) -> None:
    """``--data-root``."""
    add("--data-root", type=Path, metavar="FOLDER", help="the first folder to search for built-in image sets")


def add_weights_root(add: Add) -> None:
    """``--weights-root``."""
    add("--weights-root", type=Path, metavar="FOLDER", help="the first folder to search for published weights")
