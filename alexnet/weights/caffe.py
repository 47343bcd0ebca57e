"""Caffe's ``.caffemodel``: layers, their settings and their weights in one message of protocol buffers.

A file is a ``NetParameter``: its layers are in forward order, in field 100 (since 2014) or in field 2 ("V1", before).
Training writes the whole network into it, with data layers, losses and accuracy; they are passed over. Shapes of V1
have four axes: a bias is (1, 1, 1, 96), a linear layer (1, 1, 4096, 9216). Settings that a layer does not state have
Caffe's defaults, which are not those of others: LRN's α is 1 and divided by the size, k is 1, pools round up.

Images are BGR from 0 to 255 minus a mean; the mean is in another file (``mean_file.py``) or, as ``mean_value``, in the
data layer. Sources: ``src/caffe/proto/caffe.proto``, ``src/caffe/layers`` and ``src/caffe/util/upgrade_proto.cpp`` of
BVLC/caffe.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alexnet.config import MAX_SIDE, Preprocessing
from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.models.alexnet import Architecture
from alexnet.weights.caffe_blobs import DESCRIPTION, DIM, LAYER, read_blob
from alexnet.weights.foreign import ForeignLayer, ForeignOp, ForeignWeights
from alexnet.weights.formats import ReadOptions
from alexnet.weights.mean_file import read_mean
from alexnet.weights.metadata import Description, parse
from alexnet.weights.preprocessing import stored_size
from alexnet.weights.protobuf import (
    BYTES,
    Value,
    as_bytes,
    as_float,
    as_int,
    fields,
    file_fields,
    signed,
    text,
    varints,
)

NAME, V1_LAYER, INPUT_DIM, INPUT_SHAPE = 1, 2, 4, 8  # fields of NetParameter, besides LAYER
MAX_TEXT_FIELD = 4  # in a layer, of both formats: names, bottom and top
MAX_LAYERS, MAX_LAYER_FIELDS = 2000, 2000
MAX_LRN_SIZE = 99
WARPED = "preprocessing: images are warped to a square, Caffe's convention; the file states the mean and the crop only"
WITHIN_CHANNEL_LRN = {"size": 5, "alpha": 1e-3, "beta": 0.75}  # the only one that a published AlexNet has
V1_TYPES = {
    1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 9: "HDF5Data", 12: "ImageData",
    14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 19: "Sigmoid", 20: "Softmax", 21: "SoftmaxWithLoss",
    22: "Split", 23: "TanH", 24: "WindowData", 29: "MemoryData", 30: "ArgMax", 32: "DummyData", 36: "Silence",
}  # fmt: skip
DATA_TYPES = ("Data", "Input", "ImageData", "HDF5Data", "MemoryData", "DummyData", "WindowData")
WITHOUT_EFFECT = (*DATA_TYPES, "Accuracy", "ArgMax", "Flatten", "Silence", "Split")
ACTIVATIONS = {"ReLU": "relu", "Sigmoid": "sigmoid", "TanH": "tanh"}

Settings = Mapping[int, list[Value]]
"""The fields of a message: number → values."""


@dataclass(frozen=True)
class _Fields:
    """The numbers of a layer's fields, which differ between the two formats."""

    name: int
    type: int
    blobs: int
    settings: Mapping[str, int]
    transform: int


NEW = _Fields(1, 2, 7, {
    "BatchNorm": 139, "Convolution": 106, "Dropout": 108, "InnerProduct": 117, "Input": 143, "LRN": 118, "Pooling": 121,
    "ReLU": 123, "Scale": 142,
}, 100)  # fmt: skip
V1 = _Fields(4, 5, 6, {
    "Convolution": 10, "Dropout": 12, "InnerProduct": 17, "LRN": 18, "Pooling": 19, "ReLU": 30,
}, 36)  # fmt: skip
V0_LAYER = 1  # in a layer of V1: the format before that


@dataclass(frozen=True)
class _Layer:
    """A layer of the file. ``type``: "" if it is not stated. ``settings``: None if the file has none."""

    name: str
    type: str
    blobs: tuple[npt.NDArray[np.float32], ...]
    settings: Settings | None
    transform: Settings | None


