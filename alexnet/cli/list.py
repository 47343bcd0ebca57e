"""``alexnet list``: variants; recipes with source, claim, cost and measured accuracy; built-in sources; weights."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.resources
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet.cli.console import print_json
from alexnet.core.files import size_in_words
from alexnet.core.names import printable_lines
from alexnet.data.sources import BUILTIN_SOURCES
from alexnet.models.variants import VARIANTS
from alexnet.recipes import RECIPES
from alexnet.report.tables import table
from alexnet.weights.zoo import SHORT, IncludedWeights, find, list_weights


def main(arguments: argparse.Namespace) -> int:
    """Print one list or all of them."""
    wanted = [arguments.what] if arguments.what else ["variants", "recipes", "sources", "weights"]
    weights = _weights(arguments.weights_root) if "weights" in wanted else {}
    if arguments.json:
        lists = {"variants": _variants(), "recipes": _recipes(), "sources": _sources(), "weights": weights}
        print_json({name: lists[name] for name in wanted})
        return 0
    texts: dict[str, Callable[[], str]] = {
        "variants": lambda: table(("variant", "what it is"), [(name, row.source) for name, row in VARIANTS.items()]),
        "recipes": _recipe_text,
        "sources": lambda: table(("source", "what it is"), list(_sources().items())),
        "weights": lambda: _weights_text(weights),
    }
    print("\n\n".join(texts[name]() for name in wanted))
    return 0


def _sources() -> dict[str, str]:
    return {name: source.about for name, source in BUILTIN_SOURCES.items()}


def _weights(weights_root: Path | None) -> dict[str, dict[str, object]]:
    rows = {}
    for name, row in list_weights().items():
        found = find(name, weights_root)
        file = {} if isinstance(row, IncludedWeights) else {"file": row.file}
        rows[name] = {**dataclasses.asdict(row), **file, "found": None if found is None else str(found)}
    return rows


def _weights_text(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["weights (a MODEL for every command; published files are downloaded when first used)"]
    short = {name: f" (short: {alias})" for alias, name in SHORT.items()}
    for name, row in rows.items():
        top5 = f", top-5 {row['top5']:.1f} %" if "top5" in row else ""
        lines += [
            f"  {name}{short.get(name, '')}",
            f"      accuracy  top-1 {row['top1']:.1f} %{top5}: {row['measured']}",
            f"      licence   {row['licence']}",
        ]
        if "address" in row:
            lines.append(f"      address   {row['address']}")
            lines.append(f"      file      {row['found'] or 'not on this computer'}, {size_in_words(row['bytes'])}")
        else:
            lines.append(f"      file      included in this package; trained by the recipe {row['recipe']}")
    return printable_lines("\n".join(lines))


def measured_recipes() -> dict[str, dict[str, Any]]:
    """Recipe → its measured results, from ``alexnet/recipes/measured.json``, which ``alexnet_lab`` writes."""
    text = importlib.resources.files("alexnet.recipes").joinpath("measured.json").read_text(encoding="utf-8")
    measured: dict[str, dict[str, Any]] = json.loads(text)
    return measured


def describe_measured(measured: Mapping[str, Any]) -> str:
    """One entry of :func:`measured_recipes` as a line."""
    if "top1" not in measured:
        shorter = [f"{training} {_accuracy(accuracy)}" for training, accuracy in measured["shortened"].items()]
        rest = f"; shorter trainings: {', '.join(shorter)}" if shorter else ""
        return measured["diverged"] or f"not trained to its end{rest}"
    outcome = {True: ", as expected", False: ", not as expected", None: ""}[measured["as_expected"]]
    machine = f"{measured['machine']}, {measured['precision']}, {measured['matrix_gflops']:,} GFLOP/s"
    return f"{_accuracy(measured)} on test{outcome}; {measured['seconds']:,.0f} s on {machine}"


def _accuracy(measured: Mapping[str, Any]) -> str:
    top1, seeds = measured["top1"], measured["seeds"]
    spread = f"{top1['lowest']:.2%} – {top1['highest']:.2%}, {seeds} seeds" if seeds > 1 else "1 seed"
    return f"{top1['mean']:.2%} ({spread})"


def _variants() -> dict[str, dict[str, object]]:
    return {
        name: {"source": row.source, "num_classes": row.num_classes, "in_channels": row.in_channels}
        for name, row in VARIANTS.items()
    }


def _recipes() -> dict[str, dict[str, object]]:
    measured = measured_recipes()
    return {
        name: {
            **dataclasses.asdict(recipe),
            "status": describe_measured(measured[name]),
            "measured": measured[name],
        }
        for name, recipe in RECIPES.items()
    }


def _recipe_text() -> str:
    lines, measured = ["recipes (alexnet train NAME)"], measured_recipes()
    for name, recipe in RECIPES.items():
        claim = recipe.claim
        lines += [
            f"  {name}",
            f"      source    {claim.source}",
            f"      claims    {claim.expects}",
            f"      costs     {claim.cost}",
            f"      measured  {describe_measured(measured[name])}",
        ]
    return "\n".join(lines)
