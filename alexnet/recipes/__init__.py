"""The named recipes: each a complete training with its claim, nothing inherited and nothing hidden.

A claim says what the source reports and what it costs; what was measured stands in ``results/``.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexnet.config import Recipe, differences
from alexnet.core.errors import unknown
from alexnet.recipes import cifar10, grey, imagenet, photos

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (*grey.RECIPES, *cifar10.RECIPES, *imagenet.RECIPES, *photos.RECIPES)
}

DEFAULT = "small-digits"


def get_recipe(name: str) -> Recipe:
    """A recipe by name. Raises ``UserError`` naming the nearest if there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def differences_from_named(recipe: Recipe) -> list[tuple[str, object, object]] | None:
    """How a recipe trains differently from the one of its name (see ``differences``); None if there is none."""
    return differences(RECIPES[recipe.name], recipe) if recipe.name in RECIPES else None
