"""Local response normalization, fast: against the paper's formula number by number, torch's layer, and its
reference.
"""

import itertools

import pytest
import torch
from torch import nn

from alexnet.kernels import lrn
from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.models.layers import LocalResponseNorm

BOTH = pytest.mark.parametrize("kind", [LocalResponseNorm, FastLocalResponseNorm])


@BOTH
@pytest.mark.parametrize("size", [1, 3, 4, 5, 9])
def test_mean_convention_is_torchs(size, kind):
    torch.manual_seed(size)
    x = (3 * torch.randn(2, 12, 5, 6)).requires_grad_()
    ours = kind(size, 0.5, 0.75, 2.0, "mean", groups=1)(x)
    theirs = nn.LocalResponseNorm(size, 0.5, 0.75, 2.0)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(ours)
    grads = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def paper_norm(x, size, alpha, beta, k, groups):
    """b = a / (k + α Σ a²)^β over the window, one number after another; windows end at the border of their column."""
    images, maps, height, width = x.shape
    out = torch.empty_like(x)
    for image, i, y, z in itertools.product(range(images), range(maps), range(height), range(width)):
        first = i // (maps // groups) * (maps // groups)
        window = range(max(first, i - size // 2), min(first + maps // groups - 1, i + (size - 1) // 2) + 1)
        total = sum(float(x[image, j, y, z]) ** 2 for j in window)
        out[image, i, y, z] = float(x[image, i, y, z]) / (k + alpha * total) ** beta
    return out


@pytest.mark.parametrize(("size", "groups"), [(5, 1), (5, 2), (4, 1), (4, 3), (9, 2)])
@BOTH
def test_sum_convention_is_the_papers_formula(size, groups, kind):
    torch.manual_seed(1)
    x = 30 * torch.randn(2, 12, 2, 3, dtype=torch.float64)
    ours = kind(size, 1e-4, 0.75, 2.0, "sum", groups)(x)
    torch.testing.assert_close(ours, paper_norm(x, size, 1e-4, 0.75, 2.0, groups), rtol=1e-12, atol=1e-12)


@BOTH
def test_it_has_the_gradient_of_its_formula(kind):
    torch.manual_seed(2)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    for size, beta, groups in ((5, 0.75, 2), (4, 0.75, 1), (9, 0.6, 1)):
        assert torch.autograd.gradcheck(kind(size, 0.3, beta, 1.0, "sum", groups), x)


@BOTH
def test_it_keeps_fp32_inside_autocast_and_its_input_s_type(kind):
    torch.manual_seed(3)
    norm, x = kind(5, 1e-2, 0.75, 2.0, "sum", groups=1), 10 * torch.randn(2, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(x), norm(x.double()).float(), rtol=1e-6, atol=1e-6)
        short = norm(x.bfloat16())
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short, norm(x.bfloat16().float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_blocks_and_layouts_in_memory_change_nothing(dtype, memory, monkeypatch):
    torch.manual_seed(5)
    norm = FastLocalResponseNorm(5, 1e-2, 0.75, 2.0, "sum", groups=2)
    x, g = (10 * torch.randn(3, 16, 5, 7, dtype=dtype) for _ in range(2))

    def both(x):
        x = x.requires_grad_()
        y = norm(x)
        return y, torch.autograd.grad(y, x, g)[0]

    expected = both(x)
    monkeypatch.setattr(lrn, "CACHED", 11 * 16)  # 11 of 105 places at once: the last block is shorter
    for ours, whole in zip(both(x.detach().to(memory_format=memory)), expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, whole, rtol=0, atol=0)


def test_the_gradient_in_bf16_is_the_one_in_fp32_rounded_once():
    torch.manual_seed(6)
    norm = FastLocalResponseNorm(5, 1e-2, 0.75, 2.0, "mean", groups=1)
    x, g = (10 * torch.randn(2, 16, 3, 3).bfloat16() for _ in range(2))
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = x.to(dtype).requires_grad_()
        gradients += torch.autograd.grad(norm(leaf), leaf, g.to(dtype))
    torch.testing.assert_close(gradients[0], gradients[1].bfloat16(), rtol=0, atol=0)


@BOTH
def test_it_runs_under_deterministic_algorithms_without_a_gradient_and_on_no_device(kind):
    norm = kind(5, 1e-4, 0.75, 2.0, "sum", groups=1)
    x = torch.randn(2, 96, 5, 5)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            y = norm(x)
        leaf = x.clone().requires_grad_()
        one, other = (torch.autograd.grad(norm(leaf).sum(), leaf)[0] for _ in range(2))
        assert torch.equal(one, other)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(y, nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)(x))
    assert norm(x.to("meta")).shape == x.shape


@pytest.mark.parametrize(
    ("size", "groups", "beta"), [(5, 1, 0.75), (5, 2, 0.75), (4, 1, 0.75), (9, 1, 0.75), (3, 2, 0.5)]
)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_fast_layer_equals_the_reference_forward_and_backward(size, groups, beta, dtype, near):
    torch.manual_seed(7)
    fast, reference = (
        kind(size, 1e-2, beta, 2.0, "sum", groups) for kind in (FastLocalResponseNorm, LocalResponseNorm)
    )
    x, g = (10 * torch.randn(2, 16, 5, 7, dtype=dtype) for _ in range(2))
    outcomes = []
    for norm in (fast, reference):
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        outcomes.append((y, *torch.autograd.grad(y, leaf, g)))
    for mine, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=near, atol=near)
    assert outcomes[1][0].is_contiguous()
