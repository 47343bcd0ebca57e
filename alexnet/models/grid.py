"""Where the pixels of feature maps lie in the image.

Networks for segmentation and detection bring maps of several layers, or maps and boxes, to the same places. How far the
pixels of a map are apart, and where the first one lies, follows from the kernels, strides and paddings before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.models.layers import Conv2d, padding_amounts, window_count


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a map lie in the image: pixel i at ``start + i · step`` pixels, ``size`` of them."""

    start: float
    step: float
    size: int

    def after(self, layer: nn.Module) -> Grid:
        """The grid of a layer's output: the centres of its windows."""
        match layer:
            case Conv2d():
                kernel, stride = layer.kernel_size[0], layer.stride[0]
                rule = layer.pad_rule
                before, behind = padding_amounts(self.size, kernel, stride, rule)
                size = window_count(self.size + before + behind, kernel, stride)
            case nn.MaxPool2d():
                assert isinstance(layer.kernel_size, int) and isinstance(layer.stride, int)
                kernel, stride, before = layer.kernel_size, layer.stride, 0
                size = window_count(self.size, kernel, stride, ceil=bool(layer.ceil_mode))
            case _:
                return self
        return Grid(self.start + self.step * ((kernel - 1) / 2 - before), self.step * stride, size)

    def upsampled(self, factor: int) -> Grid:
        """The grid after a transposed convolution with a kernel of ``2 · factor`` and a stride of ``factor``."""
        kernel = bilinear_size(factor)
        size = (self.size - 1) * factor + kernel
        return Grid(self.start - self.step * (kernel - 1) / (2 * factor), self.step / factor, size)

    def offset(self, other: Grid) -> int:
        """The first pixel of this grid that belongs to pixel 0 of ``other``, which has the same step; rounded down.

        Caffe's FCN-AlexNet crops 18 pixels: the exact offset is 18.5, because fc6 has an even kernel.
        """
        return math.floor((other.start - self.start) / self.step)


def grids_after(layers: Iterable[tuple[str, nn.Module]], side: int) -> dict[str, Grid]:
    """Layer → the grid of its maps, for layers in forward order and an image of ``side`` pixels."""
    grid, found = Grid(0.0, 1.0, side), {}
    for name, layer in layers:
        grid = found[name] = grid.after(layer)
    return found


def bilinear_size(factor: int) -> int:
    """The side of the kernel of bilinear upsampling by ``factor`` (Long et al., section 3.3; Caffe's filler)."""
    return 2 * factor - factor % 2


def resample(x: Tensor, grid: Grid, other: Grid) -> Tensor:
    """The maps ``(N, C, H, W)`` of ``grid`` at the pixels of ``other``, by linear interpolation along both axes.

    Outside the outermost pixels, their values continue. Two products with small matrices, so that the gradient is
    deterministic on a GPU too.
    """
    weights = _interpolation(grid, other, x)
    return weights @ x @ weights.T


def _interpolation(grid: Grid, other: Grid, like: Tensor) -> Tensor:
    """``(other.size, grid.size)``: the weight of each pixel of ``grid`` in each of ``other``."""
    places = other.start + other.step * torch.arange(other.size, device=like.device, dtype=torch.float32)
    places = ((places - grid.start) / grid.step).clamp(0, grid.size - 1)
    pixels = torch.arange(grid.size, device=like.device, dtype=torch.float32)
    return (1 - (places[:, None] - pixels).abs()).clamp_min(0).to(like.dtype)
