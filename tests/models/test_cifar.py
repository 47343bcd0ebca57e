"""The CIFAR-10 nets beside the same nets written with nothing but torch."""

import pytest
import torch
import torch.nn.functional as F

from alexnet.core.errors import UserError
from alexnet.models.layers import LocallyConnected
from alexnet.models.registry import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


def images(side: int) -> torch.Tensor:
    return 50 * torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def in_map(x: torch.Tensor) -> torch.Tensor:
    """x · (1 + (5e-5/9)·Σ over 3 × 3 of x²)^−0.75."""
    total = F.conv2d(x.square().flatten(0, 1)[:, None], torch.ones(1, 1, 3, 3, dtype=x.dtype), padding=1)
    return x * (1 + 5e-5 / 9 * total.view_as(x)) ** -0.75


def loud(name: str):
    """A net whose first kernels are large enough for its normalizations to be seen, in float64."""
    network = create_model(name, num_classes=10, in_channels=3, seed=0).double()
    with torch.no_grad():
        network.conv1.weight.mul_(300)
    return network.eval()


@pytest.mark.parametrize(("name", "norm"), [("cifar-18pct", in_map), ("cifar-relu", lambda x: x)])
def test_the_net_of_three_convolutions(name, norm):
    net, x = loud(name), images(32).double()
    y = norm(F.relu(F.max_pool2d(net.conv1(x), 3, 2, ceil_mode=True)))
    y = norm(F.avg_pool2d(F.relu(net.conv2(y)), 3, 2, ceil_mode=True))
    y = F.avg_pool2d(F.relu(net.conv3(y)), 3, 2, ceil_mode=True)
    torch.testing.assert_close(net(x), net.fc4(y.flatten(1)), rtol=1e-12, atol=1e-12)


def test_tanh_in_place_of_relu():
    net, x = loud("cifar-tanh"), images(32).double()
    y = torch.tanh(F.max_pool2d(net.conv1(x), 3, 2, ceil_mode=True))
    y = F.avg_pool2d(torch.tanh(net.conv2(y)), 3, 2, ceil_mode=True)
    y = F.avg_pool2d(torch.tanh(net.conv3(y)), 3, 2, ceil_mode=True)
    torch.testing.assert_close(net(x), net.fc4(y.flatten(1)), rtol=1e-12, atol=1e-12)


def test_saturated_tanh_hands_next_to_nothing_back():
    """With first outputs of hundreds, conv1 gets a gradient through ReLU and hardly any through tanh."""
    gradients = {}
    for name in ("cifar-relu", "cifar-tanh"):
        net = loud(name).requires_grad_(True)
        with torch.no_grad():
            net.conv1.weight.mul_(100)
        (gradient,) = torch.autograd.grad(net(images(32).double()).square().sum().sqrt(), net.conv1.weight)
        gradients[name] = float(gradient.norm() * net.conv1.weight.detach().norm())
    assert gradients["cifar-tanh"] < 0.01 * gradients["cifar-relu"]


def test_the_net_of_11_percent():
    net, x = loud("cifar-11pct"), images(24).double()
    norm = torch.nn.LocalResponseNorm(9, 1e-3, 0.75, 1.0)
    y = norm(F.max_pool2d(F.relu(net.conv1(x)), 3, 2, ceil_mode=True))
    y = F.max_pool2d(norm(F.relu(net.conv2(y))), 3, 2, ceil_mode=True)
    y = F.relu(net.local4(F.relu(net.local3(y))))
    torch.testing.assert_close(net(x), net.fc5(y.flatten(1)), rtol=1e-12, atol=1e-12)


def test_a_locally_connected_layer_is_a_filter_for_each_place():
    layer = LocallyConnected(2, 3, 4).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.empty(5, 3, 4, 4, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            window = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            place = 4 * row + column
            expected[:, :, row, column] = window @ layer.weight[place].T + layer.bias[place]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_locally_connected_layer_with_equal_filters_is_a_convolution():
    layer = LocallyConnected(2, 3, 6)
    filters = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight.copy_(filters.flatten(1).expand_as(layer.weight))
        layer.bias.zero_()
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), F.conv2d(x, filters, padding=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "smallest"), [("cifar-18pct", 12), ("cifar-13pct", 6), ("cifar-11pct", 6)])
def test_the_smallest_image_is_named_and_runs(name, smallest):
    assert create_model(name, num_classes=4, in_channels=3, image_size=smallest, seed=0)(images(smallest)).shape == (
        2,
        4,
    )
    with pytest.raises(UserError, match=f"an image of {smallest - 1} pixels is too small: give at least {smallest}"):
        create_model(name, num_classes=4, in_channels=3, image_size=smallest - 1)


def test_each_layer_starts_with_its_own_deviation():
    network = create_model("cifar-11pct", num_classes=10, in_channels=3, seed=0)
    for name, std in (("conv1", 1e-4), ("conv2", 0.01), ("local3", 0.04), ("local4", 0.04), ("fc5", 0.01)):
        assert network.get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.03)
        assert network.get_submodule(name).bias.abs().max() == 0
