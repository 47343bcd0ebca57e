"""Convolutions with a stride of s as convolutions with a stride of 1 on s² times as many channels.

The tensor cores of a GPU multiply blocks of 8 channels in bf16. The first layer of AlexNet has 3 channels, so more than
half of its products are with zeros. If each block of 4 × 4 pixels becomes one pixel of 48 channels, an 11 × 11 filter
with a stride of 4 is a 3 × 3 filter with a stride of 1, with a border of zeros for the twelfth row and column. The
result is the same, but for the order of its sums.

**This has been run on a CPU only**, where it is slower in fp32 (docs/log.md). On a GPU it is used by a count of
products, not by a measurement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.models.layers import Conv2d, padding_amounts, window_count

BLOCK = 8  # channels that tensor cores multiply at once in bf16
GAIN = 2  # times as many products: from this ratio on, the copy of the image is thought to pay


def pays(channels: int, kernel: int, stride: int) -> bool:
    """Whether a layer has ``GAIN`` times fewer products than the direct one, each with its channels in full blocks."""
    side = -(-kernel // stride)
    return _blocks(channels) * kernel**2 >= GAIN * _blocks(channels * stride**2) * side**2


def _blocks(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def convolve(x: Tensor, layer: Conv2d) -> Tensor:
    """The output of ``layer``, which has one group, for ``x`` ``(N, C, H, W)``, by space-to-depth.

    It can be differentiated like the layer itself. Channels last in memory. Raises ``RuntimeError`` if ``x`` is smaller
    than the filter.
    """
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    rule = layer.pad_rule if isinstance(layer.pad_rule, str) else int(layer.padding[0])
    side = -(-kernel // stride)  # of the new filter
    edges = []
    for size in (x.shape[3], x.shape[2]):  # as F.pad takes them: the last axis first
        before, after = padding_amounts(size, kernel, stride, rule)
        outputs = window_count(size + before + after, kernel, stride)
        if not outputs:
            raise RuntimeError(f"images of {tuple(x.shape[2:])} pixels are smaller than a filter of {kernel}")
        edges += [before, (outputs + side - 1) * stride - size - before]  # negative: the last pixels are in no window
    weight = F.pad(layer.weight, (0, side * stride - kernel) * 2)
    return F.conv2d(_to_depth(F.pad(x, edges), stride), _to_depth(weight, stride), layer.bias)


def _to_depth(x: Tensor, stride: int) -> Tensor:
    """``(N, C, H, W)`` → ``(N, stride² · C, H / stride, W / stride)``, channels last in memory."""
    images, channels, height, width = x.shape
    blocks = x.permute(0, 2, 3, 1).reshape(images, height // stride, stride, width // stride, stride, channels)
    return blocks.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


class SpaceToDepthConv2d(Conv2d):
    """:class:`~alexnet.models.layers.Conv2d`, by space-to-depth in bf16 where :func:`pays` says so.

    ``(N, C, H, W)`` → ``(N, filters, H', W')``.
    """

    def forward(self, x: Tensor) -> Tensor:
        in_bf16 = x.dtype == torch.bfloat16 or (x.is_cuda and torch.is_autocast_enabled("cuda"))
        if in_bf16 and self.groups == 1 and pays(self.in_channels, self.kernel_size[0], self.stride[0]):
            return convolve(x, self)
        y: Tensor = super().forward(x)
        return y
