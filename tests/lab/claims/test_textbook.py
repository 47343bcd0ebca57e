"""The textbook's loop: its network is ours layer for layer, and both are timed on the same images."""

import numpy as np
import pytest
import torch

from alexnet.config import override
from alexnet.models.registry import create_model
from alexnet.recipes import get_recipe
from alexnet_lab.bench import textbook
from alexnet_lab.bench.textbook import TextbookImages, compare, textbook_network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_its_network_is_the_variant_d2l():
    ours, theirs = create_model("d2l", seed=0, num_classes=10, in_channels=1).eval(), textbook_network().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.rand(2, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-5)


def test_its_images_are_the_training_images(make_digits_store):
    dataset = make_digits_store(train=20, test=10)
    images = TextbookImages(dataset, 16)
    assert len(images) == 20
    image, label = images[3]
    place = dataset.subset("train")[3]
    assert image.shape == (1, 16, 16)
    assert label == dataset.targets[place]
    assert image.mean().item() == pytest.approx(np.mean(dataset.images[place]) / 255, abs=0.05)


def test_both_are_timed_by_turns(make_digits_store, cpu, monkeypatch):
    monkeypatch.setattr(textbook, "matrix_rate", lambda device_config: 1.0)
    recipe = override(get_recipe("d2l-fashion-mnist"), ["train.batch_size=2", "train.test_curve=false"])
    dataset = make_digits_store(train=10, test=0)
    value = compare(dataset.path, cpu, recipe=recipe, rounds=2, seconds=0, workers=1)
    assert [set(turn) for turn in value["rounds"]] == [{"ours", "stock"}] * 2
    assert all(rate > 0 for turn in value["rounds"] for rate in turn.values())
    assert value["recipe"] == "d2l-fashion-mnist"