@dataclass(frozen=True)
class _Input:
    """What the file states of the input. ``mean``: ``mean_value``, in the file's order of channels, as ``std``."""

    size: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    mean_file: str = ""
    std: tuple[float, ...] = ()


def recognises(head: bytes, path: Path) -> bool:
    """By the file's name, or if a name of the network, if any, and a layer that starts with a text come first."""
    if path.suffix in (".caffemodel", ".prototxt", ".binaryproto"):
        return True
    try:
        for number, _, value in fields(memoryview(head), is_head=True):
            if number in (V1_LAYER, LAYER):
                first, _, start = next(fields(as_bytes(value), is_head=True))
                return first <= MAX_TEXT_FIELD and text(start).isprintable()
            if number > INPUT_SHAPE:
                return False
    except (ValueError, StopIteration):
        return False
    return False


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers and operations of the file.

    Raises ``UserError`` for a file that is damaged, that has no weights, or that has layers or settings of no AlexNet,
    and for a mean image that cannot be read.
    """
    name = printable(str(path))
    if path.suffix == ".prototxt":
        raise UserError(f"{name} describes a network and holds no weights: give the .caffemodel that belongs to it")
    if path.suffix == ".binaryproto":
        raise UserError(f"{name} is a mean image: give a .caffemodel, and this file with --mean")
    mean_image = None if options.mean is None else read_mean(options.mean)
    try:
        with open_regular(path) as file:
            layers, stated, entries = _read_layers(file_fields(file, os.fstat(file.fileno()).st_size, MAX_LAYERS))
        if (description := parse(entries, "the file")) is not None:
            return _own_weights(layers, description, mean_image)
        return _weights(layers, stated, mean_image)
    except OSError as error:
        raise cannot_read(path, error) from error
    except UserError as error:
        raise UserError(f"{name} cannot be used: {error.line}", error.details) from error
    except (ValueError, MemoryError) as error:
        raise UserError(f"{name} is no complete Caffe model: use another copy", [printable(str(error))]) from error


def _read_layers(found: Iterator[tuple[int, int, Value]]) -> tuple[list[_Layer], _Input, dict[str, str]]:
    """The layers of a ``NetParameter``, what it states of the input, and our description. Raises ``ValueError``."""
    layers: list[_Layer] = []
    entries: dict[str, str] = {}
    dims: list[int] = []
    formats: set[int] = set()
    for number, wire_type, value in found:
        if number in (LAYER, V1_LAYER):
            formats.add(number)
            layers.append(_read_layer(as_bytes(value), NEW if number == LAYER else V1))
        elif number == INPUT_DIM:
            dims += varints(as_bytes(value)) if wire_type == BYTES else [as_int(value)]
        elif number == INPUT_SHAPE and not dims:
            dims = _ints(_settings(as_bytes(value)), DIM)
        elif number == DESCRIPTION:
            entry = _settings(as_bytes(value))
            if 1 in entry and 2 in entry:
                entries[text(entry[1][0])] = text(entry[2][0])
        del value  # a field may be most of the file: the next one is read when this one is gone
    if len(formats) > 1:
        raise ValueError("it has layers of both formats")
    return layers, _input_of(layers, dims), entries


def _read_layer(view: memoryview, numbers: _Fields) -> _Layer:
    name, kind = "", ""
    blobs = []
    messages: dict[int, Settings] = {}
    wanted = {*numbers.settings.values(), numbers.transform}
    for number, _, value in fields(view, MAX_LAYER_FIELDS):
        if number == numbers.name:
            name = text(value)
        elif number == numbers.type:
            kind = text(value) if numbers is NEW else _v1_type(as_int(value))
        elif number == numbers.blobs:
            blobs.append(read_blob(as_bytes(value)))
        elif number in wanted:
            messages[number] = _settings(as_bytes(value))
        elif number == V0_LAYER and numbers is V1:
            raise UserError("it has the first format of Caffe (V0): convert it with Caffe's upgrade_net_proto_binary")
    settings = messages.get(numbers.settings.get(kind, 0))
    return _Layer(name, kind, tuple(blobs), settings, messages.get(numbers.transform))


def _v1_type(number: int) -> str:
    return V1_TYPES.get(number, f"number {number}") if number else ""


def _settings(view: memoryview) -> Settings:
    found: dict[int, list[Value]] = {}
    for number, _, value in fields(view, MAX_LAYER_FIELDS):
        found.setdefault(number, []).append(value)
    return found


def _ints(settings: Settings, number: int) -> list[int]:
    """The numbers of a repeated field, packed or not."""
    values = settings.get(number, [])
    return [signed(part) for value in values for part in ([value] if isinstance(value, int) else varints(value))]


def _int(settings: Settings, number: int, default: int) -> int:
    return _ints(settings, number)[-1] if settings.get(number) else default


def _float(settings: Settings, number: int, default: float) -> float:
    value = as_float(settings[number][-1]) if number in settings else default
    if not math.isfinite(value):
        raise ValueError("a setting is not a finite number")
    return value


def _input_of(layers: list[_Layer], dims: list[int]) -> _Input:
    """What the input layers and ``transform_param`` state."""
    transform: Settings = {}
    for layer in layers:
        if layer.type in DATA_TYPES and layer.transform and not transform:
            transform = layer.transform
        if layer.type == "Input" and layer.settings and not dims:
            dims = _ints(_settings(as_bytes(layer.settings[1][0])), DIM) if layer.settings.get(1) else []
    size = _int(transform, 3, 0) or (dims[3] if len(dims) == 4 and dims[2] == dims[3] else 0)
    mean = tuple(map(as_float, transform.get(5, [])))
    if not all(map(math.isfinite, mean)):
        raise ValueError("the mean is not a finite number")
    mean_file = text(transform[4][-1]) if 4 in transform else ""
    return _Input(size if 0 < size <= MAX_SIDE else None, _float(transform, 1, 1.0), mean, mean_file)


def _weights(layers: list[_Layer], stated: _Input, mean_image: Tensor | None) -> ForeignWeights:
    """The layers and operations in our form. Raises ``UserError``."""
    ours: list[ForeignLayer] = []
    ops: list[ForeignOp] = []
    for layer in layers:
        if layer.type not in WITHOUT_EFFECT:
            _add(layer, ours, ops)
    notes = []
    if not any(op.kind in ("activation", "pool", "lrn") for op in ops):
        ops = []
        notes.append("the file holds weights only: it does not say which operations are between them")
    stated = replace(stated, std=_input_std(layers))
    if stated.scale != 1 and ours:
        conv1 = ours[0]
        ours[0] = replace(
            conv1, weight=conv1.weight * stated.scale, steps=(*conv1.steps, f"times {stated.scale}, the input's scale")
        )
    if stated.mean_file and mean_image is None:
        notes.append(f"it was trained with the mean image {printable(stated.mean_file)}: give that file with --mean")
    preprocessing = None if mean_image is not None else _preprocessing(stated, ours)
    if stated.std and preprocessing is None and ours and ours[0].weight.shape[1] in (len(stated.std), 3):
        divisors = torch.tensor(stated.std).reshape(-1, 1, 1)  # the mean image has none
        ours[0] = replace(ours[0], weight=ours[0].weight / divisors, steps=(*ours[0].steps, "divided by the scales"))
    assumptions = () if preprocessing is None else (WARPED,)
    return ForeignWeights(
        "Caffe", "caffe", tuple(ours), tuple(ops), channel_order="BGR", mean_image=mean_image,
        preprocessing=preprocessing, image_size=stated.size, notes=tuple(notes), assumptions=assumptions,
    )  # fmt: skip


def _input_std(layers: list[_Layer]) -> tuple[float, ...]:
    """The divisors of the channels, if a ``Scale`` layer comes before the first convolution; else none."""
    first = next((layer for layer in layers if layer.type not in WITHOUT_EFFECT), None)
    if first is None or first.type != "Scale":
        return ()
    values = first.blobs[0].reshape(-1) if len(first.blobs) == 1 else np.zeros(0, np.float32)
    if len(values) not in (1, 3) or not np.isfinite(values).all() or not values.all():
        raise UserError(f"layer {printable(first.name)!r}: it does not hold one scale for each channel of the image")
    return tuple(float(f"{1 / float(value):.6g}") for value in values)


def _own_weights(layers: list[_Layer], stated: Description, mean_image: Tensor | None) -> ForeignWeights:
    """A file of this program: the weights as they were before the export, everything else as it is stated.

    ``mean_image``: the user's, which replaces the preprocessing of the file. Raises ``UserError``.
    """
    architecture = stated.architecture
    if architecture is None:
        raise UserError(f"{stated.variant} is no AlexNet: its weights can only be read from a folder of this program")
    ours: list[ForeignLayer] = []
    ops: list[ForeignOp] = []
    factor = 1.0  # by which the exporter multiplied the next weight: that of dropout in evaluation
    for layer in layers:
        before = len(ours)
        if layer.type in ("BatchNorm", "Convolution", "Dropout", "InnerProduct") or (layer.type == "Scale" and ours):
            _add(layer, ours, ops)
        if layer.type == "Dropout" and architecture.dropout_scaling == "test":
            factor = 1 - ops[-1].settings["p"]
        elif len(ours) > before and layer.type in ("Convolution", "InnerProduct"):
            weight = _without_zeros(ours, architecture)
            ours[-1] = replace(ours[-1], weight=weight if factor == 1 else weight / factor)
            factor = 1.0
    return ForeignWeights(
        "Caffe", "alexnet", tuple(ours), channel_order="BGR", variant=stated.variant, architecture=architecture,
        mean_image=stated.mean_image if mean_image is None else mean_image, image_size=stated.image_size,
        preprocessing=stated.preprocessing if mean_image is None else None, classes=stated.classes,
        labels=stated.labels, notes=("exported by this program",),
    )  # fmt: skip


def _without_zeros(layers: list[ForeignLayer], architecture: Architecture) -> Tensor:
    """The last layer's weight without the zeros that the exporter put before it, if its padding is not symmetric."""
    layer, number = layers[-1], sum(each.kind == "conv" for each in layers)
    if layer.kind != "conv" or number > len(architecture.convs):
        return layer.weight
    more = max(0, layer.weight.shape[-1] - architecture.convs[number - 1].kernel)
    if bool(layer.weight[..., :more, :].any()) or bool(layer.weight[..., :more].any()):
        raise UserError(f"layer {printable(layer.name)!r}: its kernel is larger than the network's")
    return layer.weight[..., more:, more:]


