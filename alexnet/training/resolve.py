"""Which recipe and which images a person means, by what was said and by what the images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet.config import Recipe, override
from alexnet.core.errors import UserError
from alexnet.data.prepared import natural_side
from alexnet.data.sources import BUILTIN_SOURCES, Log, Source, open_source
from alexnet.recipes import DEFAULT, RECIPES, get_recipe

SMALLEST_SMALL_SIDE, LARGEST_SMALL_SIDE = 28, 64  # what the variant `small` is made for


def choose(
    recipe: Recipe | str | None, data: Path | str | None, overrides: Sequence[str], root: Path | None, log: Log
) -> tuple[Source, Recipe]:
    """The source and the recipe meant; with data alone, the recipe for photographs or for small images."""
    if recipe is None and data is not None:
        source = open_source(str(data), root, log)
        recipe = override(recipe_for(natural_side(source)), overrides)
    else:
        if isinstance(recipe, str) and (Path(recipe) / "run.json").is_file():
            raise UserError(
                f"{recipe!r} is a run, not a recipe: to continue it give its own command and --out {recipe}"
            )
        if isinstance(recipe, str) and recipe not in RECIPES and (recipe in BUILTIN_SOURCES or Path(recipe).exists()):
            raise UserError(f"{recipe!r} is no recipe but images to train on: write --data {recipe}")
        recipe = get_recipe(recipe or DEFAULT) if not isinstance(recipe, Recipe) else recipe
        recipe = override(recipe, overrides)
        if not (data or recipe.data.source):
            raise UserError(f"recipe {recipe.name!r} trains on images of your own: give --data FOLDER")
        source = open_source(str(data or recipe.data.source), root, log)
    return source, replace(recipe, data=replace(recipe.data, source=str(data or recipe.data.source)))


def recipe_for(side: int) -> Recipe:
    """The recipe for a folder whose images are kept at ``side`` pixels: small ones are seen as they are.

    Those in between are cropped in the proportion of photographs, 7/8 of the side, and enlarged.
    """
    if side > LARGEST_SMALL_SIDE:
        recipe = get_recipe("photos")
        crop = side * 7 // 8
        return replace(recipe, augment=replace(recipe.augment, crop=crop))
    recipe = get_recipe("photos-small")
    return replace(recipe, data=replace(recipe.data, image_size=max(SMALLEST_SMALL_SIDE, side)))
