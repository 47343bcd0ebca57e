"""Which recipe and which source a training uses, from what the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import Recipe, override
from alexnet.core.errors import UserError
from alexnet.data.prepared import natural_side
from alexnet.data.sources import BUILTIN_SOURCES, Log, Source, open_source
from alexnet.recipes import DEFAULT, get_recipe, is_recipe

MIN_SMALL_SIDE, MAX_SMALL_SIDE = 28, 64  # pixels: the images that the variant `small` is made for


def resolve(
    recipe: Recipe | str | None,
    data: Path | str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    data_root: Path | None,
    log: Log,
) -> tuple[Source, Recipe]:
    """The source to train on, and the recipe with its overrides and that source.

    ``recipe``: a ``Recipe``, a name, the path of a JSON file, or None. None means the default recipe, or with ``data``
    the recipe for images of this size. ``log`` receives messages about downloads. Raises ``UserError`` for an unknown
    recipe, source or override.
    """
    if recipe is None and data is not None:
        source = open_source(str(data), data_root, log)
        recipe = override(recipe_for(natural_side(source)), overrides)
    else:
        if isinstance(recipe, str):
            _check_recipe_name(recipe)
        recipe = override(get_recipe(recipe or DEFAULT) if not isinstance(recipe, Recipe) else recipe, overrides)
        if not (data or recipe.data.source):
            raise UserError(f"recipe {recipe.name!r} trains on your own images: give --data FOLDER")
        source = open_source(str(data or recipe.data.source), data_root, log)
    if not source.trainable:
        raise UserError(f"{source.location} has no train/ with class folders: add it, or rename one of its folders")
    return source, replace(recipe, data=replace(recipe.data, source=str(data or recipe.data.source)))


def _check_recipe_name(name: str) -> None:
    """Raise ``UserError`` for a run or a source that was given as a recipe."""
    if is_recipe(name):
        return
    if (Path(name) / "run.json").is_file():
        raise UserError(
            f"{name!r} is a run, not a recipe: to resume it, repeat the command that started it with --out {name}"
        )
    if name in BUILTIN_SOURCES or Path(name).exists():
        raise UserError(f"{name!r} is not a recipe but a source of images: write --data {name}")


def recipe_for(side: int) -> Recipe:
    """The recipe for a folder of images that are prepared at ``side`` pixels.

    Up to 64 pixels it is ``photos-small``; the network's input has the size of the images, at least 28 pixels. Above 64
    pixels it is ``photos``, with crops of 7/8 of the side, which are resized to the network's input.
    """
    if side > MAX_SMALL_SIDE:
        recipe = get_recipe("photos")
        return replace(recipe, augment=replace(recipe.augment, crop=side * 7 // 8))
    recipe = get_recipe("photos-small")
    return replace(recipe, data=replace(recipe.data, image_size=max(MIN_SMALL_SIDE, side)))