def _preprocessing(stated: _Input, layers: list[ForeignLayer]) -> Preprocessing | None:
    """The preprocessing, if the file states the size of the input and the mean of each channel."""
    channels = layers[0].weight.shape[1] if layers and layers[0].kind == "conv" else 0
    if stated.size is None or channels not in (1, 3) or len(stated.mean) not in (1, channels):
        return None
    mean = stated.mean[::-1] if len(stated.mean) == channels else stated.mean * channels
    kind: Literal[1, 3] = 1 if channels == 1 else 3
    size = stated.size
    std = stated.std[::-1] or (1.0,) * channels
    return Preprocessing(kind, stored_size(size), size, size, "channel", mean, std, "warp")


def _add(layer: _Layer, ours: list[ForeignLayer], ops: list[ForeignOp]) -> None:
    """Add a layer's parameters to ``ours`` and its operation to ``ops``."""
    shown = printable(layer.name)
    try:
        match layer.type or _type_of_blobs(layer):
            case "Convolution":
                ours.append(_conv(layer))
                ops.append(ForeignOp("conv", layer.name, _conv_settings(layer, ours[-1].weight)))
            case "InnerProduct":
                ours.append(_linear(layer))
                ops.append(ForeignOp("linear", layer.name))
            case "BatchNorm":
                ours.append(_batch_norm(layer))
                ops.append(ForeignOp("batch-norm", layer.name, {"eps": _float(layer.settings or {}, 3, 1e-5)}))
            case "Scale" if not ours and not ops:
                pass  # of the input: see `_input_std`
            case "Scale":
                ours[-1] = _scaled(layer, ours, ops)
            case "LRN":
                ops.append(_lrn(layer))
            case "Pooling":
                ops.append(ForeignOp("pool", "", _pool_settings(layer)))
            case "Dropout":
                ops.append(ForeignOp("dropout", "", _dropout_settings(layer)))
            case "ReLU" | "Sigmoid" | "TanH" as kind:
                if kind == "ReLU" and _float(layer.settings or {}, 1, 0.0) != 0:
                    raise UserError("its negative_slope is not 0, and no AlexNet has a leaky ReLU")
                ops.append(ForeignOp("activation", "", {"kind": ACTIVATIONS[kind]}))
            case "Softmax" | "SoftmaxWithLoss":
                ops.append(ForeignOp("softmax"))
            case "":
                pass
            case kind:
                raise UserError(f"no AlexNet has a layer of the type {printable(kind)}")
    except UserError as error:
        raise UserError(f"layer {shown!r}: {error.line}", error.details) from error
    except ValueError as error:
        raise UserError(f"layer {shown!r} is damaged", [printable(str(error))]) from error


