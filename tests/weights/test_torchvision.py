"""Parity with ``torchvision.models.alexnet``, through the key table, both ways."""

import pytest
import torch
import torchvision

from alexnet.core.errors import UserError
from alexnet.models.registry import build, create_model, get_architecture
from alexnet.weights.torchvision import from_torchvision, to_torchvision

CLASSES = 10


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return torchvision.models.alexnet(num_classes=CLASSES, dropout=0.0).double()


@pytest.fixture(scope="module")
def ours():
    return create_model("torchvision", num_classes=CLASSES, seed=1, dropout=0).double()


@pytest.mark.parametrize("side", [224, 256, 63])  # at 256 and 63 pool5 is not 6×6 and the adaptive pool acts
def test_from_torchvision(ours, theirs, side):
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    assert_same_function(ours, theirs, side)


def test_to_torchvision(ours, theirs):
    ours.init_weights(7)
    theirs.load_state_dict(to_torchvision(ours.state_dict()))
    assert_same_function(ours, theirs, 224)


def assert_same_function(ours, theirs, side):
    """In fp64, where no tie of a ReLU or a pool is decided by rounding."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    for training in (False, True):  # without dropout both are the same function
        first, second = ours.train(training)(images), theirs.train(training)(images)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-10)
    grads = [
        torch.autograd.grad(logits.square().sum(), weight)[0]
        for logits, weight in ((first, ours.conv1.weight), (second, theirs.features[0].weight))
    ]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-10)


def test_the_table_is_complete_and_there_and_back_is_the_same(theirs):
    state = theirs.state_dict()
    there = from_torchvision(state)
    assert list(there) == [
        f"{layer}.{part}"
        for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
        for part in ("weight", "bias")
    ]
    back = to_torchvision(there)
    assert list(back) == list(state)
    assert all(back[key] is state[key] for key in state)


@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (1000, 3), (21841, 4)])
def test_classes_and_channels_are_free(classes, channels):
    with torch.device("meta"):
        network = torchvision.models.alexnet(num_classes=classes)
        network.features[0] = torch.nn.Conv2d(channels, 64, 11, 4, 2)
    assert from_torchvision(network.state_dict())["fc8.bias"].shape == (classes,)


def test_every_difference_is_listed(theirs):
    state = dict(theirs.state_dict())
    del state["features.0.bias"]
    state["features.1.weight"] = torch.zeros(3)
    state["features.3.weight"] = torch.zeros(256, 48, 5, 5)
    state["features.6.bias"] = torch.zeros(383)
    state["classifier.6.weight"] = torch.zeros(7, 4096)
    state["classifier.4.weight"] = torch.tensor(1.0)
    with pytest.raises(UserError) as caught:
        from_torchvision(state)
    assert caught.value.line == "these are not the weights of torchvision.models.alexnet: 6 differences"
    assert caught.value.details == (
        "missing: features.0.bias",
        "unexpected: features.1.weight",
        "features.3.weight: (256, 48, 5, 5), expected (192, 64, 5, 5)",
        "features.6.bias: (383,), expected (384,)",
        "classifier.4.weight: (), expected (4096, 4096)",
        "classifier.6.bias: (10,), expected (7,)",
    )


def test_another_variant_is_not_it():
    state = build("one-tower", get_architecture("one-tower"), CLASSES, 3, None, device="meta").state_dict()
    with pytest.raises(UserError, match="not the weights of the torchvision variant: 8 differences") as caught:
        to_torchvision(state)
    assert caught.value.details[0] == "conv1.weight: (96, 3, 11, 11), expected (64, any, 11, 11)"
