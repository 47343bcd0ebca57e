"""Convolutions whose weights are laid out once, for predictors on a CPU.

oneDNN's kernels read weights in blocks that fit their registers. Given plain weights, torch lays them out anew at each
call: no matter for a batch, a tenth of the time for one image (docs/log.md). oneDNN's own advice is to do it once
("Inference and Training Aspects", developer guide). Torch has no public call for it; these two operations are what its
compiler emits, and where a build lacks them, layers compute as always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Packed:
    """A convolution's weights as oneDNN reads them for inputs of ``shape`` ``(N, C, H, W)``."""

    shape: torch.Size
    weights: Tensor


def can_pack(convolution: nn.Conv2d) -> bool:
    """Whether this torch can, for a layer on this device, in its precision."""
    weight = convolution.weight
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    here = here and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return here and weight.device.type == "cpu" and weight.dtype in DTYPES and not isinstance(convolution.padding, str)


def pack(convolution: nn.Conv2d, shape: torch.Size) -> Packed:
    """The weights laid out for inputs of ``shape``, on which the kernel and so its layout depend."""
    plain = convolution.weight.detach().contiguous().to_mkldnn()
    geometry = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
    return Packed(shape, torch.ops.aten.mkldnn_reorder_conv2d_weight(plain, *geometry, shape))


def convolve(convolution: nn.Conv2d, x: Tensor, packed: Packed) -> Tensor:
    """``convolution(x)``, the same bits, in its weights' dtype; without gradients."""
    geometry = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.to(packed.weights.dtype), packed.weights, convolution.bias, *geometry, "none", [], None
    )
    return y
