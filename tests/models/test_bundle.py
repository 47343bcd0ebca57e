"""A model as files: bit for bit what was saved, or one line that says what is wrong. Nothing is unpickled."""

import hashlib
import json
import math
import os
import pickle
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.core.files import sha256_json
from alexnet.models.bundle import load_model, model_folder, save_model
from alexnet.models.classifier import ModelInfo
from alexnet.models.registry import create_model
from alexnet.models.variants import VARIANTS

CLASSES = ("n01", "n02", "n03")
PREPROCESSING = Preprocessing(3, 12, 12, 80, "symmetric", (127.5,) * 3, (127.5,) * 3)


def saved(network, variant, **fields):
    defaults = {"classes": CLASSES, "labels": ("cat", "dog", "été"), "preprocessing": PREPROCESSING}
    network.info = ModelInfo(variant, **{**defaults, **fields})
    return network


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_is_bit_equal(name, slim, tmp_path):
    network = create_model(name, num_classes=3, in_channels=3, image_size=80, seed=1, **slim(name, 8))
    images = torch.randn(2, 3, 80, 80)
    network(images)  # in training mode, so that batch norm's averages move
    save_model(saved(network, name), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert (loaded.variant, loaded.classes, loaded.preprocessing) == (name, CLASSES, PREPROCESSING)
    assert loaded.labels == ("cat", "dog", "été")
    before, after = network.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(network.eval()(images), loaded(images))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in network.parameters()]


def test_what_a_variant_was_is_saved_and_not_only_its_name(slim, tmp_path):
    network = create_model(
        "paper",
        num_classes=3,
        in_channels=1,
        image_size=70,
        seed=1,
        dropout=0.3,
        activation="tanh",
        lrn_k=1.5,
        **slim("paper", 8),
    )
    save_model(saved(network, "paper"), tmp_path)
    assert load_model(tmp_path).architecture == network.architecture
    assert load_model(tmp_path).dropout_sites == network.dropout_sites


def test_mean_image_travels_with_the_model(tmp_path):
    preprocessing = Preprocessing(3, 12, 12, 28, "mean-image")
    mean = torch.rand(12, 12, 3)
    network = create_model("lenet5", num_classes=3, in_channels=3, seed=1)
    save_model(saved(network, "lenet5", preprocessing=preprocessing, mean_image=mean), tmp_path)
    assert torch.equal(load_model(tmp_path).mean_image, mean)
    save_model(saved(network, "lenet5", preprocessing=preprocessing, mean_image=mean[:8]), tmp_path)
    with pytest.raises(UserError, match=r"mean_image: found .*\(8, 12, 3\), expected .*\(12, 12, 3\)"):
        load_model(tmp_path)
    save_model(saved(network, "lenet5", preprocessing=preprocessing), tmp_path)
    with pytest.raises(UserError, match="mean_image: found nothing"):
        load_model(tmp_path)


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    for seed in (1, 2):
        network = create_model("lenet5", num_classes=3, in_channels=3, seed=seed)
        save_model(saved(network, "lenet5"), tmp_path / "run" / "model")
    assert torch.equal(load_model(tmp_path / "run").fc5.weight, network.fc5.weight)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_model_folder_says_what_it_found_instead(tmp_path):
    with pytest.raises(UserError, match=r"there is no file or folder .*nowhere"):
        model_folder(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="has not finished"):
        model_folder(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "model"
    network = create_model("small", num_classes=3, in_channels=3, seed=1, hidden=VARIANTS["small"].architecture.hidden)
    save_model(saved(network, "small"), folder)
    return folder


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "model"))


def change(folder, **fields):
    """Other fields, and a hash that vouches for them."""
    path = folder / "model.json"
    description = {**json.loads(path.read_text()), **fields}
    del description["sha256_of_the_rest"]
    path.write_text(json.dumps({**description, "sha256_of_the_rest": sha256_json(description)}))


def change_architecture(folder, **fields):
    change(folder, architecture={**json.loads((folder / "model.json").read_text())["architecture"], **fields})


