"""Fast local response normalization: computed in blocks that fit into a CPU's cache, with an explicit gradient.

The formula is that of Krizhevsky, Sutskever and Hinton (2012), §3.3: b_i = a_i · (k + α Σ_j a_j²)^−β, where j runs over
the window of channels around i. Let d_i be the bracket and g the incoming gradient. Then ∂/∂a_i = g_i d_i^−β −
2αβ a_i Σ_j g_j a_j d_j^(−β−1), where j runs over the channels whose window contains i. If each operation of the formula
is a library call on the whole tensor, most of the time is memory traffic: a training step of the paper's network then
spends more time on it than on all convolutions. Here all operations are applied to one block of pixels while it is in
the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.kernels.fallback import warn_once
from alexnet.kernels.selftest import triton_lrn_fault
from alexnet.models.layers import LocalResponseNorm, at_least_fp32

CACHED = 2**18  # numbers in one block on a CPU; a GPU takes the whole tensor as one block


@dataclass(frozen=True)
class Window:
    """The window of channels and the constants of the formula.

    ``size``: channels in a window; a window of even size includes one more channel below the centre than above it, as
    in torch. ``groups``: no window crosses the border of a group of channels. ``a`` multiplies the sum of squares.
    """

    size: int
    groups: int
    a: float
    beta: float
    k: float

    def pairs(self, to: Tensor, source: Tensor, sign: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of views, of ``to`` and ``source`` ``(pixels, channels)``: a pair for each offset δ ≠ 0 in the window.

        Channel i of ``to`` is at the same position as channel i + sign · δ of ``source``.
        """
        channels = to.shape[1] // self.groups
        to, source = (rows.view(-1, self.groups, channels) for rows in (to, source))
        for shift in range(-(self.size // 2), (self.size - 1) // 2 + 1):
            if shift and (length := channels - abs(shift)) > 0:
                start = max(0, sign * shift)
                yield to.narrow(2, start - sign * shift, length), source.narrow(2, start, length)

    def root(self, x: Tensor) -> Tensor:
        """d^−½ for the bracket d = k + a Σ x²; ``x`` and result ``(pixels, channels)``."""
        d = torch.addcmul(x.new_full((), self.k), x, x, value=self.a)
        for to, source in self.pairs(d, x, 1):
            to.addcmul_(source, source, value=self.a)
        return d.rsqrt_()

    def power(self, root: Tensor) -> Tensor:
        """d^−β from d^−½.

        For β = 3/4, the value in every published network, this is a square root, at a quarter of the cost of a power.
        """
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
    """The forward and backward pass in blocks of pixels.

    ``x`` and d^−½ are saved for the backward pass; reading d^−½ is faster than computing it again.
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
    """``(N, C, H, W)`` split into blocks ``(pixels, C)``; they are views if ``x`` is channels last in memory."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    at_once = CACHED // x.shape[1] if x.device.type == "cpu" else len(rows)
    return torch.split(rows, max(1, at_once))


class FastLocalResponseNorm(LocalResponseNorm):
    """:class:`~alexnet.models.layers.LocalResponseNorm`, several times as fast. It can be differentiated only once.

    ``(N, C, H, W)`` → same shape and dtype, channels last in memory; deterministic on every device.
    """

    def forward(self, x: Tensor) -> Tensor:
        a = self.alpha if self.convention == "sum" else self.alpha / self.size
        if x.is_cuda and x.dim() == 4 and x.dtype != torch.float64 and self.k > 0:
            if not (fault := triton_lrn_fault(x.device, x.dtype)):
                from alexnet.kernels import triton_lrn

                return triton_lrn.normalize(x, self.size, self.groups, a, self.beta, self.k)
            warn_once(f"the Triton kernels of local response normalization cannot be used, others are: {fault}")
        y: Tensor = _Normalize.apply(x, Window(self.size, self.groups, a, self.beta, self.k))
        return y
