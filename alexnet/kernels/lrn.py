"""Local response normalization across maps, in both readings of its constant, as fast as a CPU's caches allow.

Krizhevsky, Sutskever and Hinton (2012), §3.3: b_i = a_i · (k + α Σ_j a_j²)^−β, j over the window of maps around i. Its
gradient, with d_i the bracket and g what arrives: ∂/∂a_i = g_i d_i^−β − 2αβ a_i Σ_j g_j a_j d_j^(−β−1), j over the maps
that have i in their window. As a chain of library calls on whole tensors most of the time goes into memory (a training
step of the paper's network spends more on it than on all convolutions); here some maps' places go through the whole
chain while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AlphaConvention = Literal["sum", "mean"]
CACHED = 2**18  # numbers that go through the chain at once on a CPU; a GPU takes all


@dataclass(frozen=True)
class Window:
    """Which maps are summed (``size`` of them, within each of ``groups`` columns) and what is done with the sum.

    An even window reaches one map further down than up, as torch's does. ``a`` multiplies the sum of squares.
    """

    size: int
    groups: int
    a: float
    beta: float
    k: float

    def pairs(self, to: Tensor, source: Tensor, sign: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of both ``(rows, maps)`` such that map i of ``to`` meets, one after another, the maps i + sign · δ of
        ``source`` for all δ of the window but 0.
        """
        columns = to.shape[1] // self.groups
        to, source = (rows.view(-1, self.groups, columns) for rows in (to, source))
        for shift in range(-(self.size // 2), (self.size - 1) // 2 + 1):
            if shift and (length := columns - abs(shift)) > 0:
                start = max(0, sign * shift)
                yield to.narrow(2, start - sign * shift, length), source.narrow(2, start, length)

    def root(self, x: Tensor) -> Tensor:
        """d^−½ of the bracket d = k + a Σ x², ``(rows, maps)``."""
        d = torch.addcmul(x.new_full((), self.k), x, x, value=self.a)
        for to, source in self.pairs(d, x, 1):
            to.addcmul_(source, source, value=self.a)
        return d.rsqrt_()

    def power(self, root: Tensor) -> Tensor:
        """d^−β: for the 3/4 of every published network by another root, which costs a quarter of a power."""
        return root.sqrt().mul_(root) if self.beta == 0.75 else root.pow(2 * self.beta)

    def gradient(self, x: Tensor, g: Tensor, root: Tensor) -> Tensor:
        """What the loss's gradient is with respect to ``x``, where it is ``g`` with respect to the output."""
        direct = self.power(root).mul_(g)
        through = torch.mul(root, root).mul_(direct).mul_(x)
        total = through.clone()
        for to, source in self.pairs(total, through, -1):
            to.add_(source)
        return direct.addcmul_(total, x, value=-2 * self.a * self.beta)


class _Normalize(torch.autograd.Function):
    """The two passes over blocks of rows. Between them ``x`` is kept, and d^−½, which takes longer to make anew than to
    fetch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        ctx.window = window
        y = torch.empty_like(x, memory_format=torch.channels_last)
        roots = []
        for some, out in zip(_blocks(x), _blocks(y), strict=True):
            wide = _widen(some)
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
            out.copy_(ctx.window.gradient(_widen(some), _widen(arriving), root))
        return result, None


def as_written(x: Tensor, window: Window) -> Tensor:
    """The formula on whole tensors, and its gradient by autograd: what the fast form is held to.

    ``(N, C, H, W)`` → same shape and dtype.
    """
    images, maps, *sides = x.shape
    columns = _widen(x).reshape(images, window.groups, maps // window.groups, *sides)
    squares = F.pad(columns.square(), (0, 0, 0, 0, window.size // 2, (window.size - 1) // 2))
    total = torch.zeros_like(columns)
    for shift in range(window.size):
        total = total + squares.narrow(2, shift, columns.shape[2])
    return (columns * (window.k + window.a * total) ** -window.beta).reshape(x.shape).to(x.dtype)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """``(N, C, H, W)`` as blocks of ``(rows, C)``: views, where ``x`` is channels last in memory."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    at_once = CACHED // x.shape[1] if x.device.type == "cpu" else len(rows)
    return torch.split(rows, max(1, at_once))


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class LocalResponseNorm(nn.Module):
    """x · (k + a · Σ x²)^−β over a window of ``size`` maps (paper §3.3).

    ``convention`` says what α means: ``"sum"``, the paper's letter, a = α; ``"mean"``, a = α/size, what cuda-convnet,
    Caffe and ``torch.nn.LocalResponseNorm`` compute. ``groups`` keeps windows inside columns. Computed in at least
    fp32, and deterministic on every device.

    ``plain``: compute it as it is written, on whole tensors, which is several times slower.

    ``(N, C, H, W)`` → same shape and dtype, channels last in memory unless plain.
    """

    def __init__(
        self, size: int, alpha: float, beta: float, k: float, convention: AlphaConvention, groups: int
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.convention: AlphaConvention = convention
        self.groups = groups
        self.plain = False

    def forward(self, x: Tensor) -> Tensor:
        a = self.alpha if self.convention == "sum" else self.alpha / self.size
        window = Window(self.size, self.groups, a, self.beta, self.k)
        y: Tensor = as_written(x, window) if self.plain else _Normalize.apply(x, window)
        return y

    def extra_repr(self) -> str:
        a, b = f"alpha={self.alpha} ({self.convention})", f"beta={self.beta}, k={self.k}, groups={self.groups}"
        return f"size={self.size}, {a}, {b}"
