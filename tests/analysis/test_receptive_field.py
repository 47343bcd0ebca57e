"""Fields measured by gradient against the arithmetic of the layer table."""

import pytest

from alexnet.analysis.receptive_field import pixel_influence, receptive_field
from alexnet.core.errors import UserError
from alexnet.models.alexnet import LinearLayer
from alexnet.models.registry import create_model
from alexnet.models.summary import summarize

pytestmark = pytest.mark.usefixtures("one_thread")
SLIM = {"hidden": (LinearLayer(8), LinearLayer(8))}
PAPER = [("conv1", 11), ("conv2", 51), ("conv3", 99), ("conv4", 131), ("conv5", 163), ("pool5", 195)]


def by_arithmetic(network) -> dict[str, int]:
    return {layer.name: layer.receptive_field for layer in summarize(network).layers if layer.receptive_field}


@pytest.mark.parametrize(("layer", "side"), PAPER)
def test_the_paper_s_fields(layer, side):
    network = create_model("paper", num_classes=2, image_size=447, seed=0, **SLIM)
    assert receptive_field(network, layer) == side == by_arithmetic(network)[layer]


@pytest.mark.parametrize("name", ["cuda-convnet", "d2l", "keras", "batchnorm", "small", "lenet5", "cifar-18pct"])
def test_gradient_and_arithmetic_agree(name):
    side = {"small": 127, "lenet5": 64, "cifar-18pct": 128}.get(name, 511)
    slim = {} if name in ("lenet5", "cifar-18pct") else SLIM
    network = create_model(name, num_classes=2, in_channels=1, image_size=side, seed=0, **slim)
    sides = by_arithmetic(network)
    for layer in [layer for layer in sides if layer.startswith(("conv", "pool"))]:
        assert receptive_field(network, layer) == sides[layer], layer


def test_the_middle_of_a_field_is_reached_by_most_paths():
    found = pixel_influence(create_model("paper", num_classes=2, image_size=447, seed=0, **SLIM), "conv5")
    top, left = (int(axis.nonzero()[0]) for axis in (found.sum(dim=1), found.sum(dim=0)))
    assert found[top, left] < 0.01 * found.max()
    assert found[top + 163 // 2, left + 163 // 2] > 0.5 * found.max()


def test_an_unknown_layer_is_named():
    with pytest.raises(UserError, match="unknown layer 'conv9'"):
        pixel_influence(create_model("small", num_classes=2, in_channels=1, seed=0), "conv9")
