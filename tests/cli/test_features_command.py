"""``alexnet features``: files, a table, JSON, and one line for each mistake."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import create_model, save_model
from alexnet.analysis.similarity import cka, correlation_distances
from alexnet.cli.main import main as cli
from alexnet.inference.feature_files import open_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A narrow ``torchvision`` network in ``model/``, three images and a text file in ``photos/``."""
    root = tmp_path_factory.mktemp("features")
    save_model(create_model("torchvision", width=0.125, num_classes=3, image_size=64, seed=0).eval(), root / "model")
    (root / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.png")
    (root / "photos" / "damaged.png").write_text("no image")
    return root


def command(capsys, *words):
    status = cli(["features", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_command_writes_and_prints(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["model", "photos", "--layers", "conv1,features.10", "--out", str(tmp_path / "F"), "--device", "cpu"]
    status, out, err = command(capsys, *words)
    assert status == 0
    lines = out.splitlines()
    assert lines[2].split() == ["conv1", "conv1", "4×8×15×15", "28.8", "kB"]
    assert lines[3].split()[:2] == ["features.10", "conv5"]
    assert lines[-1] == f"written to {tmp_path / 'F'}"
    assert "note: features.10 is conv5, before the ReLU; a hook on torchvision's own network sees relu5 there" in err
    assert "note: 1 of 4 images could not be read: their rows are NaN" in err
    status, out, err = command(capsys, *words, "--json", "--batch", "1")
    described = json.loads(out)
    assert status == 0
    assert described["path"] == str(tmp_path / "F")
    assert described["layers"]["features.10"]["layer"] == "conv5"
    assert described["chunk"] == 32
    assert "is already finished, 4 images" in err
    assert np.load(tmp_path / "F" / "conv1.npy", mmap_mode="r", allow_pickle=False).shape == (4, 8, 15, 15)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model", "photos", "--layers", "relu9", "--out", "F"], "unknown layer 'relu9': did you mean 'relu"),
        (["model", "photos", "--layers", "conv1"], "the following arguments are required: --out"),
        (["model", "photos", "--out", "F"], "the following arguments are required: --layers"),
        (["model", "nosuch", "--layers", "conv1", "--out", "F"], "unknown source 'nosuch'"),
        (["nosuch", "photos", "--layers", "conv1", "--out", "F"], "there is no file or folder nosuch"),
        (["model", "photos", "--layers", "conv1", "--out", "F.npy"], "--out F.npy: features are written to a folder"),
        (["model", "photos", "--layers", "conv1", "--out", " "], "--out is empty"),
        (["model", "photos", "--layers", "conv1", "--out", "photos"], "photos exists and holds no features"),
        (["model", "photos", "--layers", "conv1", "--out", "model/model.json/F"], "cannot write the features to"),
        (
            ["model", "photos", "--layers", "conv1", "--out", "F", "--untrained", "-1"],
            "--untrained -1: give a number from 0",
        ),
        (["model", "photos", "--layers", "conv1", "--out", "F", "--batch", "0"], "'0' is not a whole number of 1 or"),
        (["model", "photos", "--layers", "conv1", "--out", "F", "--device", "meta"], "device 'meta' cannot be used"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(place, monkeypatch, capsys, words, line):
    monkeypatch.chdir(place)
    before = sorted(os.walk("."))
    status, out, err = command(capsys, *words)
    assert status == 2
    assert out == ""
    assert line in err
    assert len([each for each in err.splitlines() if not each.startswith("  ")]) == 1
    assert sorted(os.walk(".")) == before


def test_rdm_and_cka(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "damaged.png").write_text("no image")
    words = ["model", str(tmp_path / "photos"), "--layers", "relu5,fc6", "--device", "cpu"]
    out = ["--out", str(tmp_path / "F"), "--untrained", "1"]
    status, printed, _ = command(capsys, *words, *out, "--rdm", "--cka", "--json")
    assert status == 0
    described = json.loads(printed)
    keys = ["relu5", "fc6", "untrained-0/relu5", "untrained-0/fc6"]
    assert list(described["rdm"]) == keys
    features = open_features(tmp_path / "F")
    for key, path in described["rdm"].items():
        matrix = np.load(path, allow_pickle=False)
        np.testing.assert_array_equal(matrix, correlation_distances(features[key]))
        assert Path(path).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert described["rdm"]["untrained-0/fc6"] == str(tmp_path / "F" / "untrained-0" / "rdm-fc6.npy")
    assert [(pair["a"], pair["b"]) for pair in described["cka"]] == list(itertools.combinations(keys, 2))
    for pair in described["cka"]:
        assert pair["cka"] == pytest.approx(cka(features[pair["a"]], features[pair["b"]]))
        unbiased = cka(features[pair["a"]], features[pair["b"]], unbiased=True)
        assert pair["cka_unbiased"] == pytest.approx(unbiased)
    status, printed, _ = command(capsys, *words, "--out", str(tmp_path / "G"), "--cka", str(tmp_path / "F"))
    assert status == 0
    lines = printed.splitlines()
    first = next(line for line in lines if line.startswith("relu5") and "F/relu5" in line)
    assert first.split()[-2:] == ["1.000", "1.000"]
    assert sum("F/" in line for line in lines if "/F/" in line and "written" not in line) == 8


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out", "F.npz", "--rdm"], "--rdm writes files beside the features: give a folder with --out"),
        (["--out", "F", "--cka"], "CKA compares two arrays: give several --layers, or --cka FEATURES of another model"),
        (["--out", "F", "--cka", "photos"], "photos was not written by alexnet features"),
        (["--out", "F", "--cka", "OTHER"], "OTHER and F are features of different images"),
    ],
)
def test_a_mistake_in_a_comparison_costs_one_line(place, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        folder = tmp_path / ("photos" if number == 0 else "others")
        folder.mkdir()
        Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(folder / f"{number}.png")
    model = str(place / "model")
    if "OTHER" in words:
        assert command(capsys, model, "others", "--layers", "conv1", "--out", "OTHER", "--device", "cpu")[0] == 0
    status, out, err = command(capsys, model, "photos", "--layers", "conv1", "--device", "cpu", *words)
    assert status == 2
    assert out == ""
    assert next(each for each in err.splitlines() if each.startswith("alexnet: ")).startswith(f"alexnet: {line}")
