"""What a training leads to: the model's files and one count on images that no choice has seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from alexnet.config import ModelSpec
from alexnet.models.bundle import load_model
from alexnet.models.registry import create_model
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import start_or_continue
from alexnet.training.build import build_model
from alexnet.training.datasets import final_split
from alexnet.training.evaluate import evaluate_models
from alexnet.training.finalize import finalize
from alexnet.training.loop import Training
from alexnet.training.statistics import filter_statistics, model_statistics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def finish(make_digits_store, small_recipe, cpu, tmp_path):
    def finish(**splits):
        dataset = make_digits_store(**splits)
        run = start_or_continue(tmp_path / "run", small_recipe, 3, "digits", dataset.digest)
        training = Training(small_recipe, dataset, run, 3, cpu, NullReporter())
        return training, training.fit(lambda run: None)

    return finish


@pytest.mark.parametrize(
    ("splits", "split"),
    [({"train": 40, "val": 20, "test": 30}, "test"), ({"train": 40, "val": 20}, "val"), ({"train": 40}, None)],
)
def test_the_final_count_is_on_test_else_val_else_nothing(finish, cpu, splits, split):
    training, model = finish(**splits)
    result = finalize(training, model, 123.0)
    assert (result["split"], final_split(training.dataset)) == (split, split)
    assert result["splits"] == {"train": 40, "val": splits.get("val", 0), "test": splits.get("test", 0)}
    assert {name: result[name] for name in ("recipe", "seed", "steps", "views", "matrix_gflops")} == {
        "recipe": "least", "seed": 3, "steps": 3, "views": 1, "matrix_gflops": 123.0,
    }  # fmt: skip
    assert result["seconds"] > 0
    assert result["images_per_second"] == pytest.approx(40 / result["seconds"])
    assert result["hardware"]["precision"] == "fp32"
    assert result["last_epoch"]["epoch"] == 1
    assert ("top1" in result) is (split is not None)
    if split:
        saved = load_model(training.run.folder)
        (counts,) = evaluate_models([saved], [training.dataset], training.dataset.subset(split), cpu)
        assert counts.images == result["images"] == splits[split]
        assert (counts.top1, counts.loss) == (result["top1"], result["loss"])


def test_a_full_disk_is_an_os_error_whoever_notices(finish, monkeypatch):
    training, model = finish(train=40)

    def refuse(*arguments):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("alexnet.core.tensors.save_file", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        finalize(training, model, 1.0)
    assert not training.run.model_folder.exists()


def test_what_is_measured_of_a_network(make_digits_store, small_recipe, cpu, tmp_path):
    """A network without normalization whose last hidden layer is dead, and the halves of whose kernels differ."""
    dataset = make_digits_store(train=40, test=30)
    model = build_model(small_recipe, dataset, 0)
    network = cpu.to_device(model).eval()
    with torch.no_grad():
        network.fc7.weight.zero_()
        network.fc7.bias.fill_(-1)
    measured = model_statistics(model, dataset, dataset.subset("test"), cpu)
    assert set(measured) == {"active_units"}  # grey: its kernels have no colour
    shares = measured["active_units"]
    assert list(shares) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert shares["fc7"] == 0
    assert all(0.2 < shares[name] < 0.8 for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6"))


def test_active_units_are_those_of_all_classes(make_store, small_recipe, cpu):
    """Eight classes of 200 images, one after another as a store has them; only light ones make conv1 active."""
    targets = [number // 200 for number in range(1600)]
    pixels = np.stack([np.full((8, 8, 1), 250 if label >= 4 else 0, np.uint8) for label in targets])
    pixels[:, 0, 0, 0] = np.arange(1600) % 200  # no two the same
    dataset = make_store(pixels, targets, ["train"] * 8 + ["test"] * 1592, name="stripes")
    model = build_model(replace(small_recipe, model=ModelSpec("small", norm_layer="none")), dataset, 0)
    with torch.no_grad():
        model.conv1.weight.fill_(1.0)
        model.conv1.bias.fill_(-1.0)
    shares = model_statistics(model, dataset, dataset.subset("test"), cpu)["active_units"]
    assert 0.3 < shares["conv1"] < 0.7


def test_kernels_are_described_by_half():
    network = create_model("small", num_classes=10, in_channels=3, seed=0)
    with torch.no_grad():
        network.conv1.weight[:16] = network.conv1.weight[:16].mean(dim=1, keepdim=True)  # grey
    kernels = filter_statistics(network)
    assert kernels["colour"]["first"] == pytest.approx(0, abs=1e-9)
    assert kernels["colour"]["second"] > 0.4
    assert kernels["colour"]["p"] < 0.001
    assert 0 < kernels["orientation"]["first"] < 1


def test_a_baseline_has_no_such_measures(make_digits_store, small_recipe, cpu):
    dataset = make_digits_store(train=40, test=30)
    model = build_model(replace(small_recipe, model=ModelSpec("lenet5")), dataset, 0)
    assert model_statistics(model, dataset, dataset.subset("test"), cpu) == {}
