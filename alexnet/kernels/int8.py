"""Layers with int8 weights, for inference on a CPU: half of bf16's bytes to read, and twice its products a cycle.

A weight is an integer from −127 to 127 times its filter's scale, an input one from 0 to 255 times its image's scale.
The products and their sums are integers and exact; the scales are applied afterwards (Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018). Scales of inputs are computed
for each image, so there is no calibration and no prediction depends on the other images of a batch. The products are
oneDNN's, by the operations that torch's compiler emits for quantized networks. They are not public, so the kernel is
tested once before it is used, see ``selftest.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alexnet.kernels.prepacked import Packed
from alexnet.models.layers import Conv2d, pad

LEAST_CHANNELS = 8  # with fewer a product's lanes are empty, and the image itself would be rounded: conv1 stays
LEVELS = 255
MIDDLE = 128  # the level of 0 where inputs can be negative
BF16_STEP = 2**-8
EPS = 1e-30  # a scale for what is all zeros


def largest_weight() -> int:
    """The largest whole number that a weight becomes. CPUs that cannot add four products at once (VNNI) add pairs of
    them in 16 bits, and 2 · 255 · 127 is too large for that; oneDNN's guide to int8 advises 7 bits there.
    """
    supported = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return 127 if supported() else 63


class Int8Conv2d(nn.Module):
    """What ``layer`` computes, ``(N, C, H, W)`` → ``(N, filters, H', W')`` in autocast's dtype, else in ``x``'s.

    ``signed``: whether inputs can be negative; where they are in truth, and it is False, outputs are wrong.
    """

    def __init__(self, layer: nn.Conv2d, *, signed: bool) -> None:
        super().__init__()
        self.geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        self.rule = layer.pad_rule if isinstance(layer, Conv2d) else 0
        self.kernel, self.zero = layer.kernel_size[0], MIDDLE if signed else 0
        self.weight, self.scales = _rounded(layer.weight)
        self.zeros = torch.zeros(len(self.scales), dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach().float()[:, None, None]
        self.packed: Packed | None = None  # for the shape that was seen last

    def forward(self, x: Tensor) -> Tensor:
        """By whole numbers."""
        x = pad(x, self.kernel, self.geometry[0][0], self.rule)
        packed = self.packed  # once, for another thread may bring images of another size meanwhile
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
    """What ``layer`` computes, ``(N, F)`` → ``(N, units)``; dtype and ``signed`` as in :class:`Int8Conv2d`."""

    def __init__(self, layer: nn.Linear, *, signed: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.zero = layer.in_features, layer.out_features, MIDDLE if signed else 0
        self.product = Int8Product(layer.weight)
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """By whole numbers."""
        levels, scale = _levels(x, self.zero)
        return _scaled(self.product(levels, self.zero), scale, self.bias).to(_dtype(x))


class Int8Product:
    """Products with a matrix ``(units, F)``, rounded and laid out once."""

    def __init__(self, weight: Tensor) -> None:
        rounded, self._scales = _rounded(weight)
        self._zeros = torch.zeros(len(rounded), dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, levels: Tensor, zero: int = 0) -> Tensor:
        """``(N, F)`` uint8, of which ``zero`` stands for 0 → ``(N, units)`` fp32."""
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers, and the scale of each filter ``(filters,)``."""
    weight, largest = weight.detach().float(), largest_weight()
    scales = (weight.flatten(1).abs().amax(dim=1) / largest).clamp_min(EPS)
    return (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8), scales


def _levels(x: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """``x`` as uint8, ``zero`` standing for 0, and each image's scale ``(N, 1, …)``, not finite if ``x`` is not."""
    others = tuple(range(1, x.dim()))
    largest = (x.abs() if zero else x).amax(dim=others, keepdim=True).float()
    # of bf16's eight bits, and not too small: then outputs in bf16 are rounded once, and not all by the same error
    scale = (largest / (LEVELS - zero) * (1 + BF16_STEP)).clamp_min(EPS).bfloat16().float()
    return (x * (1 / scale)).add_(zero + 0.5).to(torch.uint8), scale


def _scaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y * scale.to(y.dtype)
    return torch.addcmul(bias.to(y.dtype), y, scale.to(y.dtype))


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def rounded_weight(weight: Tensor) -> Tensor:
    """A weight as int8 represents it, in fp32: what the integer arithmetic is compared with."""
    integers, scales = _rounded(weight)
    return integers.float() * scales.view(-1, *[1] * (weight.dim() - 1))


def rounded_input(x: Tensor, *, signed: bool) -> Tensor:
    """An input as uint8 represents it, in fp32."""
    zero = MIDDLE if signed else 0
    levels, scale = _levels(x, zero)
    return (levels.float() - zero) * scale
