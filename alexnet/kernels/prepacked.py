"""Convolutions whose weights are laid out once, for predictors on a CPU.

oneDNN's kernels read weights in blocks that fit their registers. Given plain weights, torch lays them out anew at each
call: no matter for a batch, a tenth of the time for one image (docs/log.md). oneDNN's own advice is to do it once
("Inference and Training Aspects", developer guide). Torch has no public call for it; these two operations are what its
compiler emits, and where a build lacks them, layers compute as always.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Packed:
    """A convolution's weights, in their dtype, as oneDNN reads them for inputs of ``shape`` ``(N, C, H, W)``."""

    shape: torch.Size
    weights: Tensor


def can_pack(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether this torch can, for a layer on a CPU, in the precision in which it convolves ``x``."""
    weight = convolution.weight
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    fits = x.device == weight.device and x.shape[1] == convolution.in_channels
    return fits and weight.device.type == "cpu" and weight.dtype == dtype and dtype in _dtypes()


@functools.cache
def _dtypes() -> tuple[torch.dtype, ...]:
    """What these operations compute in here: oneDNN lays out bf16 only on CPUs that have instructions for it."""
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (here and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return ()
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)


def pack(convolution: nn.Conv2d, shape: torch.Size) -> Packed:
    """The weights laid out for inputs of ``shape``, on which the kernel and so its layout depend."""
    plain = convolution.weight.detach().contiguous().to_mkldnn()
    return Packed(shape, torch.ops.aten.mkldnn_reorder_conv2d_weight(plain, *_geometry(convolution), shape))


def convolve(convolution: nn.Conv2d, x: Tensor, packed: Packed) -> Tensor:
    """``convolution(x)``, the same bits, without gradients: ``x`` ``packed.shape`` → ``(N, filters, H', W')`` in the
    weights' dtype, to which ``x`` is rounded as autocast would. For what :func:`can_pack` allows.
    """
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.to(packed.weights.dtype), packed.weights, convolution.bias, *_geometry(convolution), "none", [], None
    )
    return y


def _geometry(convolution: nn.Conv2d) -> tuple[object, ...]:
    return convolution.padding, convolution.stride, convolution.dilation, convolution.groups
