"""``python -m alexnet_lab.verification fresh``: the measurements that docs/verify.md reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet_lab.verification import fresh


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the measurements; returns the exit status, 1 if a verdict was wrong."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.verification", description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("fresh", help="verify fresh networks of every variant").add_argument
    add("variants", nargs="*", metavar="VARIANT", help="(default: all AlexNets)")
    add("--seeds", type=int, default=20, metavar="N", help="networks of each variant (default: 20)")
    add("--width", type=float, metavar="W", help="of all layers, beside the authors' (default: full size)")
    add("--out", type=Path, metavar="FOLDER", help="a file for each network; those that are there are not repeated")
    given = parser.parse_args(words)
    rows = fresh.verify_all_fresh(given.variants or fresh.alexnets(), given.seeds, given.width, given.out)
    wrong = fresh.wrong(rows)
    print(*wrong, f"{len(rows) - len(wrong)} of {len(rows)} fresh networks are called untrained", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
