"""Which recipe and which source a training uses, from what the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import NO_INIT, Recipe, override
from alexnet.core.errors import UserError
from alexnet.data.prepared import natural_side
from alexnet.data.sources import BUILTIN_SOURCES, Log, Source, open_source
from alexnet.recipes import DEFAULT, get_recipe, is_recipe
from alexnet.recipes.photos import PHOTOS_TRANSFER, fitted, is_for_own_images, recipe_for
from alexnet.training.datasets import ANNOTATIONS
from alexnet.training.transfer import absolute_model


def resolve(
    recipe: Recipe | str | None,
    data: Path | str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    data_root: Path | None,
    log: Log,
    labels: Sequence[Path] = (),
    init: Path | str | None = None,
) -> tuple[Source, Recipe]:
    """The source to train on, and the recipe with its overrides and that source.

    ``recipe``: a ``Recipe``, a name, the path of a JSON file, or None. None means the default recipe, or with ``data``
    ``photos-transfer``; with ``init`` "none" the recipe from random weights for images of this size. ``log`` receives
    messages about downloads. ``labels``: files with the classes of the images in the folder ``data``. ``init``: the
    MODEL to start from, "none" for new weights, None for the recipe's. Raises ``UserError`` for an unknown recipe,
    source or override.
    """
    if isinstance(recipe, str):
        _check_recipe_name(recipe)
    if not isinstance(overrides, Mapping):
        overrides = list(overrides)
    init = requested_init(overrides, init)  # the recipe for photographs depends on it
    if recipe is None and data is not None:
        source = open_source(str(data), data_root, log, labels)
        side = natural_side(source)
        recipe = recipe_for(side) if init == NO_INIT else fitted(_starting_from(PHOTOS_TRANSFER, init), side)
    else:
        chosen = recipe if isinstance(recipe, Recipe) else get_recipe(recipe or DEFAULT)
        chosen = _starting_from(chosen, init)
        changed = override(chosen, overrides)  # a mistake in them is reported before a download
        if not (data or changed.data.source):
            raise UserError(f"recipe {chosen.name!r} trains on your own images: give --data FOLDER")
        annotations = ANNOTATIONS[changed.model.task]
        source = open_source(str(data or changed.data.source), data_root, log, labels, annotations)
        named = not isinstance(recipe, Recipe) and is_for_own_images(chosen)
        recipe = fitted(chosen, natural_side(source)) if named else chosen
    if not source.trainable:
        raise UserError(f"{source.location} has only images to evaluate on: add training images, in a folder train/")
    recipe = override(recipe, overrides)
    recipe = _starting_from(recipe, absolute_model(recipe.train.init))
    given = source.location if source.shards else str(data or recipe.data.source)  # an address may have a signature
    return source, replace(recipe, data=replace(recipe.data, source=given))


def requested_init(overrides: Sequence[str] | Mapping[str, Any], init: Path | str | None) -> str | None:
    """The MODEL to start from, as ``train.init`` holds it: of the overrides, else ``init``; None if neither has one."""
    given = overrides if isinstance(overrides, Mapping) else dict(each.partition("=")[::2] for each in overrides)
    asked = given.get("train.init", init)
    return None if asked is None else absolute_model(asked)


def _starting_from(recipe: Recipe, init: Path | str | None) -> Recipe:
    """The recipe with the weights ``init`` to start from; None: as it is."""
    return recipe if init is None else replace(recipe, train=replace(recipe.train, init=str(init)))


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
