"""Convolutions with a quarter of the multiplications, for CPUs that multiply slowly beside how fast they remember.

Winograd's minimal filtering (S. Winograd, "Arithmetic Complexity of Computations", 1980; for networks: Lavin and Gray,
CVPR 2016, arXiv:1509.09308): m outputs of a filter of r taps are coefficients of a product of polynomials. Both factors
are evaluated at m + r − 1 points, multiplied there, and the outputs are read off: m + r − 1 multiplications for m · r.
In two dimensions the saving is squared, less what tiles waste at the border: 4.6-fold for AlexNet's 5 × 5 filters and
3.4- to 4-fold for its 3 × 3 ones. Over channels and tiles, the products at one point are a matrix product.

It is exact but for rounding, which grows with the number of points and their size; ours are the best of the small
fractions tried (docs/log.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.models.layers import Conv2d, pad

POINTS = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2)),
    6: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    7: (Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(1), Fraction(-1), Fraction(2)),
}
"""A tile's side → the finite points; one more is at infinity, where a polynomial is its highest coefficient."""

CACHED = 2**22  # numbers at the points at once: 16 MB of fp32, which stay in a CPU's last cache
PRODUCT = 4 / 3  # time of a multiply-add at the points, where one of a direct convolution takes 1
TRANSFORM = 100  # the same of a number brought to the points or back
FILTER = 140  # the same of a weight brought to a point
KEPT = 24  # the same of a weight that was brought there before, and is read


@dataclass(frozen=True)
class Filtering:
    """``outputs`` × ``outputs`` results of a ``taps`` × ``taps`` filter from a tile of ``side`` × ``side`` pixels: what
    the literature calls F(m × m, r × r).
    """

    outputs: int
    taps: int

    @property
    def side(self) -> int:
        """Of the tile, m + r − 1; also the number of points."""
        return self.outputs + self.taps - 1

    def tiles(self, size: int) -> int:
        """How many cover ``size`` outputs."""
        return -(-size // self.outputs)

    def points(self, height: int, width: int) -> int:
        """Products for each pair of channels, for that many outputs: each tile has one at each point."""
        return self.tiles(height) * self.tiles(width) * self.side**2

    def work(self, images: int, channels: int, filters: int, height: int, width: int, weight: float = FILTER) -> float:
        """The time that a convolution of ``channels`` to ``filters`` takes, a direct multiply-add being 1 and a weight
        at a point ``weight``: an estimate that foretold fourteen layers' times to a fifth, or better (docs/log.md).
        """
        numbers, pairs = images * self.points(height, width), channels * filters
        return PRODUCT * numbers * pairs + TRANSFORM * numbers * (channels + filters) + weight * self.side**2 * pairs


def choose(
    images: int, channels: int, filters: int, height: int, width: int, taps: int, weight: float = FILTER
) -> Filtering | None:
    """The fastest filtering for that many outputs, or None where a direct convolution is faster still."""
    known = [Filtering(side - taps + 1, taps) for side in POINTS if side > taps > 1]
    work = [filtering.work(images, channels, filters, height, width, weight) for filtering in known]
    direct = images * max(height, 0) * max(width, 0) * taps**2 * channels * filters  # torch says what has no output
    return known[work.index(min(work))] if min(work, default=direct) < direct else None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int, filtering: Filtering) -> Tensor:
    """``F.conv2d`` with a square filter and stride 1: ``x`` ``(N, C, H, W)``, fp32 or fp64 → ``(N, filters, H', W')``,
    channels last in memory, which is also the layout of ``x`` to be fast with.
    """
    tiling = _Tiling(filtering, padding, x.shape[2], x.shape[3])
    return _Convolve.apply(x, weight, bias, tiling, groups)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TransformedWeights:
    """A convolution's weights at a filtering's points, ``(points², C, filters)`` for each group."""

    filtering: Filtering
    groups: tuple[Tensor, ...]


