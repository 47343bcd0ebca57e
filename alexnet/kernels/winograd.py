"""Winograd convolutions, with a quarter of the multiplications, for CPUs whose arithmetic is slower than their memory.

Winograd's minimal filtering (S. Winograd, "Arithmetic Complexity of Computations", 1980; for networks: Lavin and Gray,
CVPR 2016, arXiv:1509.09308): m outputs of a filter with r taps are coefficients of a product of two polynomials. Both
polynomials are evaluated at m + r − 1 points, the values are multiplied, and the outputs are computed from the
products. This needs m + r − 1 multiplications instead of m · r. In two dimensions the factor is squared, minus a loss
for tiles that extend beyond the border: 4.6 for AlexNet's 5 × 5 filters and 3.4 to 4 for its 3 × 3 filters. For all
channels and tiles together, the products at one point are one matrix product.

The result is exact except for rounding errors, which grow with the number and the size of the points. The points used
here are the best of the small fractions that were tried (docs/log.md).
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

from alexnet.kernels.batch import batch_of
from alexnet.models.layers import Conv2d, pad

POINTS = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(0), Fraction(1), Fraction(-1), Fraction(2)),
    6: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    7: (Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(1), Fraction(-1), Fraction(2)),
}
"""Side of a tile → its finite points. One more point is at infinity; a polynomial's value there is its highest
coefficient."""

CACHED = 2**22  # transformed numbers in memory at a time: 16 MB of fp32, which fit into a CPU's last-level cache
# Costs, in units of the time of one multiply-add of a direct convolution:
PRODUCT = 4 / 3  # a multiply-add of transformed numbers
TRANSFORM = 100  # transforming one input or output number
FILTER = 140  # transforming one weight
KEPT = 24  # reading one weight that was transformed before


@dataclass(frozen=True)
class Filtering:
    """F(m × m, r × r) in the literature, with m = ``outputs`` and r = ``taps``.

    It computes ``outputs`` × ``outputs`` results of a ``taps`` × ``taps`` filter from a tile of ``side`` × ``side``
    pixels.
    """

    outputs: int
    taps: int

    @property
    def side(self) -> int:
        """The side of a tile in pixels, m + r − 1; it is also the number of points."""
        return self.outputs + self.taps - 1

    def tiles(self, size: int) -> int:
        """The number of tiles that cover ``size`` outputs along one axis."""
        return -(-size // self.outputs)

    def points(self, height: int, width: int) -> int:
        """The products for one pair of channels and ``height`` × ``width`` outputs: one per tile and point."""
        return self.tiles(height) * self.tiles(width) * self.side**2

    def work(self, images: int, channels: int, filters: int, height: int, width: int, weight: float = FILTER) -> float:
        """The estimated time of a convolution, in units of one multiply-add of a direct convolution.

        ``height``, ``width``: of the output. ``weight``: the time for one transformed weight. For fourteen layers the
        estimate was within 20 % of the measured time (docs/log.md).
        """
        numbers, pairs = images * self.points(height, width), channels * filters
        return PRODUCT * numbers * pairs + TRANSFORM * numbers * (channels + filters) + weight * self.side**2 * pairs


def choose(
    images: int, channels: int, filters: int, height: int, width: int, taps: int, weight: float = FILTER
) -> Filtering | None:
    """The fastest filtering for ``height`` × ``width`` outputs, or None if a direct convolution is faster.

    ``weight``: see :meth:`Filtering.work`.
    """
    known = [Filtering(side - taps + 1, taps) for side in POINTS if side > taps > 1]
    work = [filtering.work(images, channels, filters, height, width, weight) for filtering in known]
    direct = (
        images * max(height, 0) * max(width, 0) * taps**2 * channels * filters
    )  # torch raises the error if there is no output
    return known[work.index(min(work))] if min(work, default=direct) < direct else None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: int, groups: int, filtering: Filtering) -> Tensor:
    """``F.conv2d`` with a square filter and stride 1: ``x`` ``(N, C, H, W)``, fp32 or fp64 → ``(N, filters, H', W')``.

    The result is channels last in memory; it is fastest if ``x`` is channels last too.
    """
    tiling = _Tiling(filtering, padding, x.shape[2], x.shape[3])
    return _Convolve.apply(x, weight, bias, tiling, groups)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TransformedWeights:
    """A convolution's weights, transformed for a filtering: ``(points², C, filters)`` for each group."""

    filtering: Filtering
    groups: tuple[Tensor, ...]


