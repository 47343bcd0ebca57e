"""Layers with int8 weights, for inference on a CPU: half the memory of bf16, and twice as many products per cycle.

A weight is an integer from −127 to 127 times the scale of its filter. An input is an integer from 0 to 255 times the
scale of its image. The products and their sums are exact integers; the scales are applied afterwards (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018). Scales of
inputs are computed for each image, so there is no calibration, and no prediction depends on the other images of a
batch. oneDNN computes the products, through the operations that torch's compiler uses for quantized networks. These
operations are not public, so the kernel is tested before it is used, see ``selftest.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alexnet.core.tensors import SMALLEST_SCALE, from_int8, to_int8
from alexnet.kernels.prepacked import Packed
from alexnet.models.layers import Conv2d, pad

# Convolutions with fewer input channels, such as conv1, keep their precision: their int8 products would not be faster,
# and rounding the image itself would cost accuracy.
LEAST_CHANNELS = 8
LEVELS = 255
MIDDLE = 128  # the integer that means 0 if inputs can be negative
BF16_STEP = 2**-8


def largest_weight() -> int:
    """The largest integer for a weight: 127, or 63 on CPUs without VNNI instructions.

    Without VNNI, a CPU adds pairs of products in 16 bits, and 2 · 255 · 127 is too large for 16 bits. oneDNN's guide to
    int8 recommends 7-bit weights there.
    """
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return 127 if supported() else 63


class Int8Conv2d(nn.Module):
    """The convolution ``layer`` with int8 weights: ``(N, C, H, W)`` → ``(N, filters, H', W')``.

    The output has autocast's dtype if autocast is on, else that of the input. ``signed``: whether inputs can be
    negative. If it is False and an input is negative, outputs are wrong.
    """

    def __init__(self, layer: nn.Conv2d, *, signed: bool) -> None:
        super().__init__()
        self.geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        self.rule = layer.pad_rule if isinstance(layer, Conv2d) else 0
        self.kernel, self.zero = layer.kernel_size[0], MIDDLE if signed else 0
        self.weight, self.scales = to_int8(layer.weight, largest_weight())
        self.zeros = torch.zeros(len(self.scales), dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach().float()[:, None, None]
        self.packed: Packed | None = None  # for the shape of the last input

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output with integer products."""
        x = pad(x, self.kernel, self.geometry[0][0], self.rule)
        packed = self.packed  # read once: another thread may pass images of another size meanwhile
        if packed is None or packed.shape != x.shape:
            operation = torch.ops.onednn.qconv_prepack
            weights = operation(self.weight, self.scales, 1.0, self.zero, *self.geometry, x.shape)
            packed = self.packed = Packed(x.shape, weights)
        levels, scale = _levels(x, self.zero)
        y = torch.ops.onednn.qconv_pointwise(
            levels, 1.0, self.zero, packed.weights, self.scales, self.zeros, None, *self.geometry, 1.0, 0, _dtype(x),
            "none", [], "",
        )  # fmt: skip
        return _scaled(y, scale, self.bias)


class Int8Linear(nn.Module):
    """The linear ``layer`` with int8 weights: ``(N, F)`` → ``(N, units)``; dtype and ``signed`` as above."""

    def __init__(self, layer: nn.Linear, *, signed: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.zero = layer.in_features, layer.out_features, MIDDLE if signed else 0
        self.product = Int8Product(layer.weight)
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output with integer products."""
        levels, scale = _levels(x, self.zero)
        return _scaled(self.product(levels, self.zero), scale, self.bias).to(_dtype(x))


class Int8Product:
    """Products with a matrix ``(units, F)``, which is rounded and packed once."""

    def __init__(self, weight: Tensor) -> None:
        rounded, self._scales = to_int8(weight, largest_weight())
        self._zeros = torch.zeros(len(rounded), dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, levels: Tensor, zero: int = 0) -> Tensor:
        """``(N, F)`` uint8, where the integer ``zero`` means 0 → ``(N, units)`` fp32."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y


def _levels(x: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """``x`` as uint8, where ``zero`` means 0, and the scale of each image ``(N, 1, …)``, not finite if ``x`` is not."""
    others = tuple(range(1, x.dim()))
    largest = (x.abs() if zero else x).amax(dim=others, keepdim=True).float()
    # A scale that bf16 represents exactly, and slightly too large rather than too small: so outputs in bf16 are rounded
    # only once, and the rounding of the scale is not an error common to all outputs.
    scale = (largest / (LEVELS - zero) * (1 + BF16_STEP)).clamp_min(SMALLEST_SCALE).bfloat16().float()
    return (x * (1 / scale)).add_(zero + 0.5).to(torch.uint8), scale


def _scaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y * scale.to(y.dtype)
    return torch.addcmul(bias.to(y.dtype), y, scale.to(y.dtype))


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def rounded_weight(weight: Tensor) -> Tensor:
    """The weight after rounding to int8, in fp32, as reference for the integer arithmetic; same shape."""
    return from_int8(*to_int8(weight, largest_weight()))


def rounded_input(x: Tensor, *, signed: bool) -> Tensor:
    """The input ``(N, …)`` after rounding to uint8, in fp32; same shape."""
    zero = MIDDLE if signed else 0
    levels, scale = _levels(x, zero)
    return (levels.float() - zero) * scale
