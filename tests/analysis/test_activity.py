"""Active units counted on networks whose units are known."""

import pytest
import torch

from alexnet.analysis.activity import active_shares
from alexnet.models.alexnet import LinearLayer
from alexnet.models.registry import create_model

pytestmark = pytest.mark.usefixtures("one_thread")
SLIM = (LinearLayer(8), LinearLayer(8))


def test_shares_are_those_of_the_activations():
    """Layer by layer beside the same layers computed here."""
    network = create_model("torchvision", num_classes=4, image_size=63, hidden=SLIM, seed=0)
    images = torch.randn(3, 3, 63, 63, generator=torch.Generator().manual_seed(0))
    shares = active_shares(network, [images[:2], images[2:]])
    expected, x = {}, images
    with torch.no_grad():
        for number in range(1, 6):
            x = getattr(network, f"conv{number}")(x).relu()
            expected[f"conv{number}"] = (x > 0).double().mean().item()
            if number in (1, 2, 5):
                x = network.get_submodule(f"pool{number}")(x)
        x = network.flatten(network.avgpool5(x))
        for name in ("fc6", "fc7"):
            x = getattr(network, name)(x).relu()
            expected[name] = (x > 0).double().mean().item()
    assert shares == pytest.approx(expected)
    assert all(0.1 < share < 0.9 for share in shares.values())


def test_the_network_is_left_as_it_was():
    network = create_model("small", num_classes=4, in_channels=1, image_size=28, seed=0).train()
    before = network(torch.ones(2, 1, 28, 28), {site: torch.ones(2, 512) > 0 for site in ("fc6", "fc7")})
    averages = network.norm1.running_mean.clone()
    active_shares(network, [torch.ones(2, 1, 28, 28)])
    assert network.training
    assert torch.equal(network.norm1.running_mean, averages)
    assert torch.equal(
        before, network(torch.ones(2, 1, 28, 28), {site: torch.ones(2, 512) > 0 for site in ("fc6", "fc7")})
    )


def test_layers_that_are_all_on_or_off():
    network = create_model("small", num_classes=4, in_channels=1, image_size=28, seed=0)
    with torch.no_grad():
        network.norm1.bias.fill_(1e6)
        network.norm2.bias.fill_(-1e12)
    shares = active_shares(network, [torch.randn(2, 1, 28, 28)])
    assert (shares["conv1"], shares["conv2"]) == (1.0, 0.0)
