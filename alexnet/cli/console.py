"""Results for a program: one JSON document on stdout."""

from __future__ import annotations

import json
import sys


def print_json(value: object) -> None:
    """The one document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
