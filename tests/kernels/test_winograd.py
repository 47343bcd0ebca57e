"""Winograd's convolution against the direct one, and when it is taken."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from alexnet.kernels import winograd
from alexnet.kernels.accelerate import accelerate
from alexnet.kernels.blocked import BlockedLinear
from alexnet.kernels.winograd import POINTS, Filtering, WinogradConv2d, choose, convolve
from alexnet.models.registry import create_model
from alexnet.runtime.device import DeviceConfig

EXACT, ROUNDED = 1e-10, 1e-5  # DESIGN's fourth rule: in fp64, in fp32
FILTERINGS = [Filtering(side - taps + 1, taps) for taps in (3, 5) for side in POINTS if side > taps]


def both_passes(form, *leaves):
    """What a form gives and the gradients of its leaves, for one gradient that arrives."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    y = form(*leaves)
    arriving = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, arriving)]


def distance(one, other):
    """The norm of the difference over the norm."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def layer(channels, filters, taps, groups, height, width, images=3, dtype=torch.float64):
    """An input that a ReLU left, weights and biases."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, height, width, generator=draws, dtype=torch.float64).relu()
    weight = torch.randn(filters, channels // groups, taps, taps, generator=draws, dtype=torch.float64)
    return [each.to(dtype) for each in (x, weight, torch.randn(filters, generator=draws, dtype=torch.float64))]


@pytest.mark.parametrize("filtering", FILTERINGS, ids=str)
@pytest.mark.parametrize(("groups", "size"), [(1, (13, 13)), (2, (12, 7)), (1, (1, 6))])
@pytest.mark.parametrize("around", ["none", "same", "more"])
def test_it_is_the_direct_convolution_forward_and_backward(filtering, groups, size, around):
    taps = filtering.taps
    padding = {"none": 0, "same": taps // 2, "more": taps}[around]
    if min(size) + 2 * padding < taps:
        size = (taps, taps)
    leaves = layer(8, 12, taps, groups, *size)
    ours = both_passes(lambda x, w, b: convolve(x, w, b, padding, groups, filtering), *leaves)
    direct = both_passes(lambda x, w, b: F.conv2d(x, w, b, padding=padding, groups=groups), *leaves)
    for mine, theirs in zip(ours, direct, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("filtering", FILTERINGS, ids=str)
def test_in_fp32_it_rounds_little_more_than_the_direct_convolution(filtering):
    leaves = layer(64, 64, filtering.taps, 1, 13, 13)
    padding = filtering.taps // 2
    exact = both_passes(lambda x, w, b: F.conv2d(x, w, b, padding=padding), *leaves)
    leaves = [leaf.float() for leaf in leaves]
    ours = both_passes(lambda x, w, b: convolve(x, w, b, padding, 1, filtering), *leaves)
    assert max(map(distance, ours, exact)) < ROUNDED


def test_many_images_go_in_blocks_and_only_what_is_asked_for_is_worked_out(monkeypatch):
    leaves = layer(8, 12, 3, 2, 13, 13, images=5)
    together = both_passes(lambda x, w, b: convolve(x, w, b, 1, 2, Filtering(4, 3)), *leaves)
    monkeypatch.setattr(winograd, "CACHED", 2 * 16 * 36 * 10)  # two images of a group
    apart = both_passes(lambda x, w, b: convolve(x, w, b, 1, 2, Filtering(4, 3)), *leaves)
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, rtol=EXACT, atol=EXACT)
    for wanted in range(3):
        given = [leaf.clone().requires_grad_(i == wanted) for i, leaf in enumerate(leaves)]
        convolve(*given, 1, 2, Filtering(4, 3)).sum().backward()
        assert [leaf.grad is not None for leaf in given] == [i == wanted for i in range(3)]


def test_every_layout_in_memory_gives_the_same():
    x, weight, bias = layer(8, 12, 5, 1, 9, 9)
    last = torch.channels_last
    outcomes = [
        convolve(maps, filters, bias, 2, 1, Filtering(3, 5))
        for maps, filters in itertools.product((x, x.to(memory_format=last)), (weight, weight.to(memory_format=last)))
    ]
    assert all(torch.equal(outcome, outcomes[0]) for outcome in outcomes)
    assert outcomes[0].is_contiguous(memory_format=last)


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        ((64, 64, 192, 27, 27, 5), 7),  # torchvision's conv2: nine tiles of three outputs a side, nothing wasted
        ((64, 192, 384, 13, 13, 3), 7),
        ((64, 384, 384, 12, 12, 3), 6),  # d2l's: three tiles of four outputs, nothing wasted
        ((1, 192, 384, 13, 13, 3), None),  # one image: the weights would cost more than they save
        ((64, 3, 64, 55, 55, 11), None),  # no points for so many taps
        ((64, 64, 64, 13, 13, 1), None),
        ((64, 64, 64, -1, -1, 3), None),  # no output at all
        ((64, 4, 4, 13, 13, 3), None),  # too few channels to make up for the transforms
    ],
)
def test_the_filtering_is_the_fastest_or_none(layer, side):
    chosen = choose(*layer)
    assert (chosen and chosen.side) == side


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "DEFAULT"])
def test_layers_take_the_faster_forms_where_they_are_faster(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    conv, linear = WinogradConv2d(64, 192, 5, 1, 2, 1), BlockedLinear(96, 512)
    maps, rows = torch.randn(4, 64, 27, 27), torch.randn(4, 96)
    narrow = capability == "AVX2"
    assert (conv.filtering(maps) is not None) == narrow
    assert (linear(rows).stride() == (1, 4)) == narrow
    assert (conv.filtering(maps.double()) is not None) == narrow
    assert conv.filtering(maps.bfloat16()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.filtering(maps) is None
    assert WinogradConv2d(64, 192, 5, 2, 2, 1).filtering(maps) is None
    assert conv.filtering(maps.to("meta")) is None


@pytest.mark.parametrize("shape", [(0, 96), (2, 3, 96), (96,)])
def test_a_linear_layer_takes_other_shapes_as_torch_does(monkeypatch, shape):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    linear, x = BlockedLinear(96, 512), torch.ones(shape)
    assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("images", [1, 2, 37])
@pytest.mark.parametrize("units", [512, 1000, 1024])
def test_a_linear_layer_in_blocks_is_the_same_layer(monkeypatch, images, units):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    draws = torch.Generator().manual_seed(0)
    fast, reference = BlockedLinear(300, units), torch.nn.Linear(300, units)
    reference.load_state_dict(fast.state_dict())
    x = torch.randn(images, 300, generator=draws)
    ours, theirs = (
        [*both_passes(each, x), *torch.autograd.grad(each(x).square().sum(), list(each.parameters()))]
        for each in (fast, reference)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert distance(mine, other) < ROUNDED


@pytest.mark.parametrize("variant", ["paper", "torchvision", "d2l", "keras"])
def test_a_whole_network_with_avx2(monkeypatch, variant):
    """Logits in fp32, and gradients in float64, where no ReLU flips. That they differ at all shows two kernels at
    work.
    """
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    network = create_model(variant, num_classes=10, in_channels=3, seed=0).eval()
    fast = accelerate(network, DeviceConfig(torch.device("cpu"), bf16=False), training=True)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, network.image_size, network.image_size, generator=draws)

    def logits_and_gradients(each):
        with torch.inference_mode():
            logits = each.float()(x)
        each.double()(x[:4].double()).square().sum().backward()
        gradients = {name: weight.grad for name, weight in each.named_parameters()}
        each.zero_grad(set_to_none=True)
        return logits, gradients

    quick, quick_gradients = logits_and_gradients(fast)
    slow, slow_gradients = logits_and_gradients(network)
    assert 0 < distance(quick, slow) < ROUNDED
    apart = [distance(quick_gradients[name], slow_gradients[name]) for name in slow_gradients]
    assert 0 < max(apart) < 1e-9
