"""``alexnet probe``: accuracy by layer, beside an untrained network, and one line for each mistake."""

import json

import numpy as np
import pytest
from PIL import Image

from alexnet import create_model, save_model
from alexnet.analysis.probe import make_folds, score
from alexnet.api import probe
from alexnet.cli.main import main as cli
from alexnet.data.image_lists import list_of_source
from alexnet.data.sources import open_source
from alexnet.inference.features import LayerExtractor
from alexnet.models.registry import untrained_twin

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return create_model("small", in_channels=3, num_classes=2, image_size=28, width=0.25, seed=5).eval()


@pytest.fixture
def pets(tmp_path):
    """Two classes, dark ``cat`` and light ``dog``, 12 and 9 images, and a copy of one of each."""
    draws = np.random.default_rng(0)
    for number in range(21):
        name = "cat" if number < 12 else "dog"
        pixels = draws.integers(0, 128, (32, 32, 3), np.uint8) + np.uint8(0 if name == "cat" else 128)
        path = tmp_path / "pets" / name / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name, number in (("cat", 0), ("dog", 12)):
        folder = tmp_path / "pets" / name
        (folder / "copy.png").write_bytes((folder / f"{number:02d}.png").read_bytes())
    (tmp_path / "pets" / "cat" / "damaged.png").write_text("no image")
    return tmp_path / "pets"


def test_the_figures_are_those_of_the_features(model, pets):
    result = probe(model, pets, "relu1,relu5,fc6", device="cpu", progress=False)
    assert (result.images, result.classes, result.folds) == (23, 2, 5)
    assert (result.copies, result.trained_on, result.unreadable, result.splits) == (2, 0, 1, ())
    assert result.largest_class == 13 / 23
    rows = [row for row in list_of_source(open_source(str(pets))).rows(model.preprocessing) if row.pixels is not None]
    targets = np.array([["cat", "dog"].index(row.class_name) for row in rows])
    folds = make_folds(targets, np.array([row.digest for row in rows], np.uint64), ("cat", "dog"))
    for network, kind in ((model, "trained"), (untrained_twin(model, 0), "untrained")):
        extractor = LayerExtractor(network, {name: name for name in ("relu1", "relu5", "fc6")}, "mean")
        features = extractor([row.pixels for row in rows])
        for layer in result.layers:
            expected = score(features[layer.layer], targets, folds)
            found = getattr(layer, kind)
            assert abs(found.correct - expected.correct) <= 1  # the features agree within 1e-5
            assert layer.units == features[layer.layer].shape[1]
    assert max(layer.trained.accuracy for layer in result.layers) > 0.9


def test_a_network_that_is_not_trained_is_its_own_control(pets):
    model = create_model("small", in_channels=3, num_classes=2, image_size=28, width=0.25, seed=0).eval()
    result = probe(model, pets, device="cpu", progress=False)
    assert [layer.layer for layer in result.layers] == [f"relu{number}" for number in range(1, 8)]
    assert all(layer.trained == layer.untrained for layer in result.layers)


def test_test_images_are_left_out(model, pets):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (pets / split / name).mkdir(parents=True)
    for path in list(pets.glob("*/*.png")):
        split = "test" if path.stem in ("01", "13") else "train"
        path.rename(pets / split / path.parent.name / path.name)
    (pets / "cat").rmdir()
    (pets / "dog").rmdir()
    result = probe(model, pets, "relu5", device="cpu", progress=False)
    assert (result.images, result.splits) == (21, ("train",))
    some = probe(model, pets, "relu5", images=8, device="cpu", progress=False)
    assert some.images + some.unreadable == 8
    assert some.largest_class < 0.75


def test_the_command(model, pets, tmp_path, capsys):
    save_model(model, tmp_path / "model")
    words = ["probe", str(tmp_path / "model"), "--data", str(pets), "--layers", "relu1,fc6", "--device", "cpu"]
    assert cli(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["layer", "features", "accuracy"]
    assert lines[2].split()[0] == "relu1"
    assert "23 images of 2 classes, 5 folds; the largest class has 56.5% of the images" in lines
    assert "note: 2 images are copies of others; copies are in one fold" in lines
    assert "note: 1 images could not be read and were left out" in lines
    assert cli([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layers"][0]["layer"] == "relu1"
    assert document["layers"][0]["trained"]["correct"] / 23 == document["layers"][0]["trained"]["accuracy"]
    assert len(document["layers"][1]["untrained"]["folds"]) == 5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a probe needs images: give --data SOURCE"),
        (["--data", "PETS", "--layers", "relu8"], "unknown layer 'relu8': did you mean 'relu"),
        (["--data", "PETS", "--images", "2"], "class 'cat' has only one image: cross-validation needs two or more"),
        (["--data", "PETS/cat"], "has no class folders"),
        (["--data", "nosuch"], "unknown source 'nosuch'"),
    ],
)
def test_a_mistake_costs_one_line(model, pets, tmp_path, capsys, words, line):
    save_model(model, tmp_path / "model")
    words = [word.replace("PETS", str(pets)) for word in words]
    assert cli(["probe", str(tmp_path / "model"), "--device", "cpu", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (error,) = [each for each in printed.err.splitlines() if each.startswith("alexnet: ")]
    assert line in error