def replace_tensors(folder, data):
    """Other bytes, and a description that vouches for them."""
    (folder / "model.safetensors").write_bytes(data)
    change(folder, sha256=hashlib.sha256(data).hexdigest())


def refused(folder):
    """The error, which must be complete in its first line and name the folder."""
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert str(folder) in caught.value.line
    assert "\n" not in caught.value.line
    return str(caught.value)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["resize_size", "stored", "crop", "image_size"])
@pytest.mark.parametrize("size", [0, 4097, 10**12])
def test_the_sizes_of_the_preprocessing_are_limited(copy, name, size):
    preprocessing = json.loads((copy / "model.json").read_text())["preprocessing"]
    if name == "stored":  # the name of an earlier version
        del preprocessing["resize_size"]
    change(copy, preprocessing={**preprocessing, name: size})
    assert f" = {size} is not a whole number of at least 1 and at most 4096" in refused(copy)


@pytest.mark.parametrize("field", ["num_classes", "in_channels", "image_size"])
def test_the_sizes_of_the_network_are_limited(copy, field):
    change(copy, **{field: 10**12})
    assert "a network takes at most 10,000,000 classes, 4,096 channels and images of 4,096 pixels" in refused(copy)


@pytest.mark.parametrize("position", [0, 9, 100, 5000, -1])
def test_a_flipped_bit_is_noticed(copy, position):
    flip(copy / "model.safetensors", position)
    assert "sha256 differs" in refused(copy)


def test_a_changed_digit_of_the_description_is_noticed(copy):
    path = copy / "model.json"
    text = path.read_text()
    path.write_text(text.replace("127.5", "117.5", 1))
    assert path.read_text() != text
    assert "model.json has changed since it was written (its sha256 differs)" in refused(copy)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b"3", b'{"schema": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_description_is_refused(copy, damage):
    (copy / "model.json").write_bytes(damage)
    assert refused(copy)


def test_missing_tensors_are_refused(copy):
    (copy / "model.safetensors").unlink()
    assert refused(copy)


def test_another_schema_is_refused_by_number(copy):
    change(copy, schema=3)
    assert "schema 3, this version reads 1 to 2" in refused(copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_classes": 4},
        {"in_channels": 1},
        {"image_size": 64},
        {"num_classes": -1},
        {"num_classes": "many"},
        {"num_classes": math.inf},
        {"num_classes": math.nan},
        {"num_classes": 2**62},
        {"image_size": 1},
        {"image_size": 10**30},
        {"classes": ["a", "b"]},
        {"classes": None},
        {"architecture": None},
        {"architecture": {}},
        {"preprocessing": {"scaling": "symmetric"}},
        {"preprocessing": []},
    ],
    ids=str,
)
def test_a_description_of_another_network_is_refused(copy, fields):
    change(copy, **fields)
    assert refused(copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"activation": "rely"},
        {"dropout_at": ["fc9"]},
        {"initialisation": 3},
        {"pool_stride": 0},
        {"pool_kernel": -3},
        {"convs": []},
        {"convs": [{"filters": 32, "kernel": 5, "then": ["activatiom"]}] * 5},
        {"convs": [{"filters": 10**12, "kernel": 10**6, "then": []}] * 5},
        {"hidden": [{"units": 10**15}] * 2},
        {"future": True},
    ],
    ids=str,
)
def test_an_architecture_that_is_none_is_refused(copy, fields):
    change_architecture(copy, **fields)
    assert refused(copy)


