"""``alexnet distance``: two images, two folders, all pairs; what is refused costs one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.cli.main import main
from alexnet.models.bundle import save_model
from alexnet.models.registry import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and two folders of photographs of one size, and a smaller one."""
    root = tmp_path_factory.mktemp("distance")
    save_model(create_model("small", in_channels=3, width=0.25, seed=0), root / "model")
    pictures = [Image.fromarray(image[100:148, 200:264]) for image in load_sample_images().images]
    for name in ("a", "b"):
        (root / name).mkdir()
        for number, picture in enumerate(pictures):
            picture.rotate(3 * (name == "b")).save(root / name / f"{number}.png")
    pictures[0].resize((40, 40)).save(root / "small.png")
    return root


def run(folder, *words, capsys):
    before = Path.cwd()
    os.chdir(folder)
    try:
        status = main(["distance", "model", *words])
    finally:
        os.chdir(before)
    printed = capsys.readouterr()
    return status, printed.out, [line for line in printed.err.splitlines() if line.startswith("alexnet:")]


def test_two_images(folder, capsys):
    status, out, errors = run(folder, "a/0.png", "b/0.png", capsys=capsys)
    assert (status, errors) == (0, [])
    line, heads = out.splitlines()
    assert float(line.split()[0]) > 0
    assert line.split()[1:] == ["a/0.png", "b/0.png"]
    assert heads == "heads: uniform, a weight of 1 for each channel, so these are not LPIPS's own distances"


def test_two_folders_compare_images_of_one_name(folder, capsys):
    _, out, _ = run(folder, "a", "b", "--json", capsys=capsys)
    found = json.loads(out)
    pairs = [(pair["first"], pair["second"]) for pair in found["pairs"]]
    assert pairs == [("a/0.png", "b/0.png"), ("a/1.png", "b/1.png")]
    assert found["mean"] == pytest.approx(np.mean([pair["distance"] for pair in found["pairs"]]))
    assert found["heads"] == "uniform"


def test_the_matrix_has_each_pair_once(folder, capsys):
    _, out, _ = run(folder, "a", "--matrix", "--csv", capsys=capsys)
    assert [line.rpartition(",")[0] for line in out.splitlines()] == ["first,second", "a/0.png,a/1.png"]
    _, out, _ = run(folder, "a", "b", "--matrix", "--csv", capsys=capsys)
    assert len(out.splitlines()) == 1 + 4


def test_a_pair_of_two_sizes_is_an_error_and_the_others_follow(folder, capsys):
    status, out, errors = run(folder, "small.png", "a", "--matrix", "--csv", capsys=capsys)
    assert status == 2
    assert len(errors) == 1
    assert "images of 40 × 40 and 64 × 48 pixels are not compared" in errors[0]
    assert out.splitlines()[1:] == ["small.png,a/0.png,", "small.png,a/1.png,"]
    status, out, errors = run(folder, "small.png", "a", "--matrix", "--resize", capsys=capsys)
    assert (status, errors) == (0, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a/0.png"], "one path is given"),
        (["a/0.png", "b"], "a/0.png and b are a file and a folder"),
        (["a", "model"], "a and model have no image with the same name"),
        (["a/0.png", "--matrix"], "a/0.png has fewer than two images"),
        (["a/0.png", "b/0.png", "--heads", "small.png"], "small.png is not LPIPS's heads"),
        (["a/0.png", "absent.png"], "absent.png: cannot be read"),
        (["a", "b", "--csv", "--json"], "give one of them"),
    ],
)
def test_a_mistake_costs_one_line(words, message, folder, capsys):
    status, _, errors = run(folder, *words, capsys=capsys)
    assert status == 2
    assert len(errors) == 1
    assert message in errors[0]
