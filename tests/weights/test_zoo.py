"""Published weights by name: where their files are found, how they are checked, and what a name stands for."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from alexnet import Predictor, create_model, create_transform, evaluate, list_models, load_model, save_model
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.data.cache import list_cache, remove_cached
from alexnet.models.registry import get_architecture, new_network
from alexnet.models.variants import VARIANTS
from alexnet.weights import zoo
from alexnet.weights.convert import build_network
from alexnet.weights.foreign import ForeignLayer, ForeignWeights
from alexnet.weights.identify import identify
from alexnet.weights.preprocessing import CAFFE_IMAGENET, TORCHVISION_IMAGENET

NAME = "torchvision/imagenet"


@pytest.fixture
def places(tmp_path, home, monkeypatch):
    """The folders of the search, which are empty, and a server; no other folder is looked at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    root, torch_hub = tmp_path / "root", tmp_path / "torch" / "hub" / "checkpoints"
    for folder in (root, torch_hub):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return {"root": root, "own": home / "weights", "torch": torch_hub}


@pytest.fixture
def theirs(narrow_torchvision):
    return narrow_torchvision()


@pytest.fixture
def published(theirs, tmp_path, server, monkeypatch):
    """``torchvision/imagenet`` is a small file on the server. Returns the file."""
    path = tmp_path / "published" / "weights.bin"
    path.parent.mkdir()
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, path)
    server.data = path.read_bytes()
    row = replace(
        zoo.WEIGHTS[NAME],
        address=server.address,
        bytes=len(server.data),
        hash=f"sha256:{hashlib.sha256(server.data).hexdigest()}",
    )
    monkeypatch.setitem(zoo.WEIGHTS, NAME, row)
    return path


def test_the_rows_of_the_table():
    for name, row in zoo.WEIGHTS.items():
        assert name == f"{row.variant}/imagenet"
        assert row.variant in VARIANTS
        algorithm, _, digits = row.hash.partition(":")
        assert len(digits) == {"sha256": 64, "sha1": 40}[algorithm]
        assert 50 < row.top1 < row.top5 < 100
        with torch.device("meta"):
            parameters = sum(
                p.numel() for p in new_network(row.variant, get_architecture(row.variant), 1000, 3, None).parameters()
            )
        assert 4 * parameters < row.bytes < 4.01 * parameters
    assert zoo.WEIGHTS[NAME].file == "alexnet-owt-7be5be79.pth"


def test_torchvisions_row_is_torchvisions():
    """Name, accuracy and size in torchvision's own table; the first eight digits of the hash are in the name."""
    row, theirs = zoo.WEIGHTS[NAME], torchvision.models.AlexNet_Weights.IMAGENET1K_V1
    assert row.address == theirs.url
    assert row.hash.removeprefix("sha256:").startswith(row.file.removesuffix(".pth")[-8:])
    accuracy = theirs.meta["_metrics"]["ImageNet-1K"]
    assert (row.top1, row.top5) == (accuracy["acc@1"], accuracy["acc@5"])
    assert row.bytes / 2**20 == pytest.approx(theirs.meta["_file_size"], abs=0.001)


def test_the_preprocessing_of_a_row_is_that_of_its_file(published, places):
    assert zoo.WEIGHTS[NAME].preprocessing == TORCHVISION_IMAGENET
    assert load_model(NAME, progress=False).preprocessing == TORCHVISION_IMAGENET


