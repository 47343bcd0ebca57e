"""Weights of MatConvNet: a ``.mat`` file with ``layers`` (the *simplenn* form) and ``meta``.

Each layer is a struct with a type. Filters are height × width × in / groups × out, where the height is the first index
of a MATLAB array; in memory MATLAB's first index changes fastest, which readers of the file undo. Fully connected
layers are convolutions whose filters cover the maps, so fc6's filters (6 × 6 × 256 × 4096) give the inputs in the order
channel, row, column without a permutation. Images are RGB, 0 to 255, minus ``meta.normalization.averageImage``.

Two conventions differ from Caffe's. LRN's parameters are [N κ α β], and α multiplies the sum of squares, so Caffe's
α = 1e-4 with n = 5 is 2e-5 here. Pools round down; a padding at the bottom and on the right alone makes them round up.

Source: MatConvNet 1.0-beta25, ``matlab/vl_nnnormalize.m``, ``vl_nnpool.m``, ``simplenn/vl_simplenn_tidy.m``,
``examples/imagenet/cnn_imagenet_evaluate.m``, ``utils/import-caffe.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from alexnet.config import MAX_SIDE, Preprocessing
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.models.layers import window_count
from alexnet.weights.child import damage_is, errors_name
from alexnet.weights.foreign import ForeignLayer, ForeignOp, ForeignWeights, OpKind, one_setting_each
from alexnet.weights.formats import ReadOptions
from alexnet.weights.matlab_files import read_matlab

SIGNATURE = b"MATLAB "
CONV_STEPS, LINEAR_STEPS = ("HWIO to OIHW",), ("HWIO to O, CHW",)
MAX_LAYERS = 1000
ROWS_FIRST = "the first index of the filters is taken to be the row, as in MatConvNet's files"


def recognises(head: bytes, path: Path) -> bool:
    """The text that begins a MATLAB file of version 5 or later."""
    return head.startswith(SIGNATURE)


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers and operations of a simplenn network.

    Raises ``UserError``: for a damaged file, for one that holds something else, and for one of version 7.3 if h5py is
    absent.
    """
    tensors, variables = read_matlab(path)
    with errors_name(path):
        return interpret(tensors, variables)


@damage_is("the file is damaged: it is no network of MatConvNet")
def interpret(tensors: Mapping[str, Tensor], variables: Mapping[str, Any]) -> ForeignWeights:
    """The network from what ``matlab_files.read_matlab`` gives. Raises ``UserError``."""
    net = variables["net"] if isinstance(variables.get("net"), dict) else variables
    layers = net.get("layers")
    if "params" in net and "vars" in net:
        raise UserError(
            "it holds a DagNN network, which is not read: use a file of the same network in the simplenn form"
        )
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, dict) for layer in layers):
        raise UserError(
            f"it is no MatConvNet network: expected layers, found {', '.join(map(printable, variables)) or 'nothing'}"
        )
    if len(layers) > MAX_LAYERS:
        raise UserError(f"it has {len(layers)} layers, an AlexNet has about 20")
    meta = net["meta"] if isinstance(net.get("meta"), dict) else net
    normalization = meta["normalization"] if isinstance(meta.get("normalization"), dict) else {}
    sides = _numbers(tensors, normalization.get("imageSize", []))
    size = int(sides[0]) if len(sides) >= 2 and sides[0] == sides[1] and 0 < sides[0] <= MAX_SIDE else None
    chain = _Chain(tensors, size)
    for place, layer in enumerate(layers, 1):
        chain.add(layer, place)
    mean_image, preprocessing = _pixels(tensors, normalization, size)
    classes, labels = _classes(meta.get("classes"))
    return ForeignWeights(
        "MatConvNet .mat", "matconvnet", tuple(chain.layers), one_setting_each(chain.ops, chain.ceilings), "CHW",
        mean_image=mean_image, preprocessing=preprocessing, classes=classes, labels=labels, image_size=size,
        notes=(ROWS_FIRST, *chain.notes),
    )  # fmt: skip


