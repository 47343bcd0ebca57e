"""The worked examples of CONTRIBUTING.md: each block is taken from the page and does what the page says."""

import importlib
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.sources import registry as sources
from alexnet.models import registry, variants
from alexnet.models.registry import create_model, installed_variants, list_models
from alexnet.recipes import digits, get_recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def block(language, opening):
    """The one block of a language that begins with these words."""
    (found,) = [text for kind, text in BLOCKS if kind == language and text.startswith(opening)]
    return found


def run(text, names):
    """Execute a block as a part of the module that has these names, and return them."""
    names = dict(names)
    exec(compile(text, "CONTRIBUTING.md", "exec"), names)
    return names


def row(text, names):
    """The (key, value) of a block that is one row of a dictionary."""
    ((key, value),) = eval("{" + text.split("\n", 1)[1] + "}", dict(names)).items()
    return key, value


def logits(network):
    network.eval()
    with torch.no_grad():
        return network(torch.zeros(2, network.in_channels, network.image_size, network.image_size))


def check_zfnet(name):
    network = create_model(name, num_classes=7, width=0.1, seed=0)
    assert logits(network).shape == (2, 7)
    shapes = {layer: tuple(shape[-2:]) for layer, shape in network.layer_shapes().items() if layer.startswith("pool")}
    assert shapes == {"pool1": (55, 55), "pool2": (13, 13), "pool5": (6, 6)}  # as in figure 3 of the paper
    assert network.conv1.kernel_size == (7, 7)


def test_a_variant_is_one_row(monkeypatch):
    names = run(block("python", "# alexnet/models/variants.py: above VARIANTS"), vars(variants))
    name, variant = row(block("python", "# alexnet/models/variants.py: a row"), names)
    monkeypatch.setitem(registry.VARIANTS, name, variant)
    assert name in list_models("zf*")
    check_zfnet(name)


def test_a_recipe_is_one_value():
    text = block("python", "# alexnet/recipes/digits.py")
    (recipe,) = eval("(" + text.split("\n", 1)[1] + ")", {**vars(digits), **run("from dataclasses import replace", {})})
    assert recipe.optim.schedule == "cosine"
    variants.VARIANTS[recipe.model.variant]


def test_a_recipe_from_a_json_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-recipe.json").write_text(block("json", "{"), encoding="utf-8")
    recipe = get_recipe("./my-recipe.json")
    assert (recipe.name, recipe.model.width, recipe.optim.milestones) == ("my-recipe", 0.5, (5.0, 8.0))
    assert "alexnet train ./my-recipe.json" in PAGE


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    project = tomllib.loads(block("toml", "# pyproject.toml of your package"))["project"]
    folder = tmp_path / "my_alexnets-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "my_alexnets.py").write_text(block("python", "# my_alexnets.py"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    installed_variants.cache_clear()
    yield
    installed_variants.cache_clear()
    sys.modules.pop("my_alexnets", None)


@pytest.mark.usefixtures("_installed")
def test_another_package_adds_variants_and_recipes():
    assert "my-zfnet" in list_models()
    assert "my_alexnets" not in sys.modules  # names alone import nothing
    recipe = get_recipe("my-zfnet-cifar10")
    assert recipe.model.variant == "my-zfnet"
    check_zfnet(recipe.model.variant)


def test_a_source_is_one_file_and_one_row(monkeypatch, tmp_path):
    names = run(block("python", "# alexnet/data/sources/stripes.py"), {"__name__": "alexnet.data.sources.stripes"})
    name, source_row = row(block("python", "# alexnet/data/sources/registry.py"), {**vars(sources), **names})
    monkeypatch.setitem(sources.BUILTIN_SOURCES, name, source_row)
    source = sources.open_source(name)
    records = list(source.records())
    assert len(records) == source.count == 200
    assert [record.split for record in records].count("test") == 40
    assert records[0].payload.shape == source.pixel_shape
    again = list(source.records())
    assert all(np.array_equal(a.payload, b.payload) and a.label == b.label for a, b in zip(records, again, strict=True))
    horizontal, vertical = records[0].payload[..., 0], records[1].payload[..., 0]
    assert (records[0].label, records[1].label) == (0, 1)
    assert (horizontal[1] > horizontal[0]).all()
    assert (vertical[:, 1] > vertical[:, 0]).all()
