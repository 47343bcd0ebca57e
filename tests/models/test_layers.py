"""Each layer against a library's, or against the formula written out."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet.models.layers import (
    AdaptiveAvgPool,
    Conv2d,
    Dropout,
    WithinChannelLRN,
    counter_mask,
    draw_masks,
    padding_amounts,
    window_count,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "rule", "amounts"),
    [
        (224, 11, 4, "ceil", (0, 3)),  # 55 windows: the last begins at 216 and reads to 226
        (225, 11, 4, "ceil", (0, 2)),
        (227, 11, 4, "ceil", (0, 0)),
        (228, 11, 4, "ceil", (0, 3)),
        (11, 11, 4, "ceil", (0, 0)),
        (10, 11, 4, "ceil", (0, 0)),  # not one window: refused elsewhere, not padded into one
        (224, 11, 4, "same", (3, 4)),
        (27, 5, 1, "same", (2, 2)),
        (13, 3, 1, "same", (1, 1)),
        (8, 2, 2, "same", (0, 0)),
        (9, 2, 1, "same", (0, 1)),
        (224, 11, 4, 2, (2, 2)),
    ],
)
def test_padding_amounts_of_known_sizes(size, kernel, stride, rule, amounts):
    assert padding_amounts(size, kernel, stride, rule) == amounts


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 6))
def test_paddings_give_the_output_size_that_they_promise(size, kernel, stride):
    before, after = padding_amounts(size, kernel, stride, "same")
    assert after - before in (0, 1)
    assert window_count(max(size + before + after, kernel), kernel, stride) == math.ceil(size / stride)
    if size >= kernel:
        before, after = padding_amounts(size, kernel, stride, "ceil")
        assert before == 0
        assert after < stride
        assert window_count(size + after, kernel, stride) == math.ceil((size - kernel) / stride) + 1


@pytest.mark.parametrize(("rule", "amounts"), [("ceil", (0, 3, 0, 1)), ("same", (3, 4, 4, 5)), (2, (2, 2, 2, 2))])
def test_convolution_pads_as_its_rule_says(rule, amounts):
    torch.manual_seed(0)
    conv = Conv2d(4, 6, 11, 4, rule, groups=2).double()
    x = torch.randn(2, 4, 22, 24, dtype=torch.float64)  # 22 rows, 24 columns: each axis has amounts of its own
    expected = F.conv2d(F.pad(x, amounts), conv.weight, conv.bias, stride=4, groups=2)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=0)


def test_ceil_padding_reads_zeros_below_and_right():
    conv = Conv2d(1, 1, 11, 4, "ceil", groups=1)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    y = conv(torch.ones(1, 1, 224, 224))
    assert y.shape == (1, 1, 55, 55)
    assert y[0, 0, 0, 0] == 121
    assert y[0, 0, 0, 54] == y[0, 0, 54, 0] == 11 * 8
    assert y[0, 0, 54, 54] == 8 * 8


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("ceil", [False, True])
def test_window_count_is_what_torch_pools_to(kernel, stride, ceil):
    for size in range(kernel, 40):
        pooled = F.max_pool2d(torch.zeros(1, 1, size, size), kernel, stride, ceil_mode=ceil)
        # torch drops a last window that lies wholly outside, which a stride above the kernel can make
        expected = min(window_count(size, kernel, stride, ceil=ceil), (size - 1) // stride + 1)
        assert pooled.shape[2] == expected
    assert window_count(kernel - 1, kernel, stride, ceil=ceil) == 0


def test_pools_rounding_differs_where_caffe_and_torch_differ():
    assert [window_count(n, 3, 2, ceil=True) for n in (55, 54, 27, 13)] == [27, 27, 13, 6]
    assert [window_count(n, 3, 2, ceil=False) for n in (55, 54, 27, 13)] == [27, 26, 13, 6]


def test_in_map_norm_is_its_formula():
    torch.manual_seed(4)
    x = 30 * torch.randn(1, 2, 6, 7, dtype=torch.float64)
    expected = torch.empty_like(x)
    for c, i, j in itertools.product(range(2), range(6), range(7)):
        window = x[0, c, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
        expected[0, c, i, j] = x[0, c, i, j] / (1 + 1e-3 / 25 * float((window**2).sum())) ** 0.75
    torch.testing.assert_close(WithinChannelLRN(5, 1e-3, 0.75)(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(WithinChannelLRN(5, 0.3, 0.75), x[:, :, :3, :3].clone().requires_grad_())


@pytest.mark.parametrize(("scaling", "trained", "tested"), [("train", 1 / 0.7, 1.0), ("test", 1.0, 0.7)])
def test_dropout_scales_once(scaling, trained, tested):
    layer, x = Dropout(0.3, scaling), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True, False, True, False]])
    torch.testing.assert_close(layer(x, mask), torch.tensor([[1.0, 0.0, 3.0, 0.0]]) * trained)
    torch.testing.assert_close(layer.eval()(x, mask), x * tested)


@pytest.mark.parametrize("scaling", ["train", "test"])
def test_dropout_expects_what_evaluation_gives(scaling):
    layer, x = Dropout(0.3, scaling), torch.full((2000, 500), 2.0)
    torch.manual_seed(5)
    mean = layer(x).mean()
    std = 2 * math.sqrt(0.3 / 0.7 / x.numel())
    assert abs(mean - layer.eval()(x).mean()) < 5 * std


def test_dropout_without_a_mask_follows_torchs_generator():
    layer, x = Dropout(0.5), torch.ones(4, 100)
    draws = []
    for seed in (6, 6, 7):
        torch.manual_seed(seed)
        draws.append(layer(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_masks_are_a_function_of_seed_step_and_site():
    sites, cpu = {"fc6": (64, 0.5), "fc7": (64, 0.5)}, torch.device("cpu")
    state = torch.random.get_rng_state()
    first = draw_masks(sites, 8, seed=1, step=5, device=cpu)
    draw_masks(sites, 8, seed=1, step=6, device=cpu)
    again = draw_masks(dict(reversed(sites.items())), 8, seed=1, step=5, device=cpu)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(mask.shape == (8, 64) and mask.dtype == torch.bool for mask in first.values())
    assert all(torch.equal(first[site], again[site]) for site in sites)
    others = [first["fc7"], draw_masks(sites, 8, 2, 5, cpu)["fc6"], draw_masks(sites, 8, 1, 6, cpu)["fc6"]]
    assert not any(torch.equal(first["fc6"], other) for other in others)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_masks_have_their_rate(seed, step, rate):
    mask = draw_masks({"fc6": (1000, rate)}, 100, seed, step, torch.device("cpu"))["fc6"]
    assert abs(float(mask.float().mean()) - (1 - rate)) <= 6 * math.sqrt(rate * (1 - rate) / mask.numel())


@pytest.mark.parametrize(("height", "width", "side"), [(1, 1, 6), (7, 7, 6), (13, 9, 6), (4, 11, 3)])
def test_adaptive_pool_is_torchs(height, width, side):
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    ours, theirs = AdaptiveAvgPool(side)(x), torch.nn.AdaptiveAvgPool2d(side)(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weight = torch.randn_like(theirs)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def splitmix64(state):
    """The published generator, in Python's integers: the output after one step from ``state``."""
    wrap = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & wrap
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
    return z ^ (z >> 31)


@pytest.mark.parametrize("key", [0, 1, 2**62 + 12345])
def test_masks_of_a_gpu_are_splitmix64_number_by_number(key):
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first output for seed 0, in published tables
    found = counter_mask(key, 5, 7, 0.3, torch.device("cpu"))
    for place in range(35):
        drawn = splitmix64(key + place * 0x9E3779B97F4A7C15) >> 40
        assert bool(found.flatten()[place]) == (drawn >= round(0.3 * 2**24))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_masks_of_a_gpu_keep_the_right_share_and_do_not_depend_on_the_batch(p):
    mask = counter_mask(99, 400, 1000, p, torch.device("cpu"))
    assert mask.float().mean().item() == pytest.approx(1 - p, abs=0.003)
    assert mask.float().mean(dim=0).std().item() <= 0.03
    assert torch.equal(counter_mask(99, 40, 1000, p, torch.device("cpu")), mask[:40])
    if 0 < p < 1:
        assert (counter_mask(98, 400, 1000, p, torch.device("cpu")) == mask).float().mean() < 0.9
