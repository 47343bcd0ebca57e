"""Local response normalization for a GPU as two Triton kernels: the forward pass, and the gradient.

The formulas are those of ``lrn.py``. As a chain of library calls, each operation reads and writes the whole tensor, so
a step of the paper's network moves about 125 MB of memory for each image in its two normalizations. Here each number is
read from memory once and written once; its neighbours come from the cache. The gradient computes the brackets again, so
only ``x`` is saved.

The tensor is read as one row of numbers, channels last: the place of number i in its group of channels is i modulo the
channels of a group. Every number is written by one program, without atomic operations, so the results are
deterministic. Sums are fp32.

**This has been run with Triton's interpreter on a CPU only, never on a GPU** (``tests/kernels/test_triton_lrn.py``).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024  # numbers of one program


@triton.jit
def _forward(x_ptr, y_ptr, total, per_group, a, beta, k, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    place = i % per_group
    bracket = tl.zeros([BLOCK], tl.float32) + k
    for step in tl.static_range(SIZE):
        there = place + (step - SIZE // 2)
        near = tl.load(x_ptr + i + (step - SIZE // 2), inside & (there >= 0) & (there < per_group), 0.0).to(tl.float32)
        bracket += a * near * near
    x = tl.load(x_ptr + i, inside, 0.0).to(tl.float32)
    y = x * tl.exp(-beta * tl.log(bracket))
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _backward(
    x_ptr,
    g_ptr,
    result_ptr,
    total,
    per_group,
    a,
    beta,
    k,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    place = i % per_group
    x = tl.load(x_ptr + i, inside, 0.0).to(tl.float32)
    direct = tl.zeros([BLOCK], tl.float32)
    through = tl.zeros([BLOCK], tl.float32)
    for step in tl.static_range(SIZE):
        shift = SIZE // 2 - step  # number i is in the window of number i + shift
        there = place + shift
        exists = inside & (there >= 0) & (there < per_group)
        bracket = tl.zeros([BLOCK], tl.float32) + k
        for near_step in tl.static_range(SIZE):
            near_shift = shift + near_step - SIZE // 2
            near_there = place + near_shift
            wanted = exists & (near_there >= 0) & (near_there < per_group)
            near = tl.load(x_ptr + i + near_shift, wanted, 0.0).to(tl.float32)
            bracket += a * near * near
        g = tl.load(g_ptr + i + shift, exists, 0.0).to(tl.float32)
        power = tl.exp(-beta * tl.log(bracket))
        if shift == 0:
            direct = g * power
        other = tl.load(x_ptr + i + shift, exists, 0.0).to(tl.float32)
        through += g * other * power / bracket
    result = direct - 2.0 * a * beta * x * through
    tl.store(result_ptr + i, result.to(result_ptr.dtype.element_ty), inside)


def normalize(x: Tensor, size: int, groups: int, a: float, beta: float, k: float) -> Tensor:
    """Local response normalization of ``x`` ``(N, C, H, W)``: same shape and dtype, channels last in memory.

    ``size``: channels in a window; ``groups``: no window crosses the border of a group; ``a`` multiplies the sum of
    squares; ``beta``, ``k``: see :class:`~alexnet.models.layers.LocalResponseNorm`. It can be differentiated once.
    """
    y: Tensor = _Normalize.apply(x, size, groups, a, beta, k)
    return y


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, groups: int, a: float, beta: float, k: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        ctx.settings = x.shape[1] // groups, a, beta, k, size
        ctx.save_for_backward(x)
        _launch(_forward, x, (x, y), ctx.settings)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        result = torch.empty_like(x, memory_format=torch.channels_last)
        g = g.to(x.dtype).contiguous(memory_format=torch.channels_last)
        _launch(_backward, x, (x, g, result), ctx.settings)
        return result, None, None, None, None, None


def _launch(
    kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], settings: tuple[int, float, float, float, int]
) -> None:
    per_group, a, beta, k, size = settings
    grid = (triton.cdiv(x.numel(), BLOCK),)
    with torch.cuda.device(x.device if x.is_cuda else -1):
        kernel[grid](*tensors, x.numel(), per_group, a, beta, k, SIZE=size, BLOCK=BLOCK)