def transform_weights(weight: Tensor, groups: int, filtering: Filtering) -> TransformedWeights:
    """Transform ``weight`` ``(filters, C / groups, r, r)``, without gradients."""
    with torch.no_grad():
        return TransformedWeights(
            filtering, tuple(_filters_at_points(each, filtering) for each in weight.chunk(groups))
        )


def convolve_with(x: Tensor, weights: TransformedWeights, bias: Tensor, padding: int) -> Tensor:
    """:func:`convolve` with weights that are transformed already, bit-identical; without gradients."""
    tiling = _Tiling(weights.filtering, padding, x.shape[2], x.shape[3])
    y = x.new_empty(len(x), *tiling.covered(0), len(bias))
    maps = _columns(len(weights.groups), [], [_last(x), y])
    for filters, (given, result) in zip(weights.groups, maps, strict=True):
        for some, out in _blocks(tiling, filters, given, result):
            tiling.read_off(torch.bmm(tiling.at_points(some), filters), out)
    height, width = tiling.output
    return torch.add(y[:, :height, :width], bias).permute(0, 3, 1, 2)


class _Matrices(NamedTuple):
    """The three matrices of y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A.

    ``read``: Aᵀ ``(m, side)``; ``filter``: G ``(side, r)``; ``tile``: Bᵀ ``(side, side)``.
    """

    read: Tensor
    filter: Tensor
    tile: Tensor


@functools.cache
def matrices(filtering: Filtering, dtype: torch.dtype) -> _Matrices:
    """The matrices by the method of Toom and Cook, computed with exact fractions and rounded once."""
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
    """The row that selects the last of ``length`` coefficients."""
    return [Fraction(0)] * (length - 1) + [Fraction(1)]