@dataclass
class _Chain:
    """The network as far as it was read. ``size``: the side of the maps, None if unknown."""

    tensors: Mapping[str, Tensor]
    size: int | None
    layers: list[ForeignLayer] = field(default_factory=list)
    ops: list[ForeignOp] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ceilings: list[bool | None] = field(default_factory=list)  # of each pool; None: both roundings give the same size

    def add(self, layer: Mapping[str, Any], place: int) -> None:
        name = layer.get("name") or f"layer {place}"
        name = name if isinstance(name, str) else f"layer {place}"
        match layer.get("type"):
            case "conv":
                self._conv(layer, name)
            case "relu":
                if _scalar(self.tensors, layer.get("leak"), 0.0):
                    _refuse(name, "is no plain ReLU")
                self._op("activation", kind="relu")
            case "sigmoid":
                self._op("activation", kind="sigmoid")
            case "normalize" | "lrn":
                size, k, alpha, beta = _numbers(self.tensors, layer["param"])
                if size != int(size):
                    _refuse(name, f"normalizes over {size:g} channels: it must be a whole number")
                self._op("lrn", size=int(size), k=k, alpha=alpha, beta=beta, convention="sum")
            case "pool":
                self._pool(layer, name)
            case "softmax" | "softmaxloss":
                self._op("softmax")
            case "dropout":
                self._op("dropout", p=_scalar(self.tensors, layer.get("rate"), 0.5))
            case kind:
                _refuse(name, f"is of the type {printable(str(kind))!r}, which no AlexNet of this program has")

    def _op(self, operation: OpKind, layer: str = "", /, **settings: Any) -> None:
        self.ops.append(ForeignOp(operation, layer, settings))

    def _conv(self, layer: Mapping[str, Any], name: str) -> None:
        weights = layer.get("weights") or [layer.get("filters"), layer.get("biases")]
        filters, biases = (self._array(weights[place], name) if place < len(weights) else None for place in (0, 1))
        if filters is None:
            _refuse(name, "has no filters")
        original = tuple(filters.shape)
        filters = filters.reshape(*original, *(1,) * (4 - len(original)))  # MATLAB drops trailing axes of length 1
        height, width = filters.shape[:2]
        pads, strides = _sides(self.tensors, layer.get("pad"), 4, 0), _sides(self.tensors, layer.get("stride"), 2, 1)
        if any(value != 1 for value in _sides(self.tensors, layer.get("dilate"), 2, 1)):
            _refuse(name, "is dilated, which is not supported")
        if height != width or len(set(strides)) > 1 or not 0 < strides[0] <= MAX_SIDE:
            _refuse(name, f"has filters of {height} × {width} and strides {strides}: both must be square")
        bias = None if biases is None or not biases.numel() else biases.flatten()
        convs = sum(each.kind == "conv" for each in self.layers)
        if convs == 5:  # a fully connected layer: filters that cover the maps
            if any(pads) or strides[0] != 1 or (height > 1 and len(self.layers) > 5):
                _refuse(name, "comes after five convolutions and is no fully connected layer")
            weight = filters.permute(3, 2, 0, 1).flatten(1)
            self.layers.append(ForeignLayer(name, "linear", weight, bias, original_shape=original, steps=LINEAR_STEPS))
            if len(self.layers) == 6:
                if self.size is not None and self.size != height:
                    _refuse(name, f"has filters of {height} × {height} for maps of {self.size} × {self.size}")
                self._op("flatten")
            self._op("linear", name)
            return
        if len(set(pads)) > 1:
            _refuse(name, f"has the paddings {pads}: they must be equal on all sides")
        weight = filters.permute(3, 2, 0, 1)
        groups = self._groups(weight, name)
        self.layers.append(ForeignLayer(name, "conv", weight, bias, original_shape=original, steps=CONV_STEPS))
        self._op("conv", name, stride=strides[0], padding=pads[0], groups=groups)
        if self.size is not None:
            self.size = window_count(self.size + 2 * pads[0], height, strides[0])

    def _groups(self, weight: Tensor, name: str) -> int:
        """The groups of a convolution: MatConvNet derives them from the maps before it."""
        if not self.layers:
            return 1
        maps, each = len(self.layers[-1].weight), weight.shape[1]
        if not each or maps % each:
            _refuse(name, f"takes {each} maps in each group, and there are {maps}")
        return maps // each

    def _pool(self, layer: Mapping[str, Any], name: str) -> None:
        if layer.get("method", "max") != "max":
            _refuse(name, f"is a pool of the method {printable(str(layer.get('method')))!r}; AlexNet has max pools")
        kernel, stride = _sides(self.tensors, layer.get("pool"), 2, 1), _sides(self.tensors, layer.get("stride"), 2, 1)
        top, bottom, left, right = _sides(self.tensors, layer.get("pad"), 4, 0)
        if (
            len(set(kernel)) > 1
            or len(set(stride)) > 1
            or not 0 < stride[0] <= MAX_SIDE
            or not 0 < kernel[0] <= MAX_SIDE
        ):
            _refuse(name, f"has windows {kernel} and strides {stride}: both must be square")
        if top or left or bottom != right or not 0 <= bottom < kernel[0]:
            _refuse(
                name,
                f"has the paddings {[top, bottom, left, right]}: only equal ones at the bottom and right can be read",
            )
        self._op("pool", kernel=kernel[0], stride=stride[0])
        if self.size is None:
            self.ceilings.append(bool(bottom) or None)
            return
        down, up = (window_count(self.size, kernel[0], stride[0], ceil=ceil) for ceil in (False, True))
        count = window_count(self.size + bottom, kernel[0], stride[0])
        if count not in (down, up):
            _refuse(name, f"is padded by {bottom} pixels: this is not the same as rounding up")
        self.ceilings.append(None if down == up else count == up)
        self.size = count

    def _array(self, value: Any, name: str) -> Tensor | None:
        if not isinstance(value, dict) or value.get("array") not in self.tensors:
            return None
        tensor = self.tensors[value["array"]]
        if not tensor.is_floating_point() or not 1 <= tensor.ndim <= 4:
            _refuse(name, "holds no array of floating-point numbers")
        return tensor


