"""Convolutions whose weights are brought into a kernel's own layout once, for inference on a CPU.

oneDNN's kernels read weights in blocks that fit their registers. Given ordinary weights, torch reorders them at each
call: nothing beside a batch, a tenth of the time of one image (docs/log.md). oneDNN's own advice is to do it once
("Inference and Training Aspects", developer guide). Torch has no public call for it; the two operations used here are
those that its compiler emits. So the kernel is tested once before it is used, see ``selftest.py``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.kernels import winograd
from alexnet.kernels.fallback import warn_once
from alexnet.models.layers import pad


@dataclass(frozen=True)
class Packed:
    """A convolution's weights, in their dtype, as oneDNN reads them for inputs of ``shape`` ``(N, C, H, W)``."""

    shape: torch.Size
    weights: Tensor


class PrepackedConv2d(winograd.WinogradConv2d):
    """:class:`~alexnet.models.layers.Conv2d` for inference on a CPU: weights are prepacked, or transformed for
    Winograd's algorithm, at the first call for a shape, and kept. Where gradients are recorded it computes as usual.

    Weights that are changed in place or replaced are noticed by their version and address, and prepared again; writes
    through ``weight.data`` to the same memory are not. ``(N, C, H, W)`` → ``(N, filters, H', W')``.
    """

    packed: Packed | None = None  # for the shape that came last
    transformed: winograd.TransformedWeights | None = None  # for the filtering that was used last
    prepared_for: tuple[object, ...] = ()  # the state of the weights that these two were made of
    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or self.broken:
            return super().forward(x)
        try:
            return self._forward_prepared(pad(x, self.kernel_size[0], self.stride[0], self.pad_rule))
        except Exception as error:  # whatever a torch version raises costs speed, never a prediction
            self.broken = True
            warn_once(f"prepacked convolutions failed, torch's own are used: {type(error).__name__}: {error}")
            return super().forward(x)

    def _forward_prepared(self, x: Tensor) -> Tensor:
        self._forget_outdated()
        filtering = self.filtering(x, winograd.KEPT)
        if filtering is not None:
            return self._filter(x, filtering)
        if not can_pack(self, x):
            return self._conv_forward(x, self.weight, self.bias)  # type: ignore[no-any-return]
        packed = self.packed  # read once: another thread may bring images of another size meanwhile
        if packed is None or packed.shape != x.shape:
            packed = self.packed = pack(self, x.shape)
        return convolve(self, x, packed)

    def _filter(self, x: Tensor, filtering: winograd.Filtering) -> Tensor:
        assert self.bias is not None and isinstance(self.padding[0], int)
        weights = self.transformed
        if weights is None or weights.filtering != filtering:
            weights = self.transformed = winograd.transform_weights(self.weight, self.groups, filtering)
        return winograd.convolve_with(x, weights, self.bias, self.padding[0])

    def _forget_outdated(self) -> None:
        """Drop what was prepared if the weights have changed since."""
        weight = self.weight
        version = None if weight.is_inference() else weight._version
        state = (version, weight.data_ptr(), weight.dtype)
        if state != self.prepared_for:
            self.packed = self.transformed = None
            self.prepared_for = state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: its weights are its own, and are prepared anew."""
        return {**self.__dict__, "packed": None, "transformed": None, "prepared_for": ()}


def can_pack(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether this torch can prepack a layer on a CPU, in the precision in which the layer convolves ``x``."""
    weight = convolution.weight
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    fits = x.device == weight.device and x.shape[1] == convolution.in_channels
    return fits and weight.device.type == "cpu" and weight.dtype == dtype and dtype in packable_dtypes()


@functools.cache
def packable_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes of these operations here: oneDNN packs bf16 only on CPUs that have instructions for it."""
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (here and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return ()
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)


def pack(convolution: nn.Conv2d, shape: torch.Size) -> Packed:
    """The weights packed for inputs of ``shape``; the kernel and so its layout depend on the shape."""
    plain = convolution.weight.detach().contiguous().to_mkldnn()
    return Packed(shape, torch.ops.aten.mkldnn_reorder_conv2d_weight(plain, *_geometry(convolution), shape))


def convolve(convolution: nn.Conv2d, x: Tensor, packed: Packed) -> Tensor:
    """``convolution(x)``, the same bits, without gradients: ``x`` ``packed.shape`` → ``(N, filters, H', W')`` in the
    weights' dtype, to which ``x`` is rounded as autocast would. Only where :func:`can_pack` holds.
    """
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.to(packed.weights.dtype), packed.weights, convolution.bias, *_geometry(convolution), "none", [], None
    )
    return y


def _geometry(convolution: nn.Conv2d) -> tuple[object, ...]:
    return convolution.padding, convolution.stride, convolution.dilation, convolution.groups