def _coefficients(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the polynomial with these roots, lowest power first; the highest coefficient is 1."""
    coefficients = [Fraction(1)]
    for root in roots:
        raised, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [high - low for high, low in zip(raised, scaled, strict=True)]
    return coefficients


def _rounded(rows: list[list[Fraction]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64).to(dtype)


def _sandwich(matrix: Tensor, tiles: Tensor) -> Tensor:
    """(M d Mᵀ)ᵀ for ``matrix`` M ``(q, p)`` and all d in ``tiles`` ``(p, p, …)``: ``(q, q, -1)``.

    The result is transposed, because the batched products are then faster. All transformed tensors are transposed in
    this way; a second call, which computes the outputs, transposes them back.
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
    """The transpose of :func:`_filters_at_points`: gradients of transformed weights → gradients of the weights."""
    side, taps = filtering.side, filtering.taps
    _, channels, filters = at_points.shape
    weights = _sandwich(matrices(filtering, at_points.dtype).filter.T, at_points.view(side, side, -1))
    return weights.view(taps, taps, channels, filters).permute(3, 2, 0, 1)


@dataclass(frozen=True)
class _Tiling:
    """The positions of the tiles on feature maps of ``height`` × ``width`` pixels with ``padding`` zeros at each edge.

    In this class, feature maps are ``(n, height, width, channels)`` and transformed tiles ``(points², tiles,
    channels)``.
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
        """The number of tiles along the height and along the width."""
        height, width = self.output
        return self.filtering.tiles(height), self.filtering.tiles(width)

    def images_at_once(self, channels: int) -> int:
        """How many transformed images fit into the cache; ``channels``: of input and output together."""
        return max(1, CACHED // (self.filtering.points(*self.output) * channels))

    def at_points(self, maps: Tensor) -> Tensor:
        """The transformed tiles Bᵀ d B, for each tile d of the convolution's input."""
        windows = self._windows(_widen(maps, self.padding, self.covered(self.filtering.taps - 1)), self.filtering.side)
        tile = matrices(self.filtering, maps.dtype).tile
        return _sandwich(tile, windows).view(len(tile) ** 2, -1, maps.shape[3])

    def add_up(self, at_points: Tensor, maps: Tensor) -> None:
        """The transpose of :meth:`at_points`, written to ``maps``: each pixel is a sum over its tiles."""
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
        """Aᵀ m A for each tile m of products, written to ``maps``, the part of the output that the tiles cover."""
        side = self.filtering.side
        windows = self._windows(maps, self.filtering.outputs)
        read = matrices(self.filtering, maps.dtype).read
        windows.copy_(_sandwich(read, at_points.view(side, side, -1)).view(windows.shape))

    def evenly_spaced(self, maps: Tensor) -> Tensor:
        """The transpose of :meth:`read_off`: ``maps`` is the gradient of the convolution's output."""
        windows = self._windows(_widen(maps, 0, self.covered(0)), self.filtering.outputs)
        read = matrices(self.filtering, maps.dtype).read
        return _sandwich(read.T, windows).view(self.filtering.side**2, -1, maps.shape[3])

    def covered(self, margin: int) -> tuple[int, int]:
        """Rows and columns that the tiles cover: of the output for ``margin`` 0, of the input for taps − 1."""
        down, across = self.grid
        return down * self.filtering.outputs + margin, across * self.filtering.outputs + margin

    def _windows(self, maps: Tensor, side: int) -> Tensor:
        """A view of each tile's pixels: ``(side, side, n, tiles down, tiles across, channels)``.

        Neighbouring tiles start ``outputs`` pixels apart.
        """
        image, row, column, channel = maps.stride()
        apart = self.filtering.outputs
        shape = (side, side, len(maps), *self.grid, maps.shape[3])
        return maps.as_strided(shape, (row, column, image, apart * row, apart * column, channel))


def _widen(maps: Tensor, before: int, size: tuple[int, int]) -> Tensor:
    """``maps`` with ``before`` rows and columns of zeros before them, and zeros after them up to ``size``."""
    if maps.shape[1:3] == size:
        return maps
    below, right = (total - before - side for total, side in zip(size, maps.shape[1:3], strict=True))
    return F.pad(maps, (0, 0, before, right, before, below))


class _Convolve(torch.autograd.Function):
    """The forward and backward pass, some images at a time.

    Transformed tiles are not saved: computing them again in the backward pass is cheaper.
    """

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
        dx = torch.empty_like(_last(x)) if for_x else _last(x)  # written only if for_x
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
    """The tensors of each group of filters: weights are split along their first axis, feature maps along the last."""
    return zip(*(each.chunk(groups) for each in weights), *(each.chunk(groups, dim=-1) for each in maps), strict=True)


def _blocks(tiling: _Tiling, kernels: Tensor, *maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The feature maps split into blocks of images that fit into the cache while their products are computed."""
    at_once = tiling.images_at_once(kernels.shape[1] + kernels.shape[2])
    return zip(*(torch.split(each, at_once) for each in maps), strict=True)


def uses_avx2(x: Tensor) -> bool:
    """Whether matrix products with ``x`` run on a CPU in fp32 or float64 with 256-bit vectors (AVX2, no AVX-512).

    On these CPUs, arithmetic is slow compared with memory, and the kernels of this module and of ``blocked.py`` are
    faster (measured in docs/log.md).
    """
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and full and torch.backends.cpu.get_cpu_capability() == "AVX2"


class WinogradConv2d(Conv2d):
    """:class:`~alexnet.models.layers.Conv2d` with Winograd's algorithm if that is faster, for training and inference.

    It can be differentiated only once. ``(N, C, H, W)`` → ``(N, filters, H', W')``.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, self.kernel_size[0], self.stride[0], self.pad_rule)
        if (filtering := self.filtering(x)) is None:
            return self._conv_forward(x, self.weight, self.bias)  # type: ignore[no-any-return]
        assert self.bias is not None and isinstance(self.padding[0], int)
        return convolve(x, self.weight, self.bias, self.padding[0], self.groups, filtering)

    def filtering(self, x: Tensor, weight: float = FILTER) -> Filtering | None:
        """The fastest filtering for ``x`` ``(N, C, H, W)`` after :func:`pad`; None if a direct convolution is faster.

        ``weight``: the cost of one transformed weight, see :meth:`Filtering.work`.
        """
        if self.stride[0] > 1 or not uses_avx2(x):
            return None
        taps = self.kernel_size[0]
        height, width = (side + 2 * int(self.padding[0]) - taps + 1 for side in x.shape[2:])
        channels, filters = self.in_channels // self.groups, self.out_channels // self.groups
        return choose(batch_of(x), channels, filters, height, width, taps, weight)
