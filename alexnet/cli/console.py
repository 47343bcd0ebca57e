"""Results on stdout: text for people, or one JSON document for programs."""

from __future__ import annotations

import sys

from alexnet.core.files import json_text
from alexnet.core.names import printable_lines


def print_json(value: object) -> None:
    """Print a value as JSON, indented, with a line break at its end."""
    sys.stdout.write(json_text(value, indent=2) + "\n")


def print_text(*lines: str) -> None:
    """Print lines in which names from outside may occur: what cannot be printed is escaped."""
    for line in lines:
        print(printable_lines(line))