def test_a_name_is_downloaded_once(published, places, theirs, server, notes):
    network = load_model(NAME, reporter=notes)
    assert torch.equal(network.conv1.weight, theirs.features[0].weight)
    assert notes.lines == [f"{NAME} is not on this computer: downloading weights.bin to {places['own']}"]
    assert ("begin", "downloading weights.bin, in MB", len(server.data) // 10**6, 0) in notes.calls
    assert [path.name for path in places["own"].iterdir()] == ["weights.bin"]
    load_model(NAME, reporter=notes)
    assert len(server.requests) == 1
    assert len(notes.lines) == 1


@pytest.mark.parametrize("place", ["root", "own", "torch"])
def test_where_a_file_is_found(published, places, server, place):
    places[place].mkdir(exist_ok=True, parents=True)
    shutil.copy(published, places[place])
    assert zoo.find(NAME, places["root"]) == places[place] / "weights.bin"
    load_model(NAME, weights_root=places["root"], progress=False)
    assert not server.requests


def test_torch_hubs_folder(monkeypatch, tmp_path):
    """The rule of torch/hub.py, which says itself where it would look."""
    for variables in (
        {},
        {"XDG_CACHE_HOME": str(tmp_path)},
        {"TORCH_HOME": str(tmp_path / "t"), "XDG_CACHE_HOME": "/x"},
    ):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(zoo.torch_hub_folder()) == f"{torch.hub.get_dir()}/checkpoints"


def test_a_file_with_another_hash_is_refused_by_name_and_kept(published, places, server):
    path = places["torch"] / "weights.bin"
    path.write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        load_model(NAME, progress=False)
    found = hashlib.sha256(b"mine").hexdigest()
    assert caught.value.line == (
        f"{path} is not the published {NAME}: its sha256 is {found}; move it away, and it is downloaded again"
    )
    assert caught.value.details[0] == f"expected {zoo.WEIGHTS[NAME].hash.replace(':', ' ')}"
    assert path.read_bytes() == b"mine"
    assert not server.requests


def test_offline_the_error_says_what_to_do(published, places, server, capsys):
    server.behave = lambda handler, start: handler.send_error(404)
    assert main(["predict", NAME, "cat.jpg"]) == 2
    error = capsys.readouterr().err.split("alexnet: ")[1].splitlines()
    assert error == [
        f"weights.bin ({NAME}) was not found and not downloaded: put it into {places['own']}, or give its folder with "
        "--weights-root",
        f"  looked in {places['own']}",
        f"  looked in {places['torch']}",
        "  download failed: HTTP status 404 (Not Found)",
        f"  address: {server.address}",
        f"  {zoo.WEIGHTS[NAME].hash.replace(':', ': ')}",
    ]
    assert not any(places["own"].iterdir())


def test_a_folder_that_does_not_exist(published, places):
    with pytest.raises(UserError, match="--weights-root nowhere: there is no such folder"):
        load_model(NAME, weights_root="nowhere", progress=False)


def test_an_existing_path_wins_and_a_note_says_so(published, places, narrow_network, notes, server):
    ours = narrow_network("small", in_channels=1)
    save_model(ours, NAME)
    assert load_model(NAME, reporter=notes).variant == "small"
    assert notes.lines == [f"note: {NAME} is a path here and is used; the weights of that name are not"]
    assert not server.requests


@pytest.mark.parametrize("name", ["torchvision", "torchvision/imagenet1k", "tochvision/imagenet"])
def test_a_name_that_is_nearly_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^there is no file or folder {name}: did you mean the weights {NAME}"):
        load_model(name)


def test_create_model_with_weights(published, places, theirs):
    model = create_model("torchvision", weights="imagenet", progress=False)
    assert model.training
    assert torch.equal(model.fc8.weight, theirs.classifier[6].weight)
    assert model.classes[0] == "n01440764"
    for weights in (NAME, published, str(published)):
        same = create_model("torchvision", weights=weights, progress=False)
        assert torch.equal(same.fc8.weight, model.fc8.weight)
    fine = create_model("torchvision", weights="imagenet", num_classes=3, seed=5, progress=False)
    assert fine.fc8.weight.shape == (3, 512)
    assert fine.classes == ("0", "1", "2")
    assert torch.equal(fine.fc7.weight, model.fc7.weight)


def test_torch_hub(published, places, theirs):
    root = str(Path(__file__).parents[2])
    for weights in ("imagenet", str(published)):
        model = torch.hub.load(root, "torchvision", source="local", weights=weights, progress=False)
        assert torch.equal(model.conv1.weight, theirs.features[0].weight)


def test_create_model_without_trained_weights():
    one = create_model("small", weights="untrained:3", width=0.25)
    other = create_model("small", seed=3, width=0.25)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "imagnet"}, "unknown weights 'imagnet': did you mean 'imagenet'"),
        ({"weights": "caffenet/imagenet"}, "caffenet/imagenet are weights of caffenet, not of torchvision"),
        ({"weights": "imagenet", "dropout": 0}, "the weights decide the architecture: leave out dropout"),
        ({"weights": "imagenet", "in_channels": 1}, "in_channels=1: the weights are for 3; leave it out"),
        ({"weights": "untrained:3", "seed": 3}, "weights='untrained:3' has a seed: leave out seed=3"),
        ({"weights": "untrained:x"}, "give a whole number after the colon, as in untrained:3"),
        ({"weights": "imagenet", "name": "small"}, "is no path, and there are no trained weights of small"),
        ({"weights": "imagenet", "name": "torchvison"}, "unknown variant 'torchvison'"),
    ],
)
def test_what_create_model_refuses(published, places, settings, message):
    with pytest.raises(UserError, match=message):
        create_model(**{"name": "torchvision", "progress": False, **settings})


