"""``alexnet list``: variants, recipes with claim, cost and what was measured, built-in sources."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable

from alexnet.cli.console import print_json
from alexnet.data.sources import BUILTIN_SOURCES
from alexnet.models.variants import VARIANTS
from alexnet.recipes import RECIPES
from alexnet.report.tables import table
from alexnet.runtime.device import hardware_name
from alexnet_lab.claims.claim_result import Results, divergence, results_folder
from alexnet_lab.claims.training import shares
from alexnet_lab.experiments.registry import EXPERIMENTS


def main(arguments: argparse.Namespace) -> int:
    """Print one list or all three."""
    wanted = [arguments.what] if arguments.what else ["variants", "recipes", "sources"]
    if arguments.json:
        lists = {"variants": _variants(), "recipes": _recipes(), "sources": _sources()}
        print_json({name: lists[name] for name in wanted})
        return 0
    texts: dict[str, Callable[[], str]] = {
        "variants": lambda: table(("variant", "what it is"), [(name, row.source) for name, row in VARIANTS.items()]),
        "recipes": _recipe_text,
        "sources": lambda: table(("source", "what it is"), list(_sources().items())),
    }
    print("\n\n".join(texts[name]() for name in wanted))
    return 0


def _sources() -> dict[str, str]:
    return {name: source.about for name, source in BUILTIN_SOURCES.items()}


def _variants() -> dict[str, dict[str, object]]:
    return {
        name: {"source": row.source, "num_classes": row.num_classes, "in_channels": row.in_channels}
        for name, row in VARIANTS.items()
    }


def _recipes() -> dict[str, dict[str, object]]:
    results = Results(results_folder())
    return {name: {**dataclasses.asdict(recipe), "status": status(name, results)} for name, recipe in RECIPES.items()}


def status(recipe: str, results: Results) -> str:
    """What was measured of a recipe, in a line; of one that was not run to its end, what was of it."""
    runs = results.runs(recipe)
    if not runs:
        shorter = [e.name for e in EXPERIMENTS.values() if e.recipe == recipe and results.runs(e.name)]
        parts = [f"{name} {shares([run['top1'] for run in results.runs(name)])}" for name in shorter]
        begun = f"not run to its end; of it: {', '.join(parts)}" if parts else "not run to its end"
        return divergence(results, recipe) or begun
    device_config, seconds = hardware_name(runs[0]["hardware"]), statistics.median(run["seconds"] for run in runs)
    return f"{shares([run['top1'] for run in runs])} on test, {seconds:,.0f} s on {device_config}"


def _recipe_text() -> str:
    results = Results(results_folder())
    lines = ["recipes (alexnet train NAME)"]
    for name, recipe in RECIPES.items():
        claim = recipe.claim
        lines += [
            f"  {name}",
            f"      from   {claim.source}",
            f"      claims {claim.expects}",
            f"      costs  {claim.cost}",
            f"      status {status(name, results)}",
        ]
    return "\n".join(lines)
