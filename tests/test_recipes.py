"""Recipes by name, from the JSON files of users, and from the entry points of other installed packages."""

import importlib
import json
import sys
from dataclasses import replace

import pytest

from alexnet.core.errors import UserError
from alexnet.core.plugins import entry_points_of
from alexnet.core.schema import to_json
from alexnet.recipes import RECIPES, get_recipe, installed_recipes, is_recipe

MODULE = """
from alexnet.config import Claim, DataSpec, Recipe
VALUE = Recipe("theirs", data=DataSpec(source="cifar10"), claim=Claim(source="another package"))
def build(): return Recipe("built")
def fail(): raise RuntimeError("no luck\\nand a second line")
def leave(): raise SystemExit(3)
OTHER = Recipe("another-name")
NUMBER = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with entry points on ``sys.path``, as pip would."""

    def put(package, points, module=MODULE, group="alexnet.recipes"):
        name = package.replace("-", "_")
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{entry} = {target}" for entry, target in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        (tmp_path / f"{name}.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return put


def line_of(name):
    with pytest.raises(UserError) as caught:
        get_recipe(name)
    return caught.value.line


def test_recipes_by_name():
    assert get_recipe("photos") is RECIPES["photos"]
    assert line_of("photoss") == "unknown recipe 'photoss': did you mean 'photos'?"
    assert is_recipe("photos")
    assert not is_recipe("photoss")
    assert next(iter(RECIPES)) == "small-digits"
    assert len(RECIPES) == 39


# JSON files


def test_a_recipe_from_a_json_file(tmp_path, monkeypatch):
    recipe = replace(get_recipe("small-digits"), name="mine")
    path = tmp_path / "my-recipe.json"
    path.write_text(json.dumps(to_json(recipe)))
    assert get_recipe(str(path)) == recipe
    monkeypatch.chdir(tmp_path)
    assert get_recipe("./my-recipe.json") == get_recipe("my-recipe.json") == recipe
    assert is_recipe("my-recipe.json")
    path.write_text('{"name": "short", "optim": {"rate": 0.5}}')  # an earlier name
    assert get_recipe("my-recipe.json").optim.lr == 0.5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", "r.json is not a JSON file: "),
        (b"{", "r.json is not a JSON file: "),
        (b"\xff\xfe", "r.json is not a JSON file: "),
        (b"[" * 100_000, "r.json is not a JSON file: the value is nested too deeply"),
        (b"[]", "r.json: Recipe = [] is not a set of fields"),
        (b"{}", "r.json: Recipe is incomplete: it lacks 'name'"),
        (b'{"name": "x", "optim": {"ratte": 1}}', "r.json: unknown field 'optim.ratte': did you mean 'optim.lr'?"),
        (b'{"name": "x", "train": {"epochs": 0}}', "r.json: train.epochs = 0 is not a whole number of at least 1"),
        (b'{"name": "x", "optim": {"lr": Infinity}}', "r.json: optim.lr = inf is not a number of at least 0"),
        (b'{"name": "x", "optim": {"schedule": "step"}}', "r.json: optim.schedule=step has no milestones"),
        (b'{"name": "../x"}', "r.json: name = '../x' may hold only letters, digits, '.', '_' and '-'"),
        (b'{"name": ""}', "r.json: name = '' may hold only"),
    ],
)
def test_a_wrong_json_file_costs_one_line(tmp_path, monkeypatch, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_bytes(text)
    found = line_of("r.json")
    assert found.startswith(line)
    assert "\n" not in found


def test_a_json_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line_of("./my.json") == "there is no file ./my.json"
    (tmp_path / "folder.json").mkdir()
    assert line_of("folder.json") == "there is no file folder.json"
    assert line_of("x" * 5000 + ".json").startswith("there is no file")
    assert line_of("a\0.json").startswith("there is no file")


# Other packages


def test_recipes_of_an_installed_package(install):
    install("their-recipes", {"theirs": "their_recipes:VALUE", "built": "their_recipes:build"})
    assert get_recipe("theirs").claim.source == "another package"
    assert get_recipe("built").name == "built"
    assert list(installed_recipes()) == ["built", "theirs"]
    assert is_recipe("theirs")
    assert line_of("their") == "unknown recipe 'their': did you mean 'theirs'?"


def test_a_broken_entry_names_its_package_and_breaks_no_other(install):
    targets = {
        "theirs": "broken_recipes:VALUE", "fail": "broken_recipes:fail", "leave": "broken_recipes:leave",
        "missing": "broken_recipes:NOTHING", "number": "broken_recipes:NUMBER", "alias": "broken_recipes:OTHER",
    }  # fmt: skip
    install("broken-recipes", targets)
    install("worse-recipes", {"worse": "worse_recipes:VALUE"}, module="import nothing_of_this_name")
    install("odd-recipes", {"odd": "odd_recipes:VALUE"}, module="this is no Python")
    assert get_recipe("theirs").name == "theirs"
    assert get_recipe("photos") is RECIPES["photos"]
    where = "(entry point alexnet.recipes of the package broken-recipes)"
    assert line_of("fail") == f"'fail' {where} cannot be loaded: RuntimeError: no luck"
    assert line_of("leave") == f"'leave' {where} cannot be loaded: SystemExit: 3"
    assert line_of("missing").startswith(f"'missing' {where} cannot be loaded: AttributeError: ")
    assert line_of("number") == f"'number' {where} is of type int, not a Recipe or a function that returns one"
    assert line_of("alias").endswith("has a recipe of another name, 'another-name'")
    assert "worse-recipes" in line_of("worse")
    assert "No module named 'nothing_of_this_name'" in line_of("worse")
    assert "odd-recipes" in line_of("odd")
    assert "SyntaxError" in line_of("odd")
    lines = []
    usable = installed_recipes().usable(lines.append)
    assert list(usable) == ["alias", "theirs"]
    assert len(lines) == 6
    assert not any("\n" in line for line in lines)


def test_two_packages_with_one_name(install):
    install("first-recipes", {"same": "first_recipes:VALUE"})
    install("second-recipes", {"same": "second_recipes:VALUE"})
    assert line_of("same") == (
        "'same' (entry point alexnet.recipes of the packages first-recipes and second-recipes) is declared twice: "
        "uninstall one of them"
    )


def test_no_package_changes_a_recipe_of_this_one(install):
    install("their-recipes", {"photos": "their_recipes:fail"})
    assert get_recipe("photos") is RECIPES["photos"]


def test_names_are_listed_without_an_import(install):
    install("lazy-recipes", {"lazy": "lazy_recipes:VALUE"}, group="alexnet.test")
    points = entry_points_of("alexnet.test")
    assert list(points) == ["lazy"]
    assert "lazy" in points
    assert "other" not in points
    assert "lazy_recipes" not in sys.modules
    assert points["lazy"].name == "theirs"
    assert "lazy_recipes" in sys.modules
    with pytest.raises(KeyError):
        points["other"]
    assert len(entry_points_of("alexnet.none")) == 0