def test_a_hostile_size_takes_no_memory(copy):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change(copy, num_classes=10**7)  # fc8 alone would be 20 GB
    assert "fc8" in refused(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_tensors_of_another_type_are_refused(copy):
    from safetensors.torch import load_file, save

    tensors = load_file(copy / "model.safetensors")
    tensors["fc8.weight"] = tensors["fc8.weight"].half()
    replace_tensors(copy, save(tensors))
    assert "fc8.weight: found torch.float16" in refused(copy)


class Payload:
    """Pickled, it would write a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("write", [pickle.dumps, "torch"])
def test_a_pickle_in_disguise_is_not_opened(copy, tmp_path, write):
    trap = tmp_path / "trap"
    if write == "torch":
        torch.save({"fc8.weight": Payload(trap)}, tmp_path / "weights.pt")
        data = (tmp_path / "weights.pt").read_bytes()
    else:
        data = write(Payload(trap))
    replace_tensors(copy, data)
    assert refused(copy)
    assert not trap.exists()


def test_any_damage_is_an_error_or_changes_no_weight(sound, tmp_path):
    """Two hundred mutations of either file: what still loads has the weights that were saved."""
    expected = load_model(sound).state_dict()
    draws = random.Random(0)
    for number in range(200):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        path = folder / draws.choice(["model.json", "model.safetensors"])
        data = bytearray(path.read_bytes())
        if number % 4 == 0:
            del data[draws.randrange(len(data)) :]
        else:
            data[draws.randrange(len(data))] = draws.randrange(256)
        path.write_bytes(data)
        try:
            loaded = load_model(folder).state_dict()
        except UserError:
            continue
        assert all(torch.equal(expected[key], loaded[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "../../etc/passwd"),  # a name is shown and never a path
        ("two\nlines", "two\\nlines"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("bell\a", "bell\\x07"),
        ("x" * 300, "x" * 300),
        ("", ""),
    ],
)
def test_names_in_a_description_are_shown_escaped(copy, name, shown):
    description = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    for field in ("classes", "labels"):
        description[field][0] = name
    description.pop("sha256_of_the_rest")
    text = json.dumps({**description, "sha256_of_the_rest": sha256_json(description)})
    (copy / "model.json").write_text(text, encoding="utf-8")
    loaded = load_model(copy)
    assert loaded.classes[0] == loaded.labels[0] == shown


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(sound, public_folder, as_user, name):
    """Its permission is what is wrong, and nobody is told to remove a good model."""
    folder = public_folder / "model"
    shutil.copytree(sound, folder)
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o000 if path.name == name else 0o644)
    with as_user():
        line = refused(folder)
    assert line == f"cannot read {folder / name}: Permission denied; ask for permission to read it, or use another copy"


def test_a_folder_that_may_not_be_entered_is_said_to_be_so(sound, public_folder, as_user):
    folder = public_folder / "model"
    shutil.copytree(sound, folder)
    folder.chmod(0o000)
    with as_user():
        line = refused(folder)
    folder.chmod(0o755)
    assert line.startswith(f"cannot read {folder / 'model.json'}: Permission denied")


def test_no_message_asks_for_the_removal_of_a_model(copy):
    (copy / "model.safetensors").rename(copy / "elsewhere")
    assert "is incomplete: model.safetensors is missing" in refused(copy)
    (copy / "elsewhere").rename(copy / "model.safetensors")
    change(copy, schema=3)
    assert refused(copy).endswith("was written by a later version of alexnet (schema 3, this version reads 1 to 2): "
                                  "install that version")  # fmt: skip
    change(copy, schema=2)
    flip(copy / "model.safetensors", -1)
    assert "remove" not in refused(copy)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["conv1.weight", "fc8.bias", "bn1.running_var"])
def test_weights_that_are_not_finite_are_refused(copy, name, value):
    from safetensors.torch import load_file, save

    tensors = load_file(copy / "model.safetensors")
    name = name if name in tensors else next(each for each in tensors if each.endswith("running_var"))
    tensors[name].view(-1)[-1] = value
    replace_tensors(copy, save(tensors))
    assert f"cannot be used: {name} holds numbers that are not finite" in refused(copy)


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    """safetensors opens only paths in UTF-8."""
    folder = tmp_path / os.fsdecode(b"mod\xffel")
    network = create_model("lenet5", num_classes=3, in_channels=3, seed=1)
    save_model(saved(network, "lenet5"), folder)
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
