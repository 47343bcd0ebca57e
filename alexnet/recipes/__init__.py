"""The named recipes: each is a complete training with its claim.

One module holds the recipes of one data set. A claim states what the source reports and what the training costs; what
was measured is kept with the results. Other packages add recipes by entry points of the group ``alexnet.recipes``, and
a recipe can be read from a JSON file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from alexnet.config import Recipe, differences
from alexnet.core.errors import UserError, unknown
from alexnet.core.files import read_json
from alexnet.core.plugins import EntryPoints, entry_points_of
from alexnet.core.schema import from_json
from alexnet.recipes import cifar10, detection, digits, fashion_mnist, imagenet, photos, segmentation, tiny_imagenet
from alexnet.recipes.photos import fitted

_MODULES = (digits, fashion_mnist, cifar10, tiny_imagenet, imagenet, photos, segmentation, detection)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for module in _MODULES for recipe in module.RECIPES}

DEFAULT = "small-digits"
GROUP = "alexnet.recipes"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # the run folder has the name of the recipe


def get_recipe(name: str) -> Recipe:
    """The recipe of this name; of an installed package, if none here has it; or of an existing file ``NAME.json``.

    The file holds what ``to_json`` writes, as does ``recipe`` in a run's ``run.json``; fields that it lacks have their
    defaults. Raises ``UserError`` that names the nearest recipe if there is none, or says what is wrong with the file.
    """
    if name in RECIPES:
        return RECIPES[name]
    if is_recipe_file(name):
        return _read_recipe(Path(name))
    installed = installed_recipes()
    if name in installed:
        recipe = installed[name]
        if recipe.name != name:
            raise UserError(f"the entry point {name!r} of {GROUP} has a recipe of another name, {recipe.name!r}")
        return recipe
    if name.endswith(".json"):
        raise UserError(f"there is no file {name}")
    raise unknown("recipe", name, [*RECIPES, *installed])


def is_recipe(name: str) -> bool:
    """Whether ``get_recipe`` knows this name or file. Imports no other package."""
    return name in RECIPES or is_recipe_file(name) or name in installed_recipes()


def is_recipe_file(name: str) -> bool:
    """Whether ``name`` is the path of an existing file that ends in ``.json``."""
    try:
        return name.endswith(".json") and Path(name).is_file()
    except (OSError, ValueError):  # a name that the system does not take as a path
        return False


def installed_recipes() -> EntryPoints[Recipe]:
    """The recipes of other installed packages, by name; each is imported when it is looked up."""
    return entry_points_of(GROUP, Recipe)


def _read_recipe(path: Path) -> Recipe:
    try:
        recipe = from_json(Recipe, read_json(path))
    except UserError as error:
        raise UserError(f"{path}: {error.line}", error.details) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file: {error}") from error
    if not _NAME.fullmatch(recipe.name):
        raise UserError(f"{path}: name = {recipe.name!r} may hold only letters, digits, '.', '_' and '-'")
    return recipe


def differences_from_named(recipe: Recipe, side: int | None = None) -> list[tuple[str, object, object]] | None:
    """The ``differences`` between the recipe of this name in the table and ``recipe``; None if there is none.

    ``side``: of the prepared images, in pixels. Settings that a recipe for the user's own images takes from ``side``
    are not differences.
    """
    if recipe.name not in RECIPES:
        return None
    named = RECIPES[recipe.name]
    return differences(fitted(named, side) if side else named, recipe)
