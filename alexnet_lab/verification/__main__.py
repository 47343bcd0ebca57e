"""``python -m alexnet_lab.verification fresh``: the measurements that docs/verify.md reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet_lab.verification import fresh, trained


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the measurements; returns the exit status, 1 if a verdict was wrong."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.verification", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("fresh", help="verify fresh networks of every variant").add_argument
    add("variants", nargs="*", metavar="VARIANT", help="(default: all AlexNets)")
    add("--seeds", type=int, default=20, metavar="N", help="networks of each variant (default: 20)")
    add("--width", type=float, metavar="W", help="of all layers, beside the authors' (default: full size)")
    add("--out", type=Path, metavar="FOLDER", help="a file for each network; those that are there are not repeated")
    add = commands.add_parser("trained", help="train short recipes and verify their models").add_argument
    add("recipes", nargs="*", metavar="RECIPE", help="(default: those that train in five minutes)")
    add("--seed", type=int, default=0, metavar="N")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the runs and their verdicts; can be resumed")
    add("--data", action="append", default=[], metavar="RECIPE=SOURCE", help="other images for a recipe")
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in image sets are")
    given = parser.parse_args(words)
    try:
        return _fresh(given) if given.command == "fresh" else _trained(given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _fresh(given: argparse.Namespace) -> int:
    rows = fresh.verify_all_fresh(given.variants or fresh.alexnets(), given.seeds, given.width, given.out)
    wrong = fresh.wrong(rows)
    print(*wrong, f"{len(rows) - len(wrong)} of {len(rows)} fresh networks are called untrained", sep="\n")
    return int(bool(wrong))


def _trained(given: argparse.Namespace) -> int:
    sources = dict(text.split("=", 1) for text in given.data)
    names = given.recipes or trained.short_recipes()
    whole = []
    for row in trained.verify_trained(names, given.out, seed=given.seed, sources=sources, data_root=given.data_root):
        print(f"{row['recipe']}, seed {row['seed']}, top-1 {row['top1']:.1%}: {row['summary']}", flush=True)
        whole.append(trained.is_whole(row))
    print(f"{sum(whole)} of {len(whole)} trained networks are called trained and whole")
    return int(not all(whole))


if __name__ == "__main__":
    sys.exit(main())
