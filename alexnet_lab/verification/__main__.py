"""``python -m alexnet_lab.verification``: the measurements behind the tables of ``docs/verify.md``.

``fresh``, ``trained`` and ``faults`` write a file for each network to a folder, so that they can be interrupted and
repeated; ``keep`` writes such a folder to the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alexnet.core.errors import StoppedError, UserError
from alexnet_lab.verification import faults, fresh, kept, trained


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
    add = commands.add_parser("faults", help="make faults in trained networks and verify them").add_argument
    add("networks", nargs="*", metavar="NAME=MODEL", help="(a small network trained on digits is always one of them)")
    add("--donor", action="append", default=[], metavar="NAME=MODEL", help="one of the same recipe and another seed")
    add("--data", action="append", default=[], metavar="NAME=SOURCE", help="labelled images for a network")
    add("--data-root", type=Path, metavar="FOLDER", help="where built-in image sets are")
    add("--out", type=Path, required=True, metavar="FOLDER", help="a file for each network")
    add = commands.add_parser("keep", help="write what a folder holds to alexnet_lab/results/").add_argument
    add("kind", choices=kept.KINDS)
    add("folder", type=Path, metavar="FOLDER", help="the folder of --out")
    given = vars(parser.parse_args(words))
    functions: Mapping[str, Callable[..., int]] = {
        "fresh": _fresh, "trained": _trained, "faults": _faults, "keep": _keep,
    }  # fmt: skip
    try:
        return functions[given.pop("command")](**given)
    except StoppedError as error:  # by a signal, after a checkpoint
        print(error, file=sys.stderr)
        return error.status
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _fresh(variants: Sequence[str], seeds: int, width: float | None, out: Path | None) -> int:
    rows = fresh.verify_all_fresh(variants or fresh.alexnets(), seeds, width, out)
    wrong = fresh.wrong(rows)
    print(*wrong, f"{len(rows) - len(wrong)} of {len(rows)} fresh networks are called untrained", sep="\n")
    return int(bool(wrong))


def _trained(recipes: Sequence[str], seed: int, out: Path, data: Sequence[str], data_root: Path | None) -> int:
    names, sources = recipes or trained.short_recipes(), _pairs(data)
    whole = []
    for row in trained.verify_trained(names, out, seed=seed, sources=sources, data_root=data_root):
        print(f"{row['recipe']}, seed {row['seed']}, top-1 {row['top1']:.1%}: {row['summary']}", flush=True)
        whole.append(trained.is_whole(row))
    print(f"{sum(whole)} of {len(whole)} trained networks are called trained and whole")
    return int(not all(whole))


def _faults(
    networks: Sequence[str], donor: Sequence[str], data: Sequence[str], data_root: Path | None, out: Path
) -> int:
    donors, sources = _pairs(donor), _pairs(data)
    columns = [
        faults.Column(name, Path(model), Path(donors[name]) if name in donors else None, sources.get(name))
        for name, model in _pairs(networks).items()
    ]
    healthy = True
    for column in faults.measure_faults(columns, out, data_root=data_root):
        cells = {title: faults.in_words(row) for title, row in column["faults"].items()}
        print(column["name"], *(f"  {title}: {cell}" for title, cell in cells.items()), sep="\n", flush=True)
        healthy = healthy and cells[faults.NO_FAULT] == "consistent"
    return int(not healthy)


def _keep(kind: str, folder: Path) -> int:
    print(kept.keep(kind, folder))
    return 0


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Name → value. Raises ``UserError`` for a text without ``=``."""
    for text in texts:
        if "=" not in text:
            raise UserError(f"{text}: write NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


if __name__ == "__main__":
    sys.exit(main())
