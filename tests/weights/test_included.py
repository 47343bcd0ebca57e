"""Weights that come with the package: found without a network, and the same in every command."""

import json
import re
import socket

import pytest
import torch
from PIL import Image
from torch import nn

from alexnet import Predictor, create_model, create_transform, list_models, load_model, verify
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.core.files import read_json, sha256_file, sha256_json, write_json
from alexnet.core.tensors import load_tensors, save_tensors
from alexnet.models.bundle import save_model
from alexnet.recipes import get_recipe
from alexnet.weights import zoo

NAMES = [*zoo.included_weights()]
FILES = {"model.json", "model.safetensors", "card.json", "README.md"}
MOST_BYTES = 8 * 10**6


@pytest.fixture
def offline(monkeypatch, home):
    """Every connection fails."""

    def refuse(*given):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_weights_are_included():
    assert {"trunk/tiny-imagenet", "trunk/tiny-imagenet-a"} <= {*NAMES}


def test_a_short_name_is_a_model_too(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole, short = load_model("trunk/tiny-imagenet"), load_model("trunk")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in short.state_dict().items())
    assert torch.equal(create_model("trunk", weights="trunk").conv1.weight, whole.conv1.weight)
    assert main(["summary", "trunk"]) == 0  # the variant
    assert "1,000 classes" in capsys.readouterr().out.replace("1000", "1,000")
    assert main(["list", "weights"]) == 0
    assert "  trunk/tiny-imagenet (short: trunk)\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_included_weights_are_whole_and_small(name, offline):
    card, folder = zoo.included_weights()[name], zoo.included_folder(name)
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "model.safetensors").stat().st_size <= MOST_BYTES
    network = load_model(name)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network.variant == card.variant == get_recipe(card.recipe).model.variant
    assert 30 < card.top1 < 100
    assert len(card.commit) >= 7
    assert "ImageNet" in card.licence
    assert f"seed {card.seed}" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_name_is_a_model_in_every_command(offline, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "orange").save("orange.png")
    (name, *_) = NAMES
    assert main(["predict", name, "orange.png", "--precision", "fp32", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]["predictions"][0]
    network = load_model(name)
    with torch.inference_mode():
        probabilities = network(create_transform(network)(Image.open("orange.png"))[None]).softmax(dim=1)[0]
    assert network.labels[int(probabilities.argmax())] == first["label"]
    assert first["probability"] == pytest.approx(float(probabilities.max()), abs=1e-4)
    assert Predictor(network)("orange.png")[0].label == first["label"]
    assert main(["summary", name]) == 0
    assert main(["features", name, "orange.png", "--layers", "pool5", "--out", "features"]) == 0
    assert main(["evaluate", name]) == 2
    assert f"{name} is the name of included weights, so its images are unknown" in capsys.readouterr().err


def test_the_list_shows_included_weights(capsys):
    assert main(["list", "weights"]) == 0
    shown = capsys.readouterr().out
    for name, card in zoo.included_weights().items():
        assert re.search(
            rf"  {name}( \(short: trunk\))?\n      accuracy  top-1 {card.top1:.1f} %: {card.measured}\n", shown
        )
    assert main(["list", "weights", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["weights"]
    assert rows[NAMES[0]]["found"] == str(zoo.included_folder(NAMES[0]))
    assert list_models("trunk*", with_weights=True) == NAMES


def test_create_model_with_included_weights(offline):
    ours, loaded = create_model("trunk", weights="tiny-imagenet-a", num_classes=3), load_model("trunk/tiny-imagenet-a")
    assert ours.fc8.weight.shape == (3, 512)
    assert torch.equal(ours.conv1.weight, loaded.conv1.weight)
    with pytest.raises(UserError, match="trunk/tiny-imagenet-a are weights of trunk, not of small"):
        create_model("small", weights="trunk/tiny-imagenet-a")


def test_a_path_of_that_name_is_used_and_a_wrong_name_is_helped(tmp_path, monkeypatch, notes):
    monkeypatch.chdir(tmp_path)
    (name, *_) = NAMES
    with pytest.raises(UserError, match="folder trunk/tiny-imagenet-b: did you mean the weights trunk/tiny-imagenet"):
        load_model("trunk/tiny-imagenet-b")
    save_model(load_model(name), tmp_path / name)
    load_model(name, reporter=notes)
    assert notes.lines == [f"note: {name} is a path here and is used; the weights of that name are not"]


@pytest.mark.parametrize(("storage", "share"), [("bf16", 0.6), ("int8", 0.4)])
def test_rounded_weights_are_smaller_and_are_read_as_fp32(narrow_network, tmp_path, storage, share):
    model = narrow_network("trunk")
    save_model(model, tmp_path / "whole")
    save_model(model, tmp_path / "rounded", storage=storage)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "rounded")]
    assert sizes[1] < share * sizes[0]
    ours = load_model(tmp_path / "whole").state_dict()
    for name, tensor in load_model(tmp_path / "rounded").state_dict().items():
        assert tensor.dtype == ours[name].dtype
        if ours[name].ndim < 2:
            assert torch.equal(tensor, ours[name])
        elif storage == "bf16":
            assert torch.equal(tensor, ours[name].bfloat16().float())
        else:  # half a step, which is 1/127 of the largest weight of the filter
            step = ours[name].flatten(1).abs().amax(dim=1).view(-1, *[1] * (tensor.ndim - 1)) / 127
            assert ((tensor - ours[name]).abs() <= 0.5001 * step).all()
            assert not torch.equal(tensor, ours[name])


def change_tensors(folder, change):
    """Other tensors, and a description that vouches for them."""
    tensors = load_tensors(folder / "model.safetensors")
    change(tensors)
    save_tensors(tensors, folder / "model.safetensors")
    description = read_json(folder / "model.json")
    del description["sha256_of_the_rest"]
    description["sha256"] = sha256_file(folder / "model.safetensors")
    write_json(folder / "model.json", {**description, "sha256_of_the_rest": sha256_json(description)})


SCALES = "conv2.weight.scales"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(SCALES), "is damaged"),
        (lambda tensors: tensors.update({SCALES: tensors[SCALES][1:]}), "is damaged"),
        (lambda tensors: tensors.update({SCALES: tensors[SCALES][:1]}), "is damaged"),
        (lambda tensors: tensors.update({SCALES: tensors[SCALES].double()}), "is damaged"),
        (lambda tensors: tensors.update({SCALES: tensors[SCALES] * torch.nan}), "not finite"),
        # a product of these two would have 4 TB
        (lambda tensors: tensors.update({"x": torch.ones(1, 10**6).char(), "x.scales": torch.ones(10**6)}), "damaged"),
        (lambda tensors: tensors.update({"conv1.bias": tensors["conv1.bias"].char()}), "is damaged"),
    ],
)  # fmt: skip
def test_integers_and_scales_that_do_not_fit_are_refused(narrow_network, tmp_path, change, message):
    save_model(narrow_network("trunk"), tmp_path / "model", storage="int8")
    load_model(tmp_path / "model")
    change_tensors(tmp_path / "model", change)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "model")


def test_only_weights_of_convolutions_and_linear_layers_are_rounded(tmp_path):
    network = create_model("cifar-11pct", seed=1).eval()
    save_model(network, tmp_path / "model", storage="int8")
    found = load_model(tmp_path / "model").state_dict()
    same = {name for name, value in network.state_dict().items() if torch.equal(value, found[name])}
    rounded = {f"{name}.weight" for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)}
    assert same == {*network.state_dict()} - rounded
    assert any("conv3" in name or "local" in name for name in same)


def test_verify_compares_with_included_weights(offline, tmp_path):
    whole = verify("trunk/tiny-imagenet-a")
    assert whole.status == 0
    assert any("bit for bit those published as trunk/tiny-imagenet-a" in each.sentence for each in whole.findings)
    network = load_model("trunk/tiny-imagenet-a")
    with torch.no_grad():
        network.conv2.weight[0, 0, 0, 0] += 0.01
    save_model(network, tmp_path / "changed")
    changed = verify(tmp_path / "changed")
    assert changed.status == 1
    assert any("conv2 is not: a changed copy" in each.sentence for each in changed.findings)