def transform_weights(weight: Tensor, groups: int, filtering: Filtering) -> TransformedWeights:
    """From ``weight`` ``(filters, C / groups, r, r)``, without gradients."""
    with torch.no_grad():
        return TransformedWeights(
            filtering, tuple(_filters_at_points(each, filtering) for each in weight.chunk(groups))
        )


def convolve_with(x: Tensor, weights: TransformedWeights, bias: Tensor, padding: int) -> Tensor:
    """:func:`convolve` with weights that are at the points already, the same bits; without gradients."""
    tiling = _Tiling(weights.filtering, padding, x.shape[2], x.shape[3])
    y = x.new_empty(len(x), *tiling.covered(0), len(bias))
    maps = _columns(len(weights.groups), [], [_last(x), y])
    for filters, (given, result) in zip(weights.groups, maps, strict=True):
        for some, out in _blocks(tiling, filters, given, result):
            tiling.read_off(torch.bmm(tiling.at_points(some), filters), out)
    height, width = tiling.output
    return torch.add(y[:, :height, :width], bias).permute(0, 3, 1, 2)


class _Matrices(NamedTuple):
    """The three of y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A: Aᵀ ``read`` (m, side), G ``filter`` (side, r), Bᵀ ``tile`` (side,
    side).
    """

    read: Tensor
    filter: Tensor
    tile: Tensor


