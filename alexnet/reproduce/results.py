"""Measured trainings as JSON, and the README's table made from them.

``python -m alexnet.reproduce.results keep RUN…`` puts finished runs of one recipe into one file of ``results/``, named
by recipe, hardware and date; ``… table`` rewrites the table in ``README.md``. A test fails when the two drift apart.
"""

from __future__ import annotations

import argparse
import datetime
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, difference
from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_bytes, write_json
from alexnet.core.typed import from_json, to_json
from alexnet.recipes import RECIPES
from alexnet.runtime.run import Run

RESULTS = Path("results")
README = Path("README.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PER_RUN = (
    "seed", "split", "views", "top1", "top5", "loss", "images", "splits", "steps", "seconds", "images_per_second",
    "matrix_gflops", "hardware", "per_class", "calibration_error", "kept_epoch", "last_steps",
    "active_units", "kernels",
)  # fmt: skip


def keep(folders: Sequence[Path], note: str = "") -> Path:
    """Write the finished runs of one recipe to one file of ``results/`` and return its path. Raises ``UserError``."""
    runs = [Run(folder) for folder in folders]
    recipe = runs[0].recipe
    if any(to_json(run.recipe) != to_json(recipe) for run in runs):
        raise UserError("these runs are not of one recipe: keep each recipe's runs by themselves")
    results = [run.result for run in runs]
    source = results[0]["source"]
    value = {
        "recipe": to_json(replace(recipe, data=replace(recipe.data, source=source))),  # a path is nobody else's matter
        "departs_from_the_named_recipe": _departs(recipe),
        "source": source,
        "note": note,
        "commit": _commit(runs),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "runs": [
            {**{name: result[name] for name in PER_RUN if name in result}, "epochs": _epochs(run)}
            for run, result in zip(runs, results, strict=True)
        ],
    }
    hardware = re.sub(r"[^a-z0-9]+", "-", results[0]["hardware"]["hardware"].lower()).strip("-")
    path = RESULTS / f"{recipe.name}_{source}_{hardware}_{value['date']}.json"
    write_json(path, value)
    return path


def _departs(recipe: Recipe) -> str | None:
    """The first field in which a recipe trains differently from the one of that name; None if none, or no such name."""
    named = RECIPES.get(recipe.name)
    return difference(named, recipe) if named else None


def _epochs(run: Run) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if "train_loss" in line]


def _commit(runs: Sequence[Run]) -> str:
    """The one commit that trained all of these. Raises ``UserError`` where that cannot be said."""
    commits = {run.description.get("commit") for run in runs}
    (commit,) = commits if len(commits) == 1 else (None,)
    if not isinstance(commit, str) or commit.endswith("-changed"):
        raise UserError("results name one commit: train all runs from the same clean checkout of the project")
    return commit


def table(folder: Path = RESULTS) -> str:
    """The README's table: a row for each file of ``results/``, by recipe."""
    lines = [
        "| recipe, on | test top-1, mean (lowest – highest) of seeds | claimed | seconds | images/s | where |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(read_json(path)) for path in sorted(folder.glob("*_*.json")))])


def _row(value: dict[str, Any]) -> str:
    recipe, runs = from_json(Recipe, value["recipe"]), value["runs"]
    claim = (
        RECIPES[recipe.name].claim if recipe.name in RECIPES else recipe.claim
    )  # today's words for the same training
    top1 = [run["top1"] for run in runs]
    spread = f" ({min(top1):.2%} – {max(top1):.2%})" if len(runs) > 1 else ""
    rate = statistics.median(run["matrix_gflops"] for run in runs)
    where = f"{runs[0]['hardware']['hardware']}, {runs[0]['hardware']['precision']}, {rate:,.0f} GFLOP/s"
    claimed = "–" if claim.top1 is None else " – ".join(f"{share:.0%}" for share in claim.top1)
    name = f"`{recipe.name}`, {value['source']}" + (f", {value['note']}" if value["note"] else "")
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    measured = f"{statistics.mean(top1):.2%}{spread}, {seeds}"
    seconds = f"{statistics.median(run['seconds'] for run in runs):,.0f}"
    speed = f"{statistics.median(run['images_per_second'] for run in runs):,.0f}"
    return f"| {name} | {measured} | {claimed} | {seconds} | {speed} | {where} |"


def rewrite_readme(readme: Path = README, folder: Path = RESULTS) -> None:
    """Put the table between its two marks. Raises ``UserError`` if the marks are not there."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{readme} has no place for the table: it needs the lines {BEGIN} and {END}")
    write_bytes(readme, f"{before}{begin}\n{table(folder)}\n{end}{after}".encode())


def main(words: Sequence[str] | None = None) -> int:
    """``keep RUN…`` or ``table``, in the project's root."""
    parser = argparse.ArgumentParser(prog="python -m alexnet.reproduce.results", description="Keep results; show them.")
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", help="put finished runs of one recipe into results/")
    keeping.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    keeping.add_argument("--note", default="", help="what a reader of the table must know, in a few words")
    commands.add_parser("table", help="rewrite the README's table from results/")
    arguments = parser.parse_args(words)
    try:
        if arguments.command == "keep":
            print(keep(arguments.runs, arguments.note))
        rewrite_readme()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
