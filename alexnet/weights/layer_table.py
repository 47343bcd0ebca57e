"""A network as a list of layers with every number that another implementation needs.

Exporters for hardware and compilers write this list in their formats. It comes from the modules of the network and
from one run on torch's "meta" device, so every size is the network's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from alexnet.models.classifier import Classifier, run_on_meta
from alexnet.models.layers import (
    AdaptiveAvgPool,
    Conv2d,
    Dropout,
    LocallyConnected,
    LocalResponseNorm,
    WithinChannelLRN,
    padding_amounts,
)

Kind = Literal[
    "convolution",
    "locally connected",
    "linear",
    "local response norm",
    "within-channel norm",
    "batch norm",
    "max pool",
    "average pool",
    "adaptive average pool",
    "relu",
    "tanh",
    "sigmoid",
    "scale",
]
ACTIVATIONS: dict[type[nn.Module], Kind] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
WITH_FILTERS: tuple[Kind, ...] = ("convolution", "locally connected", "linear")


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    ``inputs``, ``outputs``: ``(C, H, W)`` for one image; H = W = 1 for units. A linear layer takes its inputs in this
    order, channels first. ``kernel`` (a side, or channels for local response normalization), ``stride``,
    ``pad_before``, ``pad_after`` (zeros on each axis): in pixels. ``groups``: of channels. ``alpha``,
    ``alpha_divisor``, ``beta``, ``k``: the layer is x · (k + alpha / alpha_divisor · Σ x²)^−beta, with the sum over the
    window. ``eps``: of batch normalization. ``factor``: all values are multiplied by it. ``tensors``: role → tensor;
    the roles are ``weight`` (``(filters, channels / groups, kernel, kernel)``, ``(units, inputs)``, or
    ``(pixels, filters, channels · kernel²)``), ``bias``, and for batch normalization ``mean`` and ``variance`` too.
    """

    name: str
    kind: Kind
    inputs: tuple[int, int, int]
    outputs: tuple[int, int, int]
    kernel: int = 1
    stride: int = 1
    pad_before: int = 0
    pad_after: int = 0
    groups: int = 1
    alpha: float = 0.0
    alpha_divisor: int = 1
    beta: float = 0.0
    k: float = 0.0
    eps: float = 0.0
    factor: float = 1.0
    tensors: dict[str, Tensor] = field(default_factory=dict)


def table_layers(model: Classifier) -> list[str]:
    """The layers that change values or shapes in evaluation mode, in forward order.

    ``flatten`` and dropout that scales in training are left out; dropout that scales at test time is a layer.
    """
    return [name for name, module in model.named_children() if not _is_identity(module)]


def layer_table(model: Classifier) -> list[LayerRow]:
    """The layers of :func:`table_layers` with their numbers. Raises ``TypeError`` for a module of an unknown type."""
    shapes: dict[str, tuple[int, int, int]] = {}
    run_on_meta(model, lambda name, module, output: shapes.__setitem__(name, _three(tuple(output.shape[1:]))))
    rows: list[LayerRow] = []
    inputs = (model.in_channels, model.image_size, model.image_size)
    for name in table_layers(model):
        rows.append(_row(name, model.get_submodule(name), inputs, shapes[name]))
        inputs = shapes[name]
    return rows


def unknown_layer(model: Classifier) -> str | None:
    """Why the network has no layer table, as the rest of a sentence; None if it has one."""
    try:
        layer_table(model)
    except TypeError as error:
        return str(error)
    return None


def _is_identity(module: nn.Module) -> bool:
    if isinstance(module, Dropout):
        return module.scaling == "train"
    return isinstance(module, nn.Flatten | nn.Identity | nn.Dropout)


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def _row(name: str, module: nn.Module, inputs: tuple[int, int, int], outputs: tuple[int, int, int]) -> LayerRow:
    match module:
        case nn.Conv2d():
            return _convolution(name, module, inputs, outputs)
        case LocallyConnected():
            tensors = _with_bias(module.weight, module.bias)
            kernel = module.KERNEL
            return LayerRow(name, "locally connected", inputs, outputs, kernel, 1, 1, 1, tensors=tensors)
        case nn.Linear():
            return LayerRow(name, "linear", inputs, outputs, tensors=_with_bias(module.weight, module.bias))
        case LocalResponseNorm():
            return LayerRow(
                name, "local response norm", inputs, outputs, module.size, groups=module.groups,
                alpha=module.alpha, alpha_divisor=1 if module.convention == "sum" else module.size,
                beta=module.beta, k=module.k,
            )  # fmt: skip
        case WithinChannelLRN():
            return LayerRow(
                name, "within-channel norm", inputs, outputs, module.size,
                pad_before=module.size // 2, pad_after=module.size // 2,
                alpha=module.alpha, alpha_divisor=module.size**2, beta=module.beta, k=module.k,
            )  # fmt: skip
        case nn.BatchNorm2d(weight=nn.Parameter(), running_mean=Tensor() as mean, running_var=Tensor() as variance):
            tensors = _with_bias(module.weight, module.bias) | {"mean": mean, "variance": variance}
            return LayerRow(name, "batch norm", inputs, outputs, eps=module.eps, tensors=tensors)
        case nn.MaxPool2d(padding=0, dilation=1, kernel_size=int() as kernel, stride=int() as stride):
            return LayerRow(name, "max pool", inputs, outputs, kernel, stride)
        case nn.AvgPool2d(padding=0, divisor_override=None, kernel_size=int() as kernel, stride=int() as stride):
            return LayerRow(name, "average pool", inputs, outputs, kernel, stride)
        case AdaptiveAvgPool():
            return LayerRow(name, "adaptive average pool", inputs, outputs)
        case Dropout():
            return LayerRow(name, "scale", inputs, outputs, factor=1.0 - module.p)
    if type(module) in ACTIVATIONS:
        return LayerRow(name, ACTIVATIONS[type(module)], inputs, outputs)
    raise TypeError(f"its layer {name} ({type(module).__name__}) has no description")


def _convolution(name: str, module: nn.Conv2d, inputs: tuple[int, int, int], outputs: tuple[int, int, int]) -> LayerRow:
    square = module.kernel_size[0] == module.kernel_size[1] and module.stride[0] == module.stride[1]
    rule = module.pad_rule if isinstance(module, Conv2d) else 0
    symmetric = module.padding[0] if module.padding[0] == module.padding[1] else None
    if not square or not isinstance(symmetric, int) or module.dilation != (1, 1) or module.padding_mode != "zeros":
        raise TypeError(f"its convolution {name} has no description: {module}")
    kernel, stride = module.kernel_size[0], module.stride[0]
    before, after = padding_amounts(inputs[1], kernel, stride, rule if isinstance(rule, str) else symmetric)
    return LayerRow(
        name, "convolution", inputs, outputs, kernel, stride, before, after, module.groups,
        tensors=_with_bias(module.weight, module.bias),
    )  # fmt: skip


def _with_bias(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


def multiply_adds(row: LayerRow) -> int:
    """Multiply-adds of a layer with filters for one image, padding counted, from the numbers of its row; 0 for others.

    The convention is that of :mod:`alexnet.models.summary`.
    """
    if row.kind == "linear":
        return math.prod(row.inputs) * row.outputs[0]
    if row.kind in WITH_FILTERS:
        return math.prod(row.outputs) * row.inputs[0] // row.groups * row.kernel**2
    return 0
