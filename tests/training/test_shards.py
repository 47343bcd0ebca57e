"""Training from shards: bitwise the training on the prepared dataset, also interrupted and with blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet.data.prepared import open_or_prepare
from alexnet.data.shard_writer import write_shards
from alexnet.data.sources import open_source
from alexnet.runtime.device import resolve_device
from alexnet.runtime.run import start_or_continue
from alexnet.training.loop import Training


@pytest.fixture
def datasets(make_digits_store, home, tmp_path):
    local = make_digits_store(100, 20)
    write_shards(local, str(tmp_path / "shards"), shard_bytes=13 * 64)
    return local, open_or_prepare(open_source(str(tmp_path / "shards")))


def weights_after(folder, recipe, dataset, notes, steps=None):
    run = start_or_continue(folder, recipe, 3, dataset.name, dataset.digest)
    training = Training(recipe, dataset, run, 3, resolve_device("cpu", "fp32"), notes)
    if steps is None:
        training.fit(lambda run: None)
    else:
        training_with_checkpoint(training, steps)
    return {name: value.clone() for name, value in training.network.state_dict().items()}


def training_with_checkpoint(training, steps):
    from alexnet.runtime.log import Clock

    with training.log() as log:
        training.begin(log)
        with training.loader() as batches:
            for batch in batches:
                training.step(batch)
                if training.state.step == steps:
                    break
        training.checkpoint(log, Clock(0.0))


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("block", [None, 30])
def test_the_weights_have_the_same_bits(tmp_path, datasets, small_recipe, notes, block):
    recipe = replace(small_recipe, data=replace(small_recipe.data, shuffle_block=block))
    recipe = replace(recipe, train=replace(recipe.train, epochs=2))
    local, remote = datasets
    expected = weights_after(tmp_path / "local", recipe, local, notes)
    assert equal(weights_after(tmp_path / "shards", recipe, remote, notes), expected)
    weights_after(tmp_path / "both", recipe, local, notes, steps=5)  # begun on one, continued on the other
    assert equal(weights_after(tmp_path / "both", recipe, remote, notes), expected)


def test_a_block_changes_the_order_only(datasets, small_recipe, tmp_path, notes):
    local, _ = datasets
    recipe = replace(small_recipe, data=replace(small_recipe.data, shuffle_block=30))
    run = start_or_continue(tmp_path / "run", recipe, 0, local.name, local.digest)
    training = Training(recipe, local, run, 0, resolve_device("cpu", "fp32"), notes)
    seen = np.concatenate([training.order.at(step)[1] for step in range(training.order.steps_per_epoch)])
    assert np.array_equal(np.sort(seen), local.subset("train"))