def test_list_models():
    assert list_models(with_weights=True) == [*zoo.list_weights()]
    assert list_models("caffe*", with_weights=True) == ["caffenet/imagenet"]
    assert list_models("torchvision", with_weights=True) == [NAME]
    assert list_models() == [*VARIANTS]


def test_the_list_of_weights(published, places, capsys):
    assert main(["list", "weights"]) == 0
    assert "file      not on this computer, " in capsys.readouterr().out
    shutil.copy(published, places["root"])
    assert main(["list", "weights", "--json", "--weights-root", str(places["root"])]) == 0
    rows = json.loads(capsys.readouterr().out)["weights"]
    assert list(rows) == [*zoo.list_weights()]
    assert rows[NAME]["found"] == str(places["root"] / "weights.bin")
    assert rows[NAME]["top1"] == 56.522
    assert rows["caffenet/imagenet"]["found"] is None


def test_the_cache_lists_and_removes_weights(published, places):
    load_model(NAME, progress=False)
    (places["own"] / ".other.bin.part").write_bytes(b"begun")
    entries = {entry.name: entry for entry in list_cache()}
    assert {name: (entry.kind, entry.source) for name, entry in entries.items()} == {
        "weights.bin": ("weights", "published weights"),
        ".other.bin.part": ("weights", "a part of a file: its download continues there"),
    }
    assert entries["weights.bin"].bytes == published.stat().st_size
    remove_cached(["weights.bin"])
    assert [path.name for path in places["own"].iterdir()] == [".other.bin.part"]


def test_every_command_takes_a_name_and_a_file(published, places, theirs, capsys, tmp_path):
    Image.fromarray(load_sample_images().images[0]).save("china.png")
    transform = create_transform(NAME, progress=False)
    with torch.inference_mode():
        expected = theirs(transform("china.png")[None]).softmax(1)[0]
    best = Predictor(load_model(NAME, progress=False), "cpu", "fp32")("china.png", top_k=1)[0]
    assert best.probability == pytest.approx(float(expected.max()), rel=1e-4)
    for model in (NAME, str(published)):
        assert main(["predict", model, "china.png", "--json", "--device", "cpu", "--precision", "fp32"]) == 0
        captured = capsys.readouterr()
        found = json.loads(captured.out)[0]["predictions"][0]
        assert found["name"] == best.name
        notes = [line for line in captured.err.splitlines() if line.startswith("note: ")]
        assert len(notes) == (0 if model == NAME else 3), notes
        assert main(["summary", model, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["variant"] == "torchvision"
    assert main(["export", NAME, "--to", "safetensors"]) == 0
    assert (tmp_path / "torchvision-imagenet.safetensors").is_file()
    capsys.readouterr()
    assert main(["convert", NAME]) == 0
    assert load_model("torchvision-imagenet").labels[0] == "tench"
    assert main(["predict", "torchvision-imagenet/model.safetensors", "china.png", "--json"]) == 0
    for words, file in (
        (["filters", NAME], "filters-torchvision-imagenet.png"),
        (["filters", str(published)], "filters-weights.png"),
        (["attributions", NAME, "--image", "china.png"], "attributions-torchvision-imagenet.png"),
        (["activations", NAME, "--image", "china.png", "--layer", "relu5"], "activations-torchvision-imagenet.png"),
        (["predictions", NAME, "--image", "china.png"], "predictions-torchvision-imagenet.png"),
        (["architecture", NAME], "architecture-torchvision-imagenet.png"),
    ):
        assert main(["show", *words]) == 0, words
        assert (tmp_path / file).is_file()


def test_convert_replaces_no_other_model(published, places, capsys, tmp_path):
    save_model(create_model("cifar-relu", seed=1), tmp_path / "mine")
    before = (tmp_path / "mine" / "model.safetensors").read_bytes()
    assert main(["convert", str(published), "--out", "mine"]) == 2
    assert "mine holds another model: give another folder with --out, or remove it" in capsys.readouterr().err
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == before
    for _ in range(2):  # the same weights are written again
        assert main(["convert", str(published), "--out", "theirs"]) == 0


def test_a_mean_image_for_weights_that_take_none_is_an_error(published, places, capsys, tmp_path):
    assert main(["convert", str(published), "--mean", "mean.npy", "--out", "new"]) == 2
    assert "take no mean image: leave out --mean" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "predictions", "FILE"], "is a weights file, so it has no images of its own: give --data SOURCE"),
        (["show", "attributions", "FILE"], "is a weights file, so it has no images of its own: give --image FILE"),
        (["show", "confusion", NAME], "is the name of published weights, so it has no images of its own: give --data"),
        (["show", "neighbours", NAME, "--data", "digits"], "neighbours keeps features beside a model folder"),
        (["show", "curves", "FILE"], "is not a run folder"),
        (["show", "report", NAME], "is not a run folder: it is the name of published weights; give"),
        (["show", "curves", NAME], "is not a run folder: it is the name of published weights; give"),
        (["evaluate", "FILE"], "is a weights file, so its images are unknown: give --data SOURCE"),
        (["evaluate", NAME], "is the name of published weights, so its images are unknown: give --data SOURCE"),
    ],
)
def test_what_needs_the_images_of_a_run(published, places, words, message, capsys):
    assert main([str(published) if word == "FILE" else word for word in words]) == 2
    *_, last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("alexnet: ")]
    assert message in last


