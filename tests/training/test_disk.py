"""What a training says that it needs on disk is what it needs."""

import shutil

import numpy as np
import pytest

from alexnet.config import override
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import Source, open_source
from alexnet.recipes import get_recipe
from alexnet.runtime.checkpoint import save_checkpoint
from alexnet.training.build import build_network
from alexnet.training.disk import LARGE, DiskNeed, disk_need
from alexnet.training.optimizer import build_optimizer, optimizer_tensors


def source(count, side=256, classes=1000):
    return Source("many", "/many", tuple(map(str, range(classes))), "0" * 64, lambda: iter(()), count, (side, side, 3))


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-2012", "adam", "adamw"])
@pytest.mark.parametrize("keep", ["last", "best-on-val"])
def test_a_checkpoint_has_the_size_that_is_stated(optimizer, keep, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    changes = [f"optim.optimizer={optimizer}", "optim.nesterov=false", f"train.keep={keep}", "data.val_fraction=0.1"]
    recipe = override(get_recipe("small-digits"), [*changes, "model.width=0.25", "data.image_size=16"])
    digits = open_source("digits")
    need = disk_need(recipe, digits)
    assert need.images == digits.count * 8 * 8
    network = build_network(recipe, open_or_prepare(digits), seed=0)
    weights = dict(network.state_dict())
    tensors = {"model": weights, "optimizer": optimizer_tensors(network, build_optimizer(network, recipe.optim))}
    path = save_checkpoint(tmp_path, 1, tensors | ({"best": weights} if keep == "best-on-val" else {}), {})
    real = sum(file.stat().st_size for file in path.iterdir())
    assert need.checkpoint == pytest.approx(real, rel=0.03)
    assert need.checkpoint < real
    assert disk_need(recipe, digits).images == 0  # it is prepared now


def test_a_large_training_states_its_sizes(tmp_path, monkeypatch):
    """The paper's network: 60,965,224 parameters with one velocity each."""
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    recipe = override(get_recipe("paper-imagenet"), ["train.keep=last"])
    need = disk_need(recipe, source(100_000))
    assert need == DiskNeed(60_965_224 * 8, 60_965_224 * 4, 100_000 * 256 * 256 * 3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=50 * 10**9))
    assert need.lines(tmp_path / "run", tmp_path / "images", keep_checkpoints=False) == [
        f"disk: the run needs up to 1.7 GB in {tmp_path / 'run'} until it has finished, then 0.2 GB; 50.0 GB are free",
        f"disk: the prepared dataset needs 19.7 GB in {tmp_path / 'images'}; 50.0 GB are free",
    ]
    kept, _ = need.lines(tmp_path / "run", tmp_path / "images", keep_checkpoints=True)
    assert "until it has finished, then 1.2 GB" in kept
    unknown = DiskNeed(need.checkpoint, need.model, None).lines(tmp_path, tmp_path / "images", keep_checkpoints=False)
    assert unknown[1] == f"disk: the prepared dataset goes to {tmp_path / 'images'}; 50.0 GB are free"


@pytest.mark.parametrize(("images", "states_it"), [(0, False), (int(LARGE), True)])
def test_a_small_training_states_nothing(images, states_it, tmp_path):
    assert bool(DiskNeed(10_000, 5_000, images).lines(tmp_path, tmp_path, keep_checkpoints=False)) is states_it


def test_free_space_is_that_of_the_disk_on_which_the_folder_will_be(tmp_path):
    (line, _) = DiskNeed(0, 0, int(2e9)).lines(tmp_path / "not" / "yet", tmp_path / "nor", keep_checkpoints=False)
    assert np.isclose(float(line.split(" GB are free")[0].split()[-1]), shutil.disk_usage(tmp_path).free / 1e9, atol=1)
