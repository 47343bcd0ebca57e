"""The layer table of a network: shapes, parameters, multiply-adds, receptive fields, memory.

The network runs once on torch's "meta" device, where tensors have shapes but no values, and the output of every layer
is recorded. So the table always agrees with the network and needs no memory. The conventions:

- multiply-adds are those of convolutions and linear layers for one image, without biases, as in published tables
  (torchvision's documentation: 0.71 G for its network);
- the receptive field r is the side, in input pixels, of the square that one unit depends on (away from the edges), and
  the step j is the distance, in input pixels, between the squares of neighbouring units: a window of k pixels with
  stride s changes r to r + (k − 1)·j, then j to j·s;
- activation bytes are a layer's output in fp32 for one image. An activation such as ReLU has no row: it is counted with
  the layer before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from alexnet.models.classifier import Classifier, run_on_meta
from alexnet.models.layers import AdaptiveAvgPool, LocallyConnected, LocalResponseNorm, WithinChannelLRN

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    LocalResponseNorm: "local response norm",
    WithinChannelLRN: "within-channel LRN",
    nn.BatchNorm2d: "batch norm",
    nn.MaxPool2d: "max pool",
    nn.AvgPool2d: "average pool",
    AdaptiveAvgPool: "adaptive average pool",
    LocallyConnected: "locally connected",
    nn.Linear: "fully connected",
}
FP32_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """One row of the table.

    ``shape``: of the output for one image, ``(C, H, W)`` or ``(F,)``. ``receptive_field`` and ``step``: in pixels, None
    if a unit depends on the whole image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: int | None
    step: int | None
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """All rows of the table, and their totals."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """The number of weights and biases; running averages are not counted."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass for one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def training_flops(self) -> float:
        """FLOPs of a training step for one image; a multiply-add counts as two.

        There are three passes: forward, the gradient of the activations, and that of the weights. The first layer has
        only two, because the gradient of the pixels is not needed.
        """
        first = next((layer.multiply_adds for layer in self.layers if layer.multiply_adds), 0)
        return 2.0 * (3 * self.multiply_adds - first)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layer outputs for one image in fp32; the backward pass needs about this much memory."""
        return sum(layer.activation_bytes for layer in self.layers)


def summarize(network: Classifier) -> Summary:
    """The layer table of any network of this package. The network does not change."""
    rows: list[Layer] = []
    receptive_field, step, sees_all = 1, 1, False

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        nonlocal receptive_field, step, sees_all
        shape = tuple(output.shape[1:])
        if not (kind := _kind(module)) or (isinstance(module, AdaptiveAvgPool) and shape == rows[-1].shape):
            return  # an adaptive pool that does not change the shape has no row
        if (window := _window(module)) is None:
            sees_all = True
        else:
            receptive_field, step = receptive_field + (window[0] - 1) * step, step * window[1]
        rows.append(
            Layer(
                name,
                kind,
                shape,
                sum(parameter.numel() for parameter in module.parameters()),
                _multiply_adds(module, shape),
                None if sees_all else receptive_field,
                None if sees_all else step,
                math.prod(shape) * FP32_BYTES,
            )
        )

    run_on_meta(network, record)
    return Summary(tuple(rows))


def _kind(module: nn.Module) -> str:
    """The name of the module's kind in the table; empty for modules that have no row."""
    return next((kind for layer_type, kind in KINDS.items() if isinstance(module, layer_type)), "")


def _window(module: nn.Module) -> tuple[int, int] | None:
    """Side and stride of the window that one unit depends on; None if it depends on the whole feature map."""
    match module:
        case nn.Conv2d():
            return module.kernel_size[0], module.stride[0]
        case nn.MaxPool2d() | nn.AvgPool2d():
            assert isinstance(module.kernel_size, int) and isinstance(module.stride, int)
            return module.kernel_size, module.stride
        case WithinChannelLRN():
            return module.size, 1
        case LocallyConnected():
            return module.KERNEL, 1
        case LocalResponseNorm() | nn.BatchNorm2d():
            return 1, 1
    return None


def _multiply_adds(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Number of outputs times the size of one filter for convolutions and linear layers; 0 for other layers."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return math.prod(shape) * module.weight[0].numel()
    if isinstance(module, LocallyConnected):
        return module.weight.numel()
    return 0
