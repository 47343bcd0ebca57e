"""``alexnet list``: variants, recipes with claim and cost, built-in sources."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

from alexnet.commands.console import print_json
from alexnet.data.sources import BUILTIN_SOURCES
from alexnet.model.variants import VARIANTS
from alexnet.recipes import RECIPES
from alexnet.visualize.tables import table


def main(arguments: argparse.Namespace) -> int:
    """Print one list or all three."""
    wanted = [arguments.what] if arguments.what else ["variants", "recipes", "sources"]
    if arguments.json:
        lists = {"variants": _variants(), "recipes": _recipes(), "sources": dict(BUILTIN_SOURCES)}
        print_json({name: lists[name] for name in wanted})
        return 0
    texts: dict[str, Callable[[], str]] = {
        "variants": lambda: table(("variant", "what it is"), [(name, row.source) for name, row in VARIANTS.items()]),
        "recipes": _recipe_text,
        "sources": lambda: table(("source", "what it is"), list(BUILTIN_SOURCES.items())),
    }
    print("\n\n".join(texts[name]() for name in wanted))
    return 0


def _variants() -> dict[str, dict[str, object]]:
    return {
        name: {"source": row.source, "num_classes": row.num_classes, "in_channels": row.in_channels}
        for name, row in VARIANTS.items()
    }


def _recipes() -> dict[str, dict[str, object]]:
    return {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()}


def _recipe_text() -> str:
    lines = ["recipes (alexnet train NAME)"]
    for name, recipe in RECIPES.items():
        claim = recipe.claim
        lines += [
            f"  {name}",
            f"      from   {claim.source}",
            f"      claims {claim.expects}",
            f"      costs  {claim.cost}",
        ]
    return "\n".join(lines)
