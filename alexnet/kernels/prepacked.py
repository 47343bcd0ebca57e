"""Convolutions whose weights are converted once to the layout of the CPU kernel, for inference.

oneDNN's kernels read weights in blocks that fit into CPU registers. torch converts ordinary weights at each call. For a
large batch this takes almost no time, but for one image it takes a tenth of the time (docs/log.md). oneDNN recommends
to convert them only once ("Inference and Training Aspects", developer guide). torch has no public function for this;
the two operations used here are those that torch's compiler uses. So the kernel is tested before it is used, see
``selftest.py``.
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
    """A convolution's weights in oneDNN's layout for inputs of ``shape`` ``(N, C, H, W)``, in their own dtype."""

    shape: torch.Size
    weights: Tensor


class PrepackedConv2d(winograd.WinogradConv2d):
    """:class:`~alexnet.models.layers.Conv2d` for inference on a CPU, with prepared weights.

    At the first call for an input shape, the weights are prepacked, or transformed for Winograd's algorithm, and kept
    for later calls. While autograd records gradients, the ordinary convolution is used.

    Weights that are changed in place or replaced are detected by their version and address, and prepared again; writes
    through ``weight.data`` to the same memory are not detected. ``(N, C, H, W)`` → ``(N, filters, H', W')``.
    """

    packed: Packed | None = None  # for the shape of the last input
    transformed: winograd.TransformedWeights | None = None  # for the filtering that was used last
    prepared_for: tuple[object, ...] = ()  # the state of the weights from which these two were computed
    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or self.broken:
            return super().forward(x)
        try:
            return self._forward_prepared(pad(x, self.kernel_size[0], self.stride[0], self.pad_rule))
        except Exception as error:  # whatever a torch version raises, the ordinary convolution gives the prediction
            y = super().forward(x)  # raises for an input that no convolution takes: then the kernel is not at fault
            self.broken = True
            warn_once(f"prepacked convolutions failed, torch's are used instead: {type(error).__name__}: {error}")
            return y

    def _forward_prepared(self, x: Tensor) -> Tensor:
        self._forget_outdated()
        filtering = self.filtering(x, winograd.KEPT)
        if filtering is not None:
            return self._filter(x, filtering)
        if not can_pack(self, x):
            return self._conv_forward(x, self.weight, self.bias)  # type: ignore[no-any-return]
        packed = self.packed  # read once: another thread may pass images of another size meanwhile
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
        """Drop the prepared weights if the weights have changed since."""
        weight = self.weight
        version = None if weight.is_inference() else weight._version
        state = (version, weight.data_ptr(), weight.dtype)
        if state != self.prepared_for:
            self.packed = self.transformed = None
            self.prepared_for = state

    def __getstate__(self) -> dict[str, Any]:
        """The state without the prepared weights: a copy prepares its own weights."""
        return {**self.__dict__, "packed": None, "transformed": None, "prepared_for": ()}


def can_pack(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether torch can prepack this layer on the CPU, in the precision that the layer uses for ``x``."""
    weight = convolution.weight
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    fits = x.device == weight.device and x.shape[1] == convolution.in_channels
    return fits and weight.device.type == "cpu" and weight.dtype == dtype and dtype in packable_dtypes()


@functools.cache
def packable_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes that can be prepacked here: bf16 only on CPUs that have instructions for it."""
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (here and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return ()
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if bf16 else (torch.float32,)


def pack(convolution: nn.Conv2d, shape: torch.Size) -> Packed:
    """The weights packed for inputs of ``shape`` ``(N, C, H, W)``; oneDNN's layout depends on the shape."""
    weight = convolution.weight.detach().contiguous().to_mkldnn()
    return Packed(shape, torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *_geometry(convolution), shape))


def convolve(convolution: nn.Conv2d, x: Tensor, packed: Packed) -> Tensor:
    """``convolution(x)``, bit-identical, without gradients; only if :func:`can_pack` is True.

    ``x`` has the shape ``packed.shape`` and is converted to the dtype of the weights, as by autocast. Returns
    ``(N, filters, H', W')`` in that dtype.
    """
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.to(packed.weights.dtype), packed.weights, convolution.bias, *_geometry(convolution), "none", [], None
    )
    return y


def _geometry(convolution: nn.Conv2d) -> tuple[object, ...]:
    return convolution.padding, convolution.stride, convolution.dilation, convolution.groups