def test_evaluate_on_ilsvrc_with_ten_views(published, places, narrow_network, capsys, tmp_path):
    """Classes match by WordNet id; a Caffe network beside torchvision's has warped images of its own."""
    pixels = load_sample_images().images
    wnids = [load_model(NAME, progress=False).classes[number] for number in (0, 7, 985)]
    for split in ("train", "val"):
        for number, wnid in enumerate(wnids):
            folder = tmp_path / "ilsvrc" / split / wnid
            folder.mkdir(parents=True)
            Image.fromarray(pixels[number % 2][number:, number:]).save(folder / f"{wnid}_{split}.png")
    assert main(["evaluate", NAME, "--data", f"imagenet:{tmp_path / 'ilsvrc'}", "--views", "10", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["images"] == 3
    assert result["views"] == 10
    assert "997" in captured.err
    caffenet = narrow_network("caffenet", num_classes=1000)
    caffenet.info = bound("caffenet", caffenet)
    save_model(caffenet, "caffenet-model")
    rows = evaluate([NAME, "caffenet-model"], data=f"imagenet:{tmp_path / 'ilsvrc'}", device="cpu", progress=False)
    assert [row.name for row in rows] == [NAME, "caffenet-model", "ensemble"]
    warped = [entry.source for entry in list_cache() if entry.kind == "prepared dataset"]
    assert sorted(source.endswith("256 × 256 × 3, warped") for source in warped) == [False, True]


def bound(name, network):
    """What is bound to Caffe's weights with the shapes of a network of ours."""
    layers = tuple(
        ForeignLayer(
            layer_name, "conv" if layer.weight.ndim == 4 else "linear", layer.weight.detach(), layer.bias.detach()
        )
        for layer_name, layer in network.named_children()
        if layer_name.startswith(("conv", "fc"))
    )
    weights = ForeignWeights("Caffe", "caffe", layers, variant=name)
    return build_network(weights, identify(weights), "file")[0].info


def test_caffes_preprocessing_is_that_of_its_rows(narrow_network):
    for name in ("caffenet", "bvlc-alexnet"):
        network = narrow_network(name, num_classes=1000)
        assert bound(name, network).preprocessing == zoo.WEIGHTS[f"{name}/imagenet"].preprocessing == CAFFE_IMAGENET
