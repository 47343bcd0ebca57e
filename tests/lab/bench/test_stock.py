"""Ours and the same network of torch's own layers: one function, forward and backward, in every precision.

In float64 they agree to rounding. In fp32 outputs do; gradients jump where ReLU and pools are near a tie, so they are
compared in float64 only. In bf16 a gradient may be as far from the one in float64 as stock autocast's is.
"""

import copy
import statistics

import pytest
import torch

from alexnet.kernels.accelerate import accelerate
from alexnet.models.layers import draw_masks
from alexnet.models.registry import get_architecture
from alexnet.models.variants import VARIANTS
from alexnet.runtime.device import DeviceConfig
from alexnet_lab.bench.stock import network_of, stock_network

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None]
CPU = torch.device("cpu")
FURTHER = 1.2  # than stock autocast from float64, at most
SMALL = 80  # pixels: an eighth of the work, with every layer and every kernel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def images_for(network, images, seed=2):
    draws = torch.Generator().manual_seed(seed)
    shape = (images, network.in_channels, network.image_size, network.image_size)
    labels = torch.randint(0, network.num_classes, (images,), generator=draws)
    return torch.randn(shape, generator=draws, dtype=torch.float64), labels


def gradients(network, x, y):
    return gradients_of(torch.nn.functional.cross_entropy(network(x).double(), y), network)


def gradients_of(loss, network):
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, trained)])


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
    side = min(SMALL, 2 * get_architecture(name).image_size)
    exact = randomised(name, image_size=side)
    short = randomised(name, image_size=side).float()
    stock = stock_network(short)
    device_config = DeviceConfig(CPU, bf16=True)
    ours = accelerate(device_config.to_device(copy.deepcopy(short)), device_config, training=True)
    ratios = []
    for seed in range(3):  # in a single batch, one tie at a pool can decide
        x, y = images_for(exact, 16, seed)
        reference, slope = exact(x), gradients(exact, x, y)
        assert distance(short(x.float()), reference) < 1e-5
        with device_config.autocast():
            assert distance(ours(x.float()), reference) < 2e-2
            mine, theirs = gradients(ours, x.float(), y), gradients(stock, x.float(), y)
        assert distance(mine, slope) > 0
        ratios.append(distance(mine, slope) / distance(theirs, slope))
    assert statistics.median(ratios) <= FURTHER


def test_stock_keeps_the_mode_it_is_given(randomised):
    assert not stock_network(randomised("torchvision").eval()).training
    assert stock_network(randomised("torchvision").train()).training


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.network])
def test_a_baseline_is_written_with_torch_s_layers_already(name):
    network = network_of(name).double().eval()
    stock = stock_network(network)
    assert stock is not network
    x, _ = images_for(network, 2)
    torch.testing.assert_close(network(x), stock(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_training_step_is_the_reference_s(name, randomised):
    """With the batch's own statistics and the same dropout masks, forward and backward."""
    ours = randomised(name).train()
    reference = copy.deepcopy(ours)
    x, y = images_for(ours, 4)
    masks = draw_masks(ours.dropout_sites, 4, 0, 0, CPU)
    config = DeviceConfig(CPU, bf16=False)
    ours = accelerate(config.to_device(ours), config, training=True)
    outputs, slopes = [], []
    for network, images in ((ours, x.contiguous(memory_format=torch.channels_last)), (reference, x)):
        logits = network(images, masks)
        loss = torch.nn.functional.cross_entropy(logits, y)
        outputs.append(logits.detach())
        slopes.append(gradients_of(loss, network))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9 * float(slopes[1].abs().max()))
    averages = [dict(network.named_buffers()) for network in (ours, reference)]
    for key, value in averages[0].items():
        torch.testing.assert_close(value, averages[1][key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.network])
def test_a_baseline_s_fast_path_is_near_its_reference(name, randomised):
    exact = randomised(name)
    x, _ = images_for(exact, 4)
    reference, short = exact(x), randomised(name).float()
    for device_config, near in ((DeviceConfig(CPU, bf16=False), 1e-5), (DeviceConfig(CPU, bf16=True), 2e-2)):
        frozen = accelerate(short, device_config)
        with torch.inference_mode(), device_config.autocast():
            assert distance(frozen(device_config.to_memory_format(x.float())).double(), reference) < near


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_rounded_once_give_the_same_bits(name, randomised):
    """What a predictor holds, beside autocast, which rounds them for every batch."""
    network, device_config = randomised(name).float(), DeviceConfig(CPU, bf16=True)
    x, _ = images_for(network, 2)
    images = device_config.to_memory_format(x.float())
    frozen = accelerate(network, device_config)
    placed = accelerate(device_config.to_device(network), device_config, training=True).eval()
    with torch.inference_mode(), device_config.autocast():
        assert torch.equal(frozen(images), placed(images))
        assert torch.equal(frozen(images[:1]), placed(images[:1]))
