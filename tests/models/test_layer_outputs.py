"""Layer outputs by name: they are what the layers computed, and the network is left as it was."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from alexnet.core.errors import UserError
from alexnet.models.alexnet import LinearLayer
from alexnet.models.registry import create_model
from alexnet.models.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")
SLIM = {"hidden": (LinearLayer(8), LinearLayer(8))}


def small_form(name):
    """A variant with few hidden units, for small images."""
    row = VARIANTS[name]
    slim = {} if row.architecture is None else SLIM
    side = {"small": 28, "lenet5": 28}.get(name, None if row.architecture is None else 80)
    return create_model(name, num_classes=4, in_channels=row.in_channels, image_size=side, seed=0, **slim).eval()


def images(network):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(3, network.in_channels, network.image_size, network.image_size, generator=draws)


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_are_those_of_the_outputs_and_the_last_is_the_networks(name):
    network = small_form(name)
    x = images(network)
    with torch.no_grad():
        outputs = network.layer_outputs(x)
        logits = network(x)
    assert {layer: tuple(output.shape[1:]) for layer, output in outputs.items()} == network.layer_shapes()
    assert torch.equal(list(outputs.values())[-1], logits)
    assert network.last_hidden_layer() in outputs
    assert outputs[network.last_conv_output()].dim() == 4


def test_the_paper_s_layers_have_caffe_s_names():
    network = small_form("paper")
    assert list(network.layer_shapes()) == [
        *("conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3", "conv4", "relu4"),
        *("conv5", "relu5", "pool5", "fc6", "relu6", "fc7", "relu7", "fc8"),
    ]
    assert (network.last_hidden_layer(), network.last_conv_output()) == ("relu7", "relu5")


def test_outputs_are_the_layers_own():
    network = small_form("torchvision")
    x = images(network)
    with torch.no_grad():
        outputs = network.layer_outputs(x, ("conv2", "relu2", "fc7"))
        y = network.conv2(network.pool1(F.relu(network.conv1(x))))
    assert list(outputs) == ["conv2", "relu2", "fc7"]
    assert torch.equal(outputs["conv2"], y)
    assert torch.equal(outputs["relu2"], F.relu(y))


def test_nothing_is_left_on_the_network():
    network = small_form("small")
    before = {module: len(module._forward_hooks) for module in network.modules()}
    network.layer_outputs(images(network))
    with pytest.raises(UserError, match="unknown layer 'relu9': did you mean"):
        network.layer_outputs(images(network), ("relu9",))
    assert {module: len(module._forward_hooks) for module in network.modules()} == before


def test_gradients_flow_through_the_outputs():
    network = small_form("torchvision")
    x = images(network).requires_grad_(True)
    outputs = network.layer_outputs(x, ("relu5", "fc8"))
    (gradient,) = torch.autograd.grad(outputs["fc8"].sum(), outputs["relu5"])
    assert gradient.abs().sum() > 0


def test_threads_on_one_network_get_their_own_outputs():
    network = create_model("small", num_classes=5, in_channels=3, image_size=28, seed=0).eval()
    draws = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 28, 28, generator=draws) for _ in range(4)]
    with torch.inference_mode():
        expected = [network.layer_outputs(image, ("conv2", "fc7")) for image in images]

    def ask(number):
        with torch.inference_mode():
            found = network.layer_outputs(images[number % 4], ("conv2", "fc7"))
        return all(torch.equal(found[name], expected[number % 4][name]) for name in found) and len(found) == 2

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(100)))
