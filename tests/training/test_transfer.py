"""Trainings that start from the weights of another network: which layers come from it, what stays frozen, resuming."""

from dataclasses import replace

import pytest
import torch

from alexnet.api import train
from alexnet.config import DataSpec, ModelSpec, OptimSpec, Preprocessing, Recipe, TrainSpec, override
from alexnet.core.errors import UserError
from alexnet.models.bundle import load_model, save_model
from alexnet.models.registry import create_model
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import Run, start_or_continue
from alexnet.training.build import build_model
from alexnet.training.loop import Training
from alexnet.training.transfer import (
    convert_channels,
    frozen_layers,
    keep_init,
    layers_of,
    transfer_weights,
    transferred_preprocessing,
    weights_digest,
)

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    name="tiny",
    model=ModelSpec("small", width=0.25, dropout=0.3),
    data=DataSpec("digits", image_size=16),
    optim=OptimSpec(optimizer="adamw", lr=0.01, weight_decay=0.1, schedule="one-cycle"),
    train=TrainSpec(batch_size=16, epochs=1, precision="fp32"),
)
ALL = ["conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "conv4", "norm4", "conv5", "norm5", "fc6", "fc7", "fc8"]


def network(classes=10, channels=1, size=16, seed=5, width=0.25):
    """A network whose batch norms have running averages of their own."""
    made = create_model("small", num_classes=classes, in_channels=channels, image_size=size, width=width, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for norm in (module for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    return made.eval()


def equal_layers(one, other):
    theirs = other.state_dict()
    return [
        layer
        for layer, names in layers_of(one).items()
        if all(theirs[name].shape == one.state_dict()[name].shape for name in names)
        and all(torch.equal(one.state_dict()[name], theirs[name]) for name in names)
    ]


@pytest.fixture(scope="module")
def dataset(make_digits_store):
    return make_digits_store(train=100, test=30)


# ------------------------------------------- which layers -------------------------------------------


def test_every_layer_before_a_last_one_of_other_classes_is_copied():
    init, new = network(classes=7), network(classes=3, seed=1)
    before = new.fc8.weight.clone()
    transferred = transfer_weights(new, init)
    assert transferred.copied == tuple(ALL[:-1])
    assert transferred.new == ("fc8",)
    assert equal_layers(new, init) == ALL[:-1]
    assert torch.equal(new.fc8.weight, before)


def test_the_last_layer_is_copied_if_the_classes_are_the_same():
    init, new = network(), network(seed=1)
    assert transfer_weights(new, init).new == ()
    images = torch.rand(4, 1, 16, 16)
    assert torch.equal(new(images), init(images))


def test_another_number_of_classes_with_the_same_count_is_not_the_same_classes():
    init, new = network(), network(seed=1)
    init.info = replace(init.info, classes=tuple("abcdefghij"), labels=tuple("abcdefghij"))
    assert transfer_weights(new, init).new == ("fc8",)


def test_layers_after_the_first_that_does_not_fit_are_new():
    init, new = (
        network(),
        network(size=32, seed=1),
    )  # fc6 has more inputs; fc7 would fit, but not what it was trained on
    transferred = transfer_weights(new, init)
    assert transferred.copied == tuple(ALL[:10])
    assert transferred.new == ("fc6", "fc7", "fc8")


def test_a_first_layer_that_does_not_fit_is_an_error_with_both_shapes():
    with pytest.raises(UserError, match=r"conv1 of small has .* \(8, 1, 5, 5\), conv1 of .* \(16, 1, 5, 5\)"):
        transfer_weights(network(), network(width=0.5))


@pytest.mark.parametrize("std", [(50.0, 60.0, 70.0), ()])
def test_a_grey_network_from_a_colour_network_gives_the_features_of_three_equal_channels(std):
    init, new = network(channels=3), network(channels=1, seed=1)
    scale = sum(std) / len(std) if std else 1.0
    spec = Preprocessing(3, 16, 16, 16, "channel", (100.0,) * 3, std or (1.0,) * 3)
    init.info = replace(init.info, preprocessing=spec)
    transfer_weights(new, init)
    grey = torch.rand(2, 1, 16, 16) * 255 - 100
    colours = torch.cat([grey / value for value in std or (1.0,) * 3], dim=1)
    expected = init.forward_features(colours)
    torch.testing.assert_close(new.forward_features(grey / scale), expected, rtol=1e-4, atol=1e-4)


def test_a_colour_network_from_a_grey_network_gives_its_features_for_grey_images():
    weight = torch.rand(4, 1, 5, 5)
    grey = torch.rand(2, 1, 9, 9)
    colour = convert_channels(weight, 3, (50.0,))
    found = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), colour)
    torch.testing.assert_close(found, torch.nn.functional.conv2d(grey, weight))


def test_pixels_are_normalized_as_for_the_given_weights():
    ours = Preprocessing(3, 64, 56, 48, "channel", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    init = network(channels=3)
    init.info = replace(init.info, preprocessing=Preprocessing(3, 256, 224, 224, "unit", (0.0,) * 3, (255.0,) * 3))
    assert transferred_preprocessing(ours, init) == Preprocessing(3, 64, 56, 48, "unit", (0.0,) * 3, (255.0,) * 3)
    grey = replace(ours, channels=1, mean=(1.0,), std=(2.0,))
    init.info = replace(init.info, preprocessing=replace(ours, mean=(10.0, 20.0, 60.0), std=(1.0, 2.0, 6.0)))
    assert transferred_preprocessing(grey, init) == replace(grey, mean=(30.0,), std=(3.0,))
    image = torch.stack([torch.full((8, 8), value) for value in (9.0, 8.0, 7.0)], dim=-1)
    spec = replace(ours, pixel_normalization="mean-image", resize_size=8, crop=8)
    init.info = replace(init.info, preprocessing=spec, mean_image=image)
    assert transferred_preprocessing(ours, init) == replace(ours, mean=(9.0, 8.0, 7.0), std=(1.0, 1.0, 1.0))


def test_a_network_of_the_same_variant_has_the_settings_of_the_given_weights(dataset):
    recipe = override(RECIPE, {"model.width": None, "data.image_size": None})
    init = network(size=20)  # its width is a quarter of the variant's
    model = build_model(recipe, dataset, 0, init)
    assert model.conv1.out_channels == 8
    assert model.image_size == 20
    assert model.dropout_sites["fc6"][1] == 0.3  # from the recipe
    assert equal_layers(model, init) == ALL
    assert set(model.trained_on.tolist()) != set(init.trained_on.tolist())


# --------------------------------------------- frozen ---------------------------------------------


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        ((), []),
        (("conv1",), ["conv1", "norm1"]),
        (("conv1-conv3",), ALL[:6]),
        (("conv2", "fc7"), ["conv2", "norm2", "fc7"]),
        (("norm4",), ["norm4"]),
        (("conv1-fc7",), ALL[:-1]),
    ],
)
def test_names_and_ranges_of_frozen_layers(names, frozen):
    assert list(frozen_layers(network(), names)) == frozen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("conv6",), r"unknown layer in train.freeze 'conv6'.*conv"),
        (("conv1-conv9",), r"unknown layer in train.freeze 'conv9'"),
        (("relu1",), r"unknown layer in train.freeze 'relu1'"),
        (("conv3-conv1",), r"conv3 comes after conv1, write conv1-conv3"),
        (("conv1-fc8",), r"names every layer"),
    ],
)
def test_wrong_names_of_frozen_layers(names, message):
    with pytest.raises(UserError, match=message):
        frozen_layers(network(), names)