def _refuse(name: str, why: str) -> NoReturn:
    raise UserError(f"layer {printable(name)!r} {why}")


def _numbers(tensors: Mapping[str, Tensor], value: Any) -> list[float]:
    """A small array as numbers. Raises ``ValueError`` for a large one."""
    if not isinstance(value, dict) or value.get("array") not in tensors:
        return []
    tensor = tensors[value["array"]]
    if tensor.numel() > 16:
        raise ValueError(f"a setting has {tensor.numel()} values")
    return [float(number) for number in tensor.T.flatten().tolist()] if tensor.ndim else [float(tensor)]


def _scalar(tensors: Mapping[str, Tensor], value: Any, default: float) -> float:
    numbers = _numbers(tensors, value)
    return numbers[0] if numbers else default


def _sides(tensors: Mapping[str, Tensor], value: Any, count: int, default: int) -> list[int]:
    """A setting of ``count`` sides; one number stands for all. Raises ``ValueError`` for another count."""
    numbers = _numbers(tensors, value) or [float(default)]
    if len(numbers) not in (1, count) or any(number != int(number) for number in numbers):
        raise ValueError(f"a setting has the values {numbers}")
    return [int(number) for number in (numbers * count if len(numbers) == 1 else numbers)]


def _pixels(
    tensors: Mapping[str, Tensor], normalization: Mapping[str, Any], size: int | None
) -> tuple[Tensor | None, Preprocessing | None]:
    """The mean image ``(H, W, 3)`` and the preprocessing that the file states."""
    average = normalization.get("averageImage")
    key = average.get("array") if isinstance(average, dict) else None
    if size is None or not isinstance(key, str) or key not in tensors:
        return None, None
    mean = tensors[key].to(torch.float32)
    border = _numbers(tensors, normalization.get("border")) or [
        29.0 if size == 227 else 0.0
    ]  # vl_simplenn_tidy: 256 − 227
    stored = size + int(border[0])
    keeps_aspect = normalization.get("keepAspect")
    resize: Any = "warp" if keeps_aspect is not None and not _scalar(tensors, keeps_aspect, 1.0) else "short-side"
    if not size <= stored <= MAX_SIDE:
        raise ValueError(f"the border of the image is {border}")
    if mean.numel() == 3:
        colour = tuple(mean.flatten().tolist())
        return None, Preprocessing(3, stored, size, size, "channel", colour, (1.0, 1.0, 1.0), resize)
    if mean.ndim != 3 or mean.shape != (size, size, 3):
        raise ValueError(f"the average image has the shape {tuple(mean.shape)}")
    return mean.contiguous(), Preprocessing(3, stored, size, size, "mean-image-centre", (), (), resize)


def _classes(classes: Any) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """``classes.name`` (WordNet ids) and ``classes.description`` (words)."""
    if not isinstance(classes, dict):
        return None, None
    names, words = (_texts(classes.get(key)) for key in ("name", "description"))
    if names is None or len(set(names)) != len(names):
        return None, None
    return names, words if words is not None and len(words) == len(names) and len(set(words)) == len(words) else None


def _texts(values: Any) -> tuple[str, ...] | None:
    found: Sequence[Any] = values if isinstance(values, list) else ()
    texts = tuple(printable(value) for value in found if isinstance(value, str) and value)
    return texts if texts and len(texts) == len(found) else None