@functools.cache
def matrices(filtering: Filtering, dtype: torch.dtype) -> _Matrices:
    """By the rule of Toom and Cook in exact fractions, rounded once."""
    points, side = POINTS[filtering.side], filtering.side
    powers = [[point**power for power in range(side)] for point in points]
    others = [[other for other in points if other != point] for point in points]
    scales = [math.prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    read = [row[: filtering.outputs] for row in powers] + [_unit(filtering.outputs)]
    filters = [[p / scale for p in row[: filtering.taps]] for row, scale in zip(powers, scales, strict=True)]
    tile = [[*_coefficients(rest), Fraction(0)] for rest in others] + [_coefficients(points)]
    return _Matrices(
        _rounded(read, dtype).T.contiguous(), _rounded([*filters, _unit(filtering.taps)], dtype), _rounded(tile, dtype)
    )


def _unit(length: int) -> list[Fraction]:
    """What reads off the highest of ``length`` coefficients."""
    return [Fraction(0)] * (length - 1) + [Fraction(1)]


def _coefficients(roots: Sequence[Fraction]) -> list[Fraction]:
    """Of the polynomial with these roots, the lowest first and the highest 1."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [high - low for high, low in zip(raised, scaled, strict=True)]
    return coefficients


def _rounded(rows: list[list[Fraction]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64).to(dtype)


def _sandwich(matrix: Tensor, tiles: Tensor) -> Tensor:
    """(M d Mᵀ)ᵀ for ``matrix`` M ``(q, p)`` and all d in ``tiles`` ``(p, p, …)``: ``(q, q, -1)``.

    Transposed because batches of products are the faster; everything at the points is, and what is read off no more.
    """
    q, p = matrix.shape
    across = torch.bmm(matrix.expand(p, q, p), tiles.reshape(p, p, -1))
    return torch.bmm(matrix.expand(q, q, p), across.transpose(0, 1))


def _filters_at_points(weight: Tensor, filtering: Filtering) -> Tensor:
    """``(filters, C, r, r)`` → G g Gᵀ ``(points², C, filters)``."""
    filters, channels = weight.shape[:2]
    at_points = _sandwich(matrices(filtering, weight.dtype).filter, weight.permute(2, 3, 1, 0))
    return at_points.view(-1, channels, filters)


def _filters_transposed(at_points: Tensor, filtering: Filtering) -> Tensor:
    """The transpose of :func:`_filters_at_points`: gradients there → gradients of the weights."""
    side, taps = filtering.side, filtering.taps
    _, channels, filters = at_points.shape
    weights = _sandwich(matrices(filtering, at_points.dtype).filter.T, at_points.view(side, side, -1))
    return weights.view(taps, taps, channels, filters).permute(3, 2, 0, 1)


@dataclass(frozen=True)
class _Tiling:
    """Where a filtering's tiles lie on maps of ``height`` × ``width`` with ``padding`` zeros around.

    Maps are ``(n, height, width, channels)`` here, and what is at the points ``(points², tiles, channels)``.
    """

    filtering: Filtering
    padding: int
    height: int
    width: int

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the convolution's output."""
        added = 2 * self.padding - self.filtering.taps + 1
        return self.height + added, self.width + added

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles down and across."""
        height, width = self.output
        return self.filtering.tiles(height), self.filtering.tiles(width)

    def images_at_once(self, channels: int) -> int:
        """How many images stay in the cache at their points, with so many ``channels`` in and out."""
        return max(1, CACHED // (self.filtering.points(*self.output) * channels))

    def at_points(self, maps: Tensor) -> Tensor:
        """Bᵀ d B for each tile d of the convolution's input."""
        windows = self._windows(_widen(maps, self.padding, self.covered(self.filtering.taps - 1)), self.filtering.side)
        tile = matrices(self.filtering, maps.dtype).tile
        return _sandwich(tile, windows).view(len(tile) ** 2, -1, maps.shape[3])

    def add_up(self, at_points: Tensor, maps: Tensor) -> None:
        """The transpose of :meth:`at_points`, into ``maps``: each pixel is a sum over the tiles that it is in."""
        side = self.filtering.side
        padded = maps.new_zeros(len(maps), *self.covered(self.filtering.taps - 1), maps.shape[3])
        windows = self._windows(padded, side)
        tiles = _sandwich(matrices(self.filtering, maps.dtype).tile.T, at_points.view(side, side, -1))
        for i, row in enumerate(tiles.view(windows.shape)):
            for j, tile in enumerate(row):
                windows[i, j].add_(tile)
        start = self.padding
        maps.copy_(padded[:, start : start + self.height, start : start + self.width])

    def read_off(self, at_points: Tensor, maps: Tensor) -> None:
        """Aᵀ m A for each tile m of products, into ``maps``, what the tiles cover of the convolution's output."""
        side = self.filtering.side
        windows = self._windows(maps, self.filtering.outputs)
        read = matrices(self.filtering, maps.dtype).read
        windows.copy_(_sandwich(read, at_points.view(side, side, -1)).view(windows.shape))

    def evenly_spaced(self, maps: Tensor) -> Tensor:
        """The transpose of :meth:`read_off`, from the convolution's output."""
        windows = self._windows(_widen(maps, 0, self.covered(0)), self.filtering.outputs)
        read = matrices(self.filtering, maps.dtype).read
        return _sandwich(read.T, windows).view(self.filtering.side**2, -1, maps.shape[3])

    def covered(self, margin: int) -> tuple[int, int]:
        """Rows and columns that tiles cover: of the output, or with a ``margin`` of the taps but one, of the input."""
        down, across = self.grid
        return down * self.filtering.outputs + margin, across * self.filtering.outputs + margin

    def _windows(self, maps: Tensor, side: int) -> Tensor:
        """``(side, side, n, down, across, channels)``: each tile's pixels, a view; tiles are ``outputs`` apart."""
        image, row, column, channel = maps.stride()
        apart = self.filtering.outputs
        shape = (side, side, len(maps), *self.grid, maps.shape[3])
        return maps.as_strided(shape, (row, column, image, apart * row, apart * column, channel))


def _widen(maps: Tensor, before: int, size: tuple[int, int]) -> Tensor:
    """``maps`` with ``before`` rows and columns of zeros before them, and as many after as make them ``size``."""
    if maps.shape[1:3] == size:
        return maps
    below, right = (total - before - side for total, side in zip(size, maps.shape[1:3], strict=True))
    return F.pad(maps, (0, 0, before, right, before, below))


class _Convolve(torch.autograd.Function):
    """Both passes over some images at a time; what was at the points is cheaper to do again than to keep."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tiling: _Tiling, groups: int) -> Tensor:
        ctx.tiling, ctx.groups = tiling, groups
        ctx.save_for_backward(x, weight)
        return convolve_with(x, transform_weights(weight, groups, tiling.filtering), bias, tiling.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        tiling = ctx.tiling
        dweight = torch.empty_like(weight)
        dx = torch.empty_like(_last(x)) if for_x else _last(x)  # shared out with the rest, and written only for_x
        for filters, dfilters, *maps in _columns(ctx.groups, [weight, dweight], [_last(x), _last(g), dx]):
            kernels = _filters_at_points(filters, tiling.filtering)
            dkernels = torch.zeros_like(kernels)
            for some, arriving, dsome in _blocks(tiling, kernels, *maps):
                products = tiling.evenly_spaced(arriving)
                if for_weight:
                    dkernels.baddbmm_(tiling.at_points(some).mT, products)
                if for_x:
                    tiling.add_up(torch.bmm(products, kernels.mT), dsome)
            if for_weight:
                dfilters.copy_(_filters_transposed(dkernels, tiling.filtering))
        return (
            dx.permute(0, 3, 1, 2) if for_x else None,
            dweight if for_weight else None,
            g.sum(dim=(0, 2, 3)) if for_bias else None,
            None,
            None,
        )


def _last(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` → ``(N, H, W, C)``, a view."""
    return x.permute(0, 2, 3, 1)


def _columns(groups: int, weights: list[Tensor], maps: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """What belongs to each group of filters: of weights the first axis is shared out, of maps the last."""
    return zip(*(each.chunk(groups) for each in weights), *(each.chunk(groups, dim=-1) for each in maps), strict=True)


def _blocks(tiling: _Tiling, kernels: Tensor, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The maps of as many images as stay in the cache while their products are made."""
    at_once = tiling.images_at_once(kernels.shape[1] + kernels.shape[2])
    return zip(*(torch.split(each, at_once) for each in maps), strict=True)


def uses_avx2(x: Tensor) -> bool:
    """Whether matrix products with ``x`` run on a CPU in fp32 or float64 with 256-bit vectors (AVX2, no AVX-512).

    There a product is slow beside the memory traffic, and this module's and ``blocked.py``'s forms were measured to be
    faster (docs/log.md).
    """
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and full and torch.backends.cpu.get_cpu_capability() == "AVX2"


class WinogradConv2d(Conv2d):
    """:class:`~alexnet.models.layers.Conv2d` by Winograd's algorithm where that is faster, for training and inference.

    Its gradient is of first order only. ``(N, C, H, W)`` → ``(N, filters, H', W')``.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, self.kernel_size[0], self.stride[0], self.pad_rule)
        if (filtering := self.filtering(x)) is None:
            return self._conv_forward(x, self.weight, self.bias)  # type: ignore[no-any-return]
        assert self.bias is not None and isinstance(self.padding[0], int)
        return convolve(x, self.weight, self.bias, self.padding[0], self.groups, filtering)

    def filtering(self, x: Tensor, weight: float = FILTER) -> Filtering | None:
        """The fastest filtering for ``x`` (after named padding), or None where an ordinary convolution is faster.

        ``weight``: the cost of one transformed weight, see :func:`choose`.
        """
        if self.stride[0] > 1 or not uses_avx2(x):
            return None
        taps = self.kernel_size[0]
        height, width = (side + 2 * int(self.padding[0]) - taps + 1 for side in x.shape[2:])
        channels, filters = self.in_channels // self.groups, self.out_channels // self.groups
        return choose(len(x), channels, filters, height, width, taps, weight)
