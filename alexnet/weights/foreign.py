"""What a weights file of another framework holds, in one form: layers in forward order, and what the file states.

Each reader in this package returns a :class:`ForeignWeights`. It gives tensors in PyTorch's layouts, but it does not
guess: what the file does not say stays None. ``identify.py`` finds out which network it is, ``convert.py`` builds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from alexnet.config import Preprocessing
from alexnet.models.alexnet import Architecture

Framework = Literal["alexnet", "torchvision", "torch", "caffe", "keras", "tensorflow", "matconvnet", "onnx"]
LayerKind = Literal["conv", "linear", "batch-norm"]
OpKind = Literal[
    "conv", "linear", "activation", "lrn", "within-channel-lrn", "pool", "batch-norm", "dropout", "softmax", "flatten"
]
FlattenOrder = Literal["CHW", "HWC", "WHC"]
"""The order in which the last feature maps become the inputs of fc6; the last letter changes fastest. ``WHC`` is
MATLAB's: columns of a map first."""


def shape_in_words(shape: Sequence[int]) -> str:
    """A shape for people: ``96 × 3 × 11 × 11``."""
    return " × ".join(map(str, shape)) or "one number"


@dataclass(frozen=True)
class ForeignLayer:
    """The parameters of one layer.

    ``name``: the layer's name in the file. ``weight``: of a convolution ``(out, in / groups, H, W)``, of a linear layer
    ``(out, in)``, of batch normalization the scales ``(C,)``. ``bias``: ``(out,)`` or None. ``running_mean``,
    ``running_var``: ``(C,)``, of batch normalization only. ``original_shape``: the shape of the weight in the file.
    ``steps``: what the reader did to the weight, in words ("HWIO to OIHW").
    """

    name: str
    kind: LayerKind
    weight: Tensor
    bias: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    original_shape: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignOp:
    """One operation of the network that a file describes, with the settings that the file states.

    Settings by kind: conv ``stride``, ``padding`` (an int, ``"same"`` or ``"ceil"``), ``groups``; pool ``kernel``,
    ``stride``, ``ceil_mode``; lrn ``size``, ``alpha``, ``beta``, ``k``, ``convention`` (``"mean"`` or ``"sum"``: what α
    multiplies), ``groups``; batch-norm ``eps``; dropout ``p``, ``scaling`` (``"train"`` or ``"test"``); activation
    ``kind`` (``"relu"``, …). A setting that the file does not state is absent. ``layer``: the name of the
    :class:`ForeignLayer` with its parameters, if it has any.
    """

    kind: OpKind
    layer: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ForeignWeights:
    """The contents of a weights file.

    ``format``: the name of the file format, for people. ``framework``: whose conventions hold. ``layers``: in forward
    order. ``ops``: all operations in forward order, if the file describes the network, else empty. ``flatten``: the
    order of fc6's inputs. ``channel_order``: the order of the image channels that conv1 expects. ``variant``: the
    variant's name, if the names in the file decide it. ``mean_image``: ``(H, W, 3)`` fp32, RGB, 0 … 255.
    ``preprocessing``: if the file states it. ``classes`` and ``labels``: if the file names them. ``image_size``: the
    side of the input image in pixels, if the file states it. ``architecture``: every setting of the network, if the
    file states them (files that this program exported). ``notes``: remarks for the report, whole sentences.
    """

    format: str
    framework: Framework
    layers: tuple[ForeignLayer, ...]
    ops: tuple[ForeignOp, ...] = ()
    flatten: FlattenOrder = "CHW"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    variant: str | None = None
    mean_image: Tensor | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    image_size: int | None = None
    architecture: Architecture | None = None
    notes: tuple[str, ...] = ()