def _type_of_blobs(layer: _Layer) -> str:
    """The type of a layer that does not state it, from the shape of its weights."""
    if not layer.blobs:
        return ""
    shape = layer.blobs[0].shape
    return "Convolution" if len(shape) == 4 and shape[:2] != (1, 1) else "InnerProduct"


def _weight_and_bias(layer: _Layer) -> tuple[npt.NDArray[np.float32], Tensor | None]:
    if not layer.blobs:
        raise UserError("it has no weights; a .caffemodel from training has them")
    if len(layer.blobs) > 2:
        raise UserError(f"it has {len(layer.blobs)} arrays, not a weight and a bias")
    bias = torch.from_numpy(layer.blobs[1].reshape(-1)) if len(layer.blobs) == 2 else None
    return layer.blobs[0], bias


def _conv(layer: _Layer) -> ForeignLayer:
    weight, bias = _weight_and_bias(layer)
    if weight.ndim != 4 or 0 in weight.shape:
        raise UserError(f"a convolution's weight has the shape {weight.shape}, not four axes")
    return ForeignLayer(layer.name, "conv", torch.from_numpy(weight), bias, original_shape=weight.shape)


def _linear(layer: _Layer) -> ForeignLayer:
    weight, bias = _weight_and_bias(layer)
    shape, settings, steps = weight.shape, layer.settings or {}, []
    if weight.ndim < 2 or 0 in shape or math.prod(shape[:-2]) != 1:
        raise UserError(f"a linear layer's weight has the shape {shape}, not two axes")
    if _int(settings, 5, 1) not in (1, -3):
        raise UserError(f"its axis is {_int(settings, 5, 1)}, not 1")
    weight = weight.reshape(shape[-2:])
    if _int(settings, 6, 0):
        weight = weight.T
        steps.append("transposed")
    return ForeignLayer(layer.name, "linear", torch.from_numpy(weight), bias, original_shape=shape, steps=tuple(steps))


