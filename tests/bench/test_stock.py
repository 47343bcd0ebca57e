"""Ours and the same network of torch's own layers: one function, forward and backward, in every precision.

In float64 they agree to rounding. In fp32 outputs do; gradients jump where ReLU and pools are near a tie, so they are
compared in float64 only. In bf16 a gradient may be as far from the one in float64 as stock autocast's is.
"""

import pytest
import torch

from alexnet.bench.stock import network_of, stock_network
from alexnet.core.errors import UserError
from alexnet.model.variants import VARIANTS
from alexnet.runtime.device import Machine

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None]
CPU = torch.device("cpu")
FURTHER = 1.2  # than stock autocast from float64, at most

pytestmark = pytest.mark.usefixtures("one_thread")


def images_for(network, images):
    draws = torch.Generator().manual_seed(2)
    shape = (images, network.in_channels, network.image_size, network.image_size)
    labels = torch.randint(0, network.num_classes, (images,), generator=draws)
    return torch.randn(shape, generator=draws, dtype=torch.float64), labels


def gradients(network, x, y):
    loss = torch.nn.functional.cross_entropy(network(x).double(), y)
    return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def distance(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("name", ALEXNETS)
def test_in_float64_both_are_one_function(name, randomised):
    ours = randomised(name)
    stock = stock_network(ours)
    x, y = images_for(ours, 2)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-10, atol=1e-10)
    mine, theirs = gradients(ours, x, y), gradients(stock, x, y)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ALEXNETS)
def test_in_short_precisions_ours_is_as_near_to_float64_as_stock(name, randomised):
    exact = randomised(name)
    x, y = images_for(exact, 12)  # so many that one tie at a pool does not decide
    reference, slope = exact(x), gradients(exact, x, y)
    short = randomised(name).float()
    stock = stock_network(short)
    assert distance(short(x.float()), reference) < 1e-5
    machine = Machine(CPU, bf16=True)
    ours = machine.place(short)
    with machine.autocast():
        assert distance(ours(x.float()), reference) < 2e-2
        mine, theirs = gradients(ours, x.float(), y), gradients(stock, x.float(), y)
    assert 0 < distance(mine, slope) <= FURTHER * distance(theirs, slope)


def test_stock_keeps_the_mode_it_is_given(randomised):
    assert not stock_network(randomised("torchvision").eval()).training
    assert stock_network(randomised("torchvision").train()).training


def test_a_baseline_has_no_stock_form():
    with pytest.raises(UserError, match="variant 'lenet5' is no AlexNet"):
        network_of("lenet5")
