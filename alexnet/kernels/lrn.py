"""Fast local response normalization: blocks that fit a CPU's cache, and a gradient that is written out.

The formula is that of Krizhevsky, Sutskever and Hinton (2012), §3.3: b_i = a_i · (k + α Σ_j a_j²)^−β, with j over the
window of channels around i. With d_i for the bracket and g for the incoming gradient, ∂/∂a_i = g_i d_i^−β −
2αβ a_i Σ_j g_j a_j d_j^(−β−1), with j over the channels that have i in their window. As a chain of library calls on
whole tensors, most of the time goes into memory traffic: a training step of the paper's network spends more on it than
on all convolutions. Here a block of pixels goes through the whole chain while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.models.layers import LocalResponseNorm, at_least_fp32

CACHED = 2**18  # numbers in one block on a CPU; a GPU takes the whole tensor as one block


@dataclass(frozen=True)
class Window:
    """Which channels are summed (``size`` of them, inside each of ``groups`` groups), and the constants of the formula.

    An even window reaches one channel further down than up, like torch's. ``a`` multiplies the sum of squares.
    """

    size: int
    groups: int
    a: float
    beta: float
    k: float

    def pairs(self, to: Tensor, source: Tensor, sign: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of two tensors ``(pixels, channels)`` in which channel i of ``to`` lies beside channel i + sign · δ of
        ``source``: one pair for each δ of the window except 0.
        """
        columns = to.shape[1] // self.groups
        to, source = (rows.view(-1, self.groups, columns) for rows in (to, source))
        for shift in range(-(self.size // 2), (self.size - 1) // 2 + 1):
            if shift and (length := columns - abs(shift)) > 0:
                start = max(0, sign * shift)
                yield to.narrow(2, start - sign * shift, length), source.narrow(2, start, length)

    def root(self, x: Tensor) -> Tensor:
        """d^−½ of the bracket d = k + a Σ x², ``(pixels, channels)``."""
        d = torch.addcmul(x.new_full((), self.k), x, x, value=self.a)
        for to, source in self.pairs(d, x, 1):
            to.addcmul_(source, source, value=self.a)
        return d.rsqrt_()

    def power(self, root: Tensor) -> Tensor:
        """d^−β; for the β = 3/4 of every published network by a second root, a quarter of the cost of a power."""
        return root.sqrt().mul_(root) if self.beta == 0.75 else root.pow(2 * self.beta)

    def gradient(self, x: Tensor, g: Tensor, root: Tensor) -> Tensor:
        """The gradient with respect to ``x``, from the gradient ``g`` with respect to the output."""
        direct = self.power(root).mul_(g)
        through = torch.mul(root, root).mul_(direct).mul_(x)
        total = through.clone()
        for to, source in self.pairs(total, through, -1):
            to.add_(source)
        return direct.addcmul_(total, x, value=-2 * self.a * self.beta)


class _Normalize(torch.autograd.Function):
    """Forward and backward over blocks of pixels. Saved between them: ``x``, and d^−½, which costs more to compute
    again than to read.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        ctx.window = window
        y = torch.empty_like(x, memory_format=torch.channels_last)
        roots = []
        for some, out in zip(_blocks(x), _blocks(y), strict=True):
            wide = at_least_fp32(some)
            root = window.root(wide)
            out.copy_(window.power(root).mul_(wide))
            if ctx.needs_input_grad[0]:
                roots.append(root)
        ctx.save_for_backward(x, *roots)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, *roots = ctx.saved_tensors
        result = torch.empty_like(x, memory_format=torch.channels_last)
        for some, arriving, root, out in zip(_blocks(x), _blocks(g), roots, _blocks(result), strict=True):
            out.copy_(ctx.window.gradient(at_least_fp32(some), at_least_fp32(arriving), root))
        return result, None


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """``(N, C, H, W)`` as blocks ``(pixels, C)``: views if ``x`` is channels last in memory."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    at_once = CACHED // x.shape[1] if x.device.type == "cpu" else len(rows)
    return torch.split(rows, max(1, at_once))


class FastLocalResponseNorm(LocalResponseNorm):
    """:class:`~alexnet.models.layers.LocalResponseNorm`, several times as fast. Its gradient is of first order only.

    ``(N, C, H, W)`` → same shape and dtype, channels last in memory; deterministic on every device.
    """

    def forward(self, x: Tensor) -> Tensor:
        a = self.alpha if self.convention == "sum" else self.alpha / self.size
        y: Tensor = _Normalize.apply(x, Window(self.size, self.groups, a, self.beta, self.k))
        return y