def _conv_settings(layer: _Layer, weight: Tensor) -> dict[str, Any]:
    """Stride, padding and groups, if the layer has ``convolution_param``; they must agree with the weight."""
    if layer.settings is None:
        return {}
    settings = layer.settings
    filters, _, height, width = weight.shape
    kernel = _square(settings, "kernel", 4, (11, 12), height)
    stride = _square(settings, "stride", 6, (13, 14), 1)
    padding = _square(settings, "padding", 3, (9, 10), 0)
    groups, outputs = _int(settings, 5, 1), _int(settings, 1, filters)
    if (outputs, kernel, kernel) != (filters, height, width):
        raise UserError(
            f"it states {outputs} filters of {kernel} × {kernel}, and has {filters} of {height} × {width} in its weight"
        )
    if any(value != 1 for value in _ints(settings, 18)):
        raise UserError("its dilation is not 1")
    if stride < 1 or not 0 <= padding < kernel or groups < 1 or filters % groups:
        raise UserError(
            f"stride {stride}, padding {padding} and {groups} groups do not fit {filters} filters of {kernel}"
        )
    return {"stride": stride, "padding": padding, "groups": groups}


def _square(settings: Settings, what: str, both: int, sides: tuple[int, int], default: int) -> int:
    """A setting that is given once for both axes, once for each axis, or as ``…_h`` and ``…_w``."""
    values = _ints(settings, both) or [value for side in sides for value in [_int(settings, side, -1)]]
    if set(values) == {-1}:
        return default
    if -1 in values or len(set(values)) != 1:
        raise UserError(f"its {what} differs between rows and columns: {values[:4]}")
    return values[0]