def test_a_new_layer_cannot_be_frozen(dataset):
    recipe = override(RECIPE, {"train.init": "x", "train.freeze": ("conv1-fc6",), "data.image_size": 32})
    with pytest.raises(UserError, match=r"train.freeze: fc6 cannot be frozen, .*: conv1, norm1, .*norm5$"):
        build_model(recipe, dataset, 0, network())


def test_freezing_needs_trained_weights():
    with pytest.raises(UserError, match="--from MODEL"):
        override(RECIPE, ["train.freeze=conv1"])


@pytest.mark.parametrize("names", [("conv1-conv3",), ("conv2",), ("conv1-fc7",)])
def test_frozen_layers_keep_every_bit_and_the_others_change(names, dataset, cpu, tmp_path):
    init = network()
    recipe = override(RECIPE, {"train.init": "x", "train.freeze": names})
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", dataset.digest)
    training = Training(recipe, dataset, run, 0, cpu, NullReporter(), init)
    training.fit(lambda run: None)
    assert training.state.step == 7
    assert equal_layers(training.network, init) == list(frozen_layers(init, names))


def test_a_layer_learns_at_a_multiple_of_the_scheduled_lr(dataset, cpu, tmp_path):
    rules = [{"layer": "fc8", "lr_mult": 30.0}, {"layer": "conv1", "start": 2.0, "lr_mult": 0.5}]
    recipe = override(RECIPE, {"optim.rules": rules})
    run = start_or_continue(tmp_path / "run", recipe, 0, "digits", dataset.digest)
    training = Training(recipe, dataset, run, 0, cpu, NullReporter())
    training.fit(lambda run: None)
    lrs = {(group["layer"], group["bias"]): group["lr"] for group in training.optimizer.param_groups}
    assert lrs["fc8", False] == lrs["fc8", True] == 30 * lrs[None, False]
    assert lrs["conv1", False] == lrs[None, False]
    with pytest.raises(UserError, match="has lr and lr_mult"):
        override(RECIPE, {"optim.rules": [{"layer": "fc8", "lr": 0.1, "lr_mult": 2.0}]})


