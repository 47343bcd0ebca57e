"""Output for programs: one JSON document on stdout."""

from __future__ import annotations

import json
import sys


def print_json(value: object) -> None:
    """Print a value as JSON, indented, with a line break at its end."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