def _pool_settings(layer: _Layer) -> dict[str, Any]:
    if layer.settings is None:
        return {}
    settings = layer.settings
    if _int(settings, 1, 0) != 0:
        raise UserError("it is no max pool")
    kernel = _square(settings, "kernel", 2, (5, 6), 0)
    stride = _square(settings, "stride", 3, (7, 8), 1)
    padding = _square(settings, "padding", 4, (9, 10), 0)
    rounding = _int(settings, 13, 0)
    if padding or _int(settings, 12, 0) or not 0 < kernel <= MAX_SIDE or not 0 < stride <= MAX_SIDE or rounding > 1:
        raise UserError(f"no AlexNet has a pool of kernel {kernel}, stride {stride} and padding {padding}")
    return {"kernel": kernel, "stride": stride, "ceil_mode": rounding == 0}


def _lrn(layer: _Layer) -> ForeignOp:
    if layer.settings is None:
        return ForeignOp("lrn")
    settings = layer.settings
    size, alpha, beta = _int(settings, 1, 5), _float(settings, 2, 1.0), _float(settings, 3, 0.75)
    k = _float(settings, 5, 1.0)
    if size % 2 == 0 or not 0 < size <= MAX_LRN_SIZE or alpha < 0 or k <= 0 or abs(beta) > 10:
        raise UserError(f"no AlexNet has a response normalization of size {size}, alpha {alpha}, beta {beta}, k {k}")
    if _int(settings, 4, 0) == 0:
        return ForeignOp(
            "lrn", "", {"size": size, "alpha": alpha, "beta": beta, "k": k, "convention": "mean", "groups": 1}
        )
    if {"size": size, "alpha": alpha, "beta": beta} != WITHIN_CHANNEL_LRN:
        raise UserError(f"normalization within a channel is only known with {WITHIN_CHANNEL_LRN}")
    return ForeignOp("within-channel-lrn")


def _dropout_settings(layer: _Layer) -> dict[str, Any]:
    p = _float(layer.settings or {}, 1, 0.5)
    if not 0 <= p < 1:
        raise UserError(f"its dropout_ratio is {p}")
    return {"p": p, "scaling": "train"}


def _batch_norm(layer: _Layer) -> ForeignLayer:
    """Running mean and variance: the file has their sums, and the factor by which they are divided."""
    if len(layer.blobs) != 3 or layer.blobs[2].size != 1:
        raise UserError("batch normalization does not have the three arrays mean, variance and factor")
    factor = float(layer.blobs[2].reshape(-1)[0])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, variance = (array.reshape(-1) * np.float32(1 / factor if factor else 0) for array in layer.blobs[:2])
    if len(mean) != len(variance) or variance.min(initial=0) < 0:
        raise UserError("the variances of batch normalization do not belong to its means")
    ones = torch.ones(len(mean))
    return ForeignLayer(
        layer.name, "batch-norm", ones, torch.zeros_like(ones), torch.from_numpy(mean), torch.from_numpy(variance),
        original_shape=layer.blobs[0].shape,
    )  # fmt: skip


def _scaled(layer: _Layer, ours: list[ForeignLayer], ops: list[ForeignOp]) -> ForeignLayer:
    """The batch normalization before a ``Scale``, with the scales and shifts of that layer."""
    if not ops or ops[-1].kind != "batch-norm":
        raise UserError("it does not follow a batch normalization")
    norm = ours[-1]
    weight, bias = _weight_and_bias(layer)
    if weight.reshape(-1).shape != tuple(norm.weight.shape):
        raise UserError(f"it has {weight.size} scales for {len(norm.weight)} channels")
    return replace(norm, name=f"{norm.name} and {layer.name}", weight=torch.from_numpy(weight.reshape(-1)), bias=bias)
