"""What a weights file of another framework holds, in one form: layers in forward order, and what the file states.

Each reader in this package returns a :class:`ForeignWeights`. It gives tensors in PyTorch's layouts, and nothing is
guessed: what the file does not state is None. ``identify.py`` finds out which network it is, ``convert.py`` builds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from alexnet.config import MAX_SIDE, Preprocessing
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.models.alexnet import Architecture

Framework = Literal["alexnet", "torchvision", "torch", "caffe", "keras", "tensorflow", "matconvnet", "onnx"]
LayerKind = Literal["conv", "linear", "batch-norm"]
OpKind = Literal[
    "conv", "linear", "activation", "lrn", "within-channel-lrn", "pool", "batch-norm", "dropout", "softmax", "flatten"
]
FlattenOrder = Literal["CHW", "HWC", "WHC"]
"""The order in which the last feature maps become the inputs of fc6; the last letter changes fastest. ``WHC`` is
MATLAB's: columns of a map first."""


class NoAlexNetError(UserError):
    """A file was read, and its weights are of no AlexNet of this program. ``details``: where they differ, or "".

    ``convert`` and ``verify`` show the details; other commands show the line only.
    """


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


_WHOLE, _ANY = True, False
SETTINGS: Mapping[tuple[OpKind, str], tuple[bool, float, float]] = {
    ("conv", "stride"): (_WHOLE, 1, MAX_SIDE),
    ("conv", "padding"): (_WHOLE, 0, MAX_SIDE),
    ("conv", "groups"): (_WHOLE, 1, 1e6),
    ("pool", "kernel"): (_WHOLE, 1, MAX_SIDE),
    ("pool", "stride"): (_WHOLE, 1, MAX_SIDE),
    ("lrn", "size"): (_WHOLE, 1, 1e6),
    ("lrn", "groups"): (_WHOLE, 1, 1e6),
    ("lrn", "alpha"): (_ANY, 0, 1e6),
    ("lrn", "beta"): (_ANY, 0, 1e3),
    ("lrn", "k"): (_ANY, 1e-30, 1e6),
    ("batch-norm", "eps"): (_ANY, 0, 1e6),
    ("dropout", "p"): (_ANY, 0, 1 - 1e-6),
}
"""Operation and setting → (whether it is a whole number, the smallest value, the largest): others have no meaning."""
SMALLEST_STD, LARGEST_PIXEL = 1e-6, 1e9


def check_settings(weights: ForeignWeights) -> None:
    """Raise ``UserError`` if a setting that the file states has no meaning: it is not finite, or out of its range.

    Settings are those of the operations, the image size, and the mean and scale of pixels. All readers' results pass
    this check before a network is built from them.
    """
    for op in weights.ops:
        for name, value in op.settings.items():
            if (op.kind, name) in SETTINGS and not (name == "padding" and value in ("same", "ceil")):
                _check_setting(op, name, value, *SETTINGS[op.kind, name])
    if weights.image_size is not None and not 1 <= weights.image_size <= MAX_SIDE:
        raise UserError(f"the file states images of {weights.image_size} pixels: expected 1 to {MAX_SIDE}")
    if weights.mean_image is not None and not bool(weights.mean_image.isfinite().all()):
        raise UserError("the mean image in the file holds numbers that are not finite")
    if weights.preprocessing is not None:
        means, stds = weights.preprocessing.mean, weights.preprocessing.std
        if not all(abs(mean) <= LARGEST_PIXEL for mean in means):  # NaN is not
            raise UserError(f"the file states the mean {_listed(means)} of the pixels, which has no meaning")
        if not all(SMALLEST_STD <= abs(std) <= LARGEST_PIXEL for std in stds):
            raise UserError(f"the file states pixels divided by {_listed(stds)}, which has no meaning")


def _check_setting(op: ForeignOp, name: str, value: object, whole: bool, smallest: float, largest: float) -> None:
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not smallest <= value <= largest:  # type: ignore[operator]
        where = f"layer {printable(op.layer)!r}: " if op.layer else ""
        kind = "a whole number" if whole else "a number"
        raise UserError(
            f"{where}the file states {op.kind} with {name} = {printable(str(value))}; expected {kind} from "
            f"{smallest:g} to {largest:g}"
        )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def one_setting_each(ops: Sequence[ForeignOp], ceilings: Sequence[bool | None]) -> tuple[ForeignOp, ...]:
    """The operations with the settings that our networks have only once: the rounding of pools, and dropout.

    ``ceilings``: for each pool, whether its size is rounded up; None if both roundings give the same size.
    Probabilities of dropout that differ are left out: they act in training only. Raises ``UserError`` if some pools
    must round up and others down.
    """
    stated = {ceiling for ceiling in ceilings if ceiling is not None}
    if len(stated) > 1:
        raise UserError("some pools round up and others down, which no AlexNet of this program does")
    pool = {"ceil_mode": stated.pop()} if stated else {}
    same_dropout = len({op.settings.get("p") for op in ops if op.kind == "dropout"}) <= 1
    return tuple(
        replace(op, settings={**op.settings, **pool}) if op.kind == "pool"
        else replace(op, settings={}) if op.kind == "dropout" and not same_dropout
        else op
        for op in ops
    )  # fmt: skip
