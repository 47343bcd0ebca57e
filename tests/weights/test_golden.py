"""Golden files: the tensor after every layer, with hashes."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from alexnet.core.errors import UserError
from alexnet.inference.transform import ImageTransform
from alexnet.models.registry import create_model
from alexnet.weights.golden import golden_outputs, read_golden, write_golden


@pytest.fixture(scope="module")
def model():
    return create_model("paper", width=0.0625, num_classes=10, image_size=96, seed=0).eval()


@pytest.fixture(scope="module")
def image(model):
    return ImageTransform(model.preprocessing)(load_sample_image("china.jpg"))[None]


@pytest.fixture(scope="module")
def file(model, image, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "china.npz"
    write_golden(model, image, path, "ab" * 32)
    return path


def test_a_golden_file_holds_every_layer_and_numpy_reads_it(model, image, file):
    golden = read_golden(file)
    names = [name for name, _ in model.named_children() if name != "flatten"]
    assert list(golden.arrays) == ["input", *names]
    theirs = np.load(file, allow_pickle=False)
    for name, ours in model.layer_outputs(image, names).items():
        assert np.array_equal(golden.arrays[name], ours.detach().numpy())
        assert np.array_equal(theirs[name], ours.detach().numpy())
    assert np.array_equal(golden.arrays["dropout7"], golden.arrays["relu7"] / 2)
    assert json.loads(theirs["golden.json"]) == golden.description
    assert golden.description["image_sha256"] == "ab" * 32
    assert golden.description["preprocessing"]["crop"] == 96


def test_equal_networks_and_images_give_equal_bytes(model, image, file, tmp_path):
    write_golden(model, image.clone(), tmp_path / "again.npz", "ab" * 32)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_a_network_in_training_mode_gives_the_outputs_of_evaluation(model, image):
    expected = golden_outputs(model, image)
    model.train()
    try:
        found = golden_outputs(model, image)
        assert model.training
    finally:
        model.eval()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_an_image_of_another_size_is_refused(model):
    with pytest.raises(UserError, match="a golden image is"):
        golden_outputs(model, torch.zeros(1, 3, 64, 64))


def changed(file, path, member, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, data if name == member else old.read(name))
    return path


def test_changed_files_are_refused(file, tmp_path):
    values = read_golden(file).arrays["fc6"].copy()
    values[0, 0] += 1
    for text, array in (("sha256", values), ("not a golden", values.astype(">f4")), ("not a golden", values[:, 1:])):
        member = io.BytesIO()
        np.save(member, array)
        with pytest.raises(UserError, match=text):
            read_golden(changed(file, tmp_path / "changed.npz", "fc6.npy", member.getvalue()))
    member = io.BytesIO()
    np.save(member, np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not a golden"):
        read_golden(changed(file, tmp_path / "pickle.npz", "fc6.npy", member.getvalue()))
    with pytest.raises(UserError, match="compressed"):
        read_golden(changed(file, tmp_path / "deflated.npz", "", b"", zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="cannot read"):
        read_golden(tmp_path / "absent.npz")


def test_mutations_are_refused_or_change_nothing(file, tmp_path):
    """Every byte of an array is under a hash: a changed file is refused, or its arrays are the same."""
    data, path = file.read_bytes(), tmp_path / "mutated.npz"
    expected = read_golden(file).arrays
    draws = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        mutated = bytearray(data)
        for _ in range(draws.integers(1, 4)):
            mutated[draws.integers(len(mutated))] ^= 1 << draws.integers(8)
        if draws.random() < 0.2:
            del mutated[draws.integers(len(mutated)) :]
        path.write_bytes(mutated)
        try:
            found = read_golden(path).arrays
        except UserError:
            refused += 1
        else:
            assert all(np.array_equal(expected[name], values) for name, values in found.items())
    assert refused > 100