# -------------------------------------------- run folders --------------------------------------------

SETTINGS = {
    "model.width": 0.25,
    "data.image_size": 16,
    "train.epochs": 1,
    "train.batch_size": 64,
    "train.precision": "fp32",
}


def digits_from(init, out, **more):
    given = {"train.freeze": ("conv1-conv2",), **SETTINGS, **more}
    return train("small-digits", init=init, out=out, overrides=given, device="cpu", progress=False)


@pytest.fixture(scope="module")
def init_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("init") / "model"
    save_model(network(classes=4), folder)
    return folder


@pytest.fixture(scope="module")
def whole(init_folder, tmp_path_factory):
    return digits_from(init_folder, tmp_path_factory.mktemp("whole") / "run")


def stop(monkeypatch, at, error):
    """Let the next training end in step ``at`` by ``error``."""
    step = Training.step

    def stepping(training, batch):
        if batch.step == at:
            raise error
        step(training, batch)

    monkeypatch.setattr(Training, "step", stepping)


def weights_of(run):
    return load_model(run.folder).state_dict()


def test_a_finished_run_names_its_weights_and_keeps_no_copy(whole, init_folder):
    assert whole.description["init"] == weights_digest(load_model(init_folder))
    assert whole.recipe.train.init == str(init_folder)
    assert not whole.init_folder.exists()
    assert equal_layers(load_model(whole.folder), load_model(init_folder)) == ALL[:4]
    assert whole.result["init"] == {
        "model": str(init_folder), "copied": ALL[:-1], "new": ["fc8"], "frozen": ALL[:4],
    }  # fmt: skip
    report = (whole.folder / "report.md").read_text(encoding="utf-8")
    assert "norm5, fc6, fc7; frozen: conv1, norm1, conv2, norm2; new: fc8." in report
    assert digits_from(init_folder, whole.folder).result == whole.result


@pytest.mark.parametrize("at", [0, 9])
def test_a_killed_training_continues_without_the_file_that_it_started_from(
    at, whole, init_folder, tmp_path, monkeypatch
):
    moved = tmp_path / "moved"
    save_model(load_model(init_folder), moved)
    with monkeypatch.context() as patch:
        stop(patch, at, SystemError("killed"))
        with pytest.raises(SystemError):
            digits_from(moved, tmp_path / "run", **{"train.epochs": 1})
    assert Run(tmp_path / "run").init_folder.is_dir()
    for file in moved.iterdir():
        file.unlink()
    moved.rmdir()
    again = digits_from(moved, tmp_path / "run")
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(again).items())
    assert again.result["top1"] == whole.result["top1"]


def test_another_network_under_the_same_name_is_another_training(init_folder, tmp_path, monkeypatch):
    place = tmp_path / "model"
    save_model(load_model(init_folder), place)
    first = digits_from(place, tmp_path / "run")
    save_model(network(classes=4, seed=9), place)
    with pytest.raises(UserError, match=r"the weights that it starts from .* has changed since"):
        digits_from(place, first.folder)


def test_the_copy_in_the_run_is_written_again_if_it_is_damaged(init_folder, tmp_path):
    run, init = Run(tmp_path), load_model(init_folder)
    keep_init(init, run)
    weights = run.init_folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    keep_init(init, run)
    assert weights.stat().st_mtime_ns == written
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    keep_init(init, run)
    assert weights_digest(load_model(run.init_folder)) == weights_digest(init)


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        digits_from(tmp_path / "absent", tmp_path / "run")
    assert "absent" in error.value.line
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_the_model_no_more(init_folder, tmp_path):
    moved = tmp_path / "moved"
    save_model(load_model(init_folder), moved)
    first = digits_from(moved, tmp_path / "run")
    for file in moved.iterdir():
        file.unlink()
    moved.rmdir()
    assert digits_from(moved, tmp_path / "run").result == first.result
    with pytest.raises(UserError, match=r"there is no file or folder .*moved"):
        digits_from(moved, tmp_path / "other")


def test_a_run_from_trained_weights_is_not_one_from_new_weights(init_folder, tmp_path):
    digits_from(init_folder, tmp_path / "run", **{"train.freeze": ()})
    with pytest.raises(UserError, match=r"it differs in the weights that it starts from \(--from .*, now none\)"):
        digits_from(None, tmp_path / "run", **{"train.freeze": ()})
