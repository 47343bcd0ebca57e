"""Weights in the files of Keras: ``.keras`` and ``.weights.h5`` of Keras 3, ``.h5`` of Keras 2 and 3.

A ``.keras`` file is a zip of ``config.json``, which describes the network, and ``model.weights.h5``. The groups in the
second are the classes of layers with a number (``conv2d``, ``conv2d_1``, …) in the order of the description. A bare
``.weights.h5`` has only these numbers. A legacy ``.h5`` file has the layers' names in their order (``layer_names``),
and a description if the whole model was saved. Kernels are H, W, in, out; dense layers in, out; after ``Flatten`` of
channels-last maps, fc6's inputs are in the order row, column, channel.

HDF5 is read in a child process (``hdf5_child.py``). No code in a file is run: a layer that holds code is refused.
Sources: Keras 3.15, ``saving/saving_lib.py`` and ``legacy/saving/legacy_h5_format.py``.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from alexnet.config import MAX_SIDE, Preprocessing
from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.models.layers import Padding, padding_amounts, window_count
from alexnet.weights.child import call, damage_is, errors_name
from alexnet.weights.foreign import FlattenOrder, ForeignLayer, ForeignOp, ForeignWeights, OpKind, one_setting_each
from alexnet.weights.formats import ReadOptions

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")
USER_BLOCKS = tuple(512 << power for power in range(8))  # where the signature may stand, to 64 KiB
MEMBERS = (b"metadata.json", b"config.json", b"model.weights.h5")
FORMS = {"keras": "Keras .keras", "weights": "Keras .weights.h5", "legacy": "Keras .h5"}
CONTAINERS = ("Sequential", "Functional", "Model")
WITHOUT_EFFECT = re.compile(
    r"Random\w+|(Spatial|Alpha|Gaussian)Dropout\w*|GaussianNoise|ActivityRegularization|Identity"
)
"""Layers that act in training only."""
CODE = ("Lambda", "TFOpLambda", "SlicingOpLambda")
ACTIVATIONS = ("relu", "tanh", "sigmoid")
STEPS_CONV, STEPS_DENSE = ("HWIO to OIHW",), ("transposed",)
MAX_LAYERS, MAX_DEPTH = 1000, 8


def recognises(head: bytes, path: Path) -> bool:
    """The signature of HDF5, or a zip whose first member is one of a ``.keras`` file."""
    if head[:8] == HDF5 or (path.suffix in HDF5_SUFFIXES and _has_user_block(path)):
        return True
    length = int.from_bytes(head[26:28], "little")
    return head[:4] == b"PK\x03\x04" and (head[30 : 30 + length] in MEMBERS or path.suffix == ".keras")


def _has_user_block(path: Path) -> bool:
    """Whether an HDF5 file begins behind a block of the user's: at 512 bytes, or twice, four times, … as many."""
    with open_regular(path) as file:
        for place in USER_BLOCKS:
            file.seek(place)
            if file.read(len(HDF5)) == HDF5:
                return True
    return False


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers of a Keras file, and the operations if it describes the network.

    Raises ``UserError``: for a damaged file, for a network that is no chain of known layers, and if h5py is absent.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UserError(f"{printable(str(path))} is an HDF5 file: to read it, run pip install 'alexnet[h5]'")
    tensors, found = call("alexnet.weights.hdf5_child:read_keras", path)
    with errors_name(path):
        return interpret(tensors, found)


@damage_is("the file is damaged: its description is not Keras's")
def interpret(tensors: Mapping[str, Tensor], found: Mapping[str, Any]) -> ForeignWeights:
    """The layers and operations from what ``hdf5_child.read_keras`` gives. Raises ``UserError``."""
    for group in found["groups"]:
        if len(set(group["variables"])) != len(group["variables"]):
            _refuse_nested(group["path"])
    stored = {
        group["path"]: {
            name: tensors[key] for name in group["variables"] if (key := f"{group['path']}|{name}") in tensors
        }
        for group in found["groups"]
    }
    form: str = found["form"]
    if not found["config"]:
        return _without_description(stored, {group["path"]: group["name"] for group in found["groups"]}, form)
    config = json.loads(found["config"])
    chain = _Chain(stored, legacy=form == "legacy")
    for node in _nodes(config, "", legacy=form == "legacy", depth=0):
        chain.add(node)
    return chain.result(FORMS[form])


@dataclass(frozen=True)
class _Node:
    """A layer of the description: its class, its name, where its weights are, and its settings."""

    kind: str
    name: str
    path: str
    config: Mapping[str, Any]


def _nodes(model: Mapping[str, Any], path: str, *, legacy: bool, depth: int) -> Iterator[_Node]:
    """The layers of a model in forward order, and those of models in it. ``path``: the group of the model's layers."""
    if depth > MAX_DEPTH:
        raise UserError("the description of the network is nested too deeply")
    kind, inside = model["class_name"], model["config"]
    layers: Sequence[Mapping[str, Any]] = inside if isinstance(inside, list) else inside.get("layers", ())
    if kind not in CONTAINERS or not layers:
        raise UserError(
            f"the network is a {printable(str(kind))}, which describes no layers: use a Sequential or Functional model"
        )
    if len(layers) > MAX_LAYERS:
        raise UserError(f"the network has {len(layers)} layers, an AlexNet has about 20")
    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    for place, layer in enumerate(layers):
        snake = _snake(str(layer["class_name"]))
        number = counts[snake] = counts.get(snake, -1) + 1
        places[_name_of(layer, place)] = f"{path}{snake}_{number}" if number else f"{path}{snake}"
    order = _forward_order(layers) if kind != "Sequential" else list(layers)
    for place, layer in enumerate(order):
        name = _name_of(layer, place)
        if layer["class_name"] in CONTAINERS:
            if legacy:
                _refuse_nested(name)
            yield from _nodes(layer, f"{places[name]}/", legacy=legacy, depth=depth + 1)
        else:
            yield _Node(str(layer["class_name"]), name, name if legacy else places[name], layer["config"])


def _refuse_nested(name: str) -> NoReturn:
    raise UserError(
        f"{printable(name)!r} is a model in the model, which cannot be read from a .h5 file: save the network as .keras"
    )


def _name_of(layer: Mapping[str, Any], place: int) -> str:
    return str(layer.get("name") or layer["config"].get("name") or place)


def _snake(name: str) -> str:
    """Keras's name of a group of layers of one class (``keras/src/utils/naming.py``)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _forward_order(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layers of a Functional model along their inputs. Raises ``UserError`` if that is no single chain."""
    by_name = {_name_of(layer, place): layer for place, layer in enumerate(layers)}
    following: dict[str, str] = {}
    starts = []
    for name, layer in by_name.items():
        inputs = set(_inputs(layer.get("inbound_nodes", []), set(by_name), 0))
        if len(inputs) > 1 or any(each in following for each in inputs):
            raise UserError(
                f"layer {printable(name)!r} is part of a branch: only networks that are one chain of layers can be read"
            )
        if inputs:
            following[inputs.pop()] = name
        else:
            starts.append(name)
    if len(starts) != 1 or len(by_name) != len(layers):
        raise UserError(f"the network has {len(starts)} inputs: only networks that are one chain of layers can be read")
    order, name = [by_name[starts[0]]], starts[0]
    while (name := following.pop(name, "")) != "":
        order.append(by_name[name])
    if len(order) != len(layers):
        left = next(name for name in by_name if name in following)
        raise UserError(
            f"layer {printable(left)!r} is not connected to the input: only networks that are one chain of layers can "
            f"be read"
        )
    return order


def _inputs(value: Any, names: set[str], depth: int) -> Iterator[str]:
    """The names of layers in the description of a layer's inputs, in the form of Keras 2 or 3."""
    if depth > 10:
        return
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        for item in value.values():
            yield from _inputs(item, names, depth + 1)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and value[0] in names and isinstance(value[1], int):
            yield value[0]  # Keras 2: [name, node, tensor, arguments]
        for item in value:
            yield from _inputs(item, names, depth + 1)


def _refuse(node: _Node, why: str) -> NoReturn:
    raise UserError(f"layer {printable(node.name)!r} ({printable(node.kind)}) {why}")


@dataclass
class _Chain:
    """The network as far as it was read. ``size``: the side of the maps in pixels, None if it is not known."""

    stored: Mapping[str, Mapping[str, Tensor]]
    legacy: bool
    layers: list[ForeignLayer] = field(default_factory=list)
    ops: list[ForeignOp] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flatten: FlattenOrder = "HWC"
    size: int | None = None
    image_size: int | None = None
    pads: tuple[int, int] | None = None  # from a ZeroPadding2D before the next layer
    scale: list[float] = field(default_factory=lambda: [1.0])
    offset: list[float] = field(default_factory=lambda: [0.0])
    states_pixels: bool = False
    resize: str | None = None
    channels_first: bool | None = None  # None: no layer has said it yet
    ceilings: list[bool | None] = field(default_factory=list)  # of each pool; None: both roundings give the same size

    def add(self, node: _Node) -> None:
        """Read one layer. Raises ``UserError`` for one that no AlexNet of this program has."""
        handlers: dict[str, Callable[[_Node], None]] = {
            "InputLayer": self._input, "Rescaling": self._rescaling, "Normalization": self._normalization,
            "Resizing": self._resizing, "ZeroPadding2D": self._zero_padding, "Conv2D": self._conv,
            "Convolution2D": self._conv, "MaxPooling2D": self._pool, "MaxPool2D": self._pool,
            "BatchNormalization": self._batch_norm, "BatchNormalizationV1": self._batch_norm, "Dense": self._dense,
            "Activation": self._activation, "ReLU": self._relu, "Softmax": self._softmax, "Dropout": self._dropout,
            "Flatten": self._flatten,
        }  # fmt: skip
        if node.kind in CODE:
            _refuse(node, "holds Python code, which is not read: use a standard layer, or write the weights as .npy")
        if self.image_size is None and (shape := node.config.get("batch_input_shape")):  # Keras 2: on the first layer
            self._input(_Node("InputLayer", node.name, "", {"batch_shape": shape}))
        if node.kind in handlers:
            self._data_format(node)
            if self.pads is not None and node.kind not in ("Conv2D", "Convolution2D", "MaxPooling2D", "MaxPool2D"):
                _refuse(node, "follows a ZeroPadding2D: only a convolution or a pool may")
            handlers[node.kind](node)
        elif WITHOUT_EFFECT.fullmatch(node.kind):
            self.notes.append(f"layer {printable(node.name)!r} ({node.kind}) acts in training only and is left out")
        else:
            _refuse(node, "is in no AlexNet of this program")

    def result(self, name: str) -> ForeignWeights:
        """The whole network."""
        return ForeignWeights(
            name, "keras", tuple(self.layers), one_setting_each(self.ops, self.ceilings), self.flatten,
            preprocessing=self._preprocessing(), image_size=self.image_size, notes=tuple(self.notes),
        )  # fmt: skip

    def _op(self, kind: OpKind, layer: str = "", /, **settings: Any) -> None:
        self.ops.append(ForeignOp(kind, layer, settings))

    def _input(self, node: _Node) -> None:
        shape = node.config.get("batch_shape") or node.config.get("batch_input_shape")
        if not isinstance(shape, list) or len(shape) != 4 or self.layers:
            return
        sides = [side for side in (shape[2:] if shape[1] in (1, 3) else shape[1:3]) if isinstance(side, int)]
        if len(sides) == 2:
            if sides[0] != sides[1] or not 0 < sides[0] <= MAX_SIDE:
                _refuse(node, f"takes images of {sides[0]} × {sides[1]} pixels: they must be square")
            self.size = self.image_size = sides[0]

    def _rescaling(self, node: _Node) -> None:
        self._pixels(node, _numbers(node.config["scale"]), _numbers(node.config.get("offset", 0.0)))

    def _normalization(self, node: _Node) -> None:
        stored = self._variables(node)
        mean, variance = (
            _numbers(node.config[name]) if node.config.get(name) is not None else stored[place].flatten().tolist()
            for place, name in enumerate(("mean", "variance"))
        )
        if node.config.get("invert"):
            _refuse(node, "is inverted, which is not supported")
        std = [max(math.sqrt(value), 1e-7) for value in variance]  # keras.backend.epsilon()
        self._pixels(node, [1 / value for value in std], [-m / s for m, s in zip(*_same(mean, std), strict=True)])

    def _pixels(self, node: _Node, scale: Sequence[float], offset: Sequence[float]) -> None:
        """Pixels become scale · x + offset, after what earlier layers make of them."""
        if self.layers:
            _refuse(node, "changes pixels behind a convolution, which is not supported")
        scale, offset, before, moved = _same(scale, offset, self.scale, self.offset)
        self.scale = [a * b for a, b in zip(scale, before, strict=True)]
        self.offset = [a * b + c for a, b, c in zip(scale, moved, offset, strict=True)]
        self.states_pixels = True

    def _resizing(self, node: _Node) -> None:
        height, width = int(node.config["height"]), int(node.config["width"])
        if self.layers or height != width or not 0 < height <= MAX_SIDE:
            _refuse(node, "is only supported before the first convolution, to square images")
        self.size = self.image_size = height
        self.resize = "short-side" if node.config.get("crop_to_aspect_ratio") else "warp"

    def _zero_padding(self, node: _Node) -> None:
        (top, bottom), (left, right) = _pairs(node.config["padding"])
        if (top, bottom) != (left, right) or min(top, bottom) < 0:
            _refuse(node, "adds other zeros to rows than to columns, which is not supported")
        before = self.pads or (0, 0)
        self.pads = (top + before[0], bottom + before[1])

    def _conv(self, node: _Node) -> None:
        config = node.config
        kernel, stride = _square(node, "kernel_size"), _square(node, "strides")
        if _square(node, "dilation_rate", 1) != 1:
            _refuse(node, "is dilated, which is not supported")
        self._parameters(node, "conv", STEPS_CONV)
        padding = self._conv_padding(node, kernel, stride)
        self._op("conv", node.name, stride=stride, padding=padding, groups=int(config.get("groups", 1)))
        if self.size is not None:
            total = sum(padding_amounts(self.size, kernel, stride, padding))
            self.size = window_count(self.size + total, kernel, stride)
        self._named_activation(node)

    def _conv_padding(self, node: _Node, kernel: int, stride: int) -> Padding:
        """The padding of a convolution, with the zeros of a ``ZeroPadding2D`` before it."""
        pads, self.pads = self.pads, None
        same = _same_padding(node)
        if pads is None or pads == (0, 0):
            return "same" if same else 0
        if same:
            _refuse(node, 'has padding "same" behind a ZeroPadding2D, which is not supported')
        if pads[0] == pads[1]:
            return pads[0]
        rules: tuple[Padding, ...] = ("ceil", "same")
        for rule in rules:
            if self.size is not None and padding_amounts(self.size, kernel, stride, rule) == pads:
                return rule
        _refuse(node, f"has {pads[0]} zeros before and {pads[1]} behind an axis, which is not supported")

    def _pool(self, node: _Node) -> None:
        kernel = _square(node, "pool_size")
        stride = _square(node, "strides", kernel) if node.config.get("strides") else kernel
        pads, self.pads = self.pads or (0, 0), None
        if _same_padding(node):
            if pads != (0, 0) or self.size is None:
                _refuse(node, 'has padding "same" behind zeros, or in a network without an image size')
            pads = padding_amounts(self.size, kernel, stride, "same")
        elif pads != (0, 0) and not (self.ops and self.ops[-1].settings.get("kind") == "relu"):
            _refuse(node, "follows a ZeroPadding2D that follows no ReLU: the zeros would change the largest values")
        self._op("pool", kernel=kernel, stride=stride)
        if self.size is None:
            if pads != (0, 0):
                _refuse(node, "is padded in a network without an image size, which is not supported")
            self.ceilings.append(False)
            return
        down, up = (window_count(self.size, kernel, stride, ceil=ceil) for ceil in (False, True))
        count = window_count(self.size + sum(pads), kernel, stride)
        if pads[0] or count not in (down, up):
            _refuse(node, f"is padded by {pads[0]} and {pads[1]} pixels: this is not the same as rounding up")
        self.ceilings.append(None if down == up else count == up)
        self.size = count

    def _batch_norm(self, node: _Node) -> None:
        axis = node.config.get("axis", -1)
        if (axis[0] if isinstance(axis, list) else axis) not in ((1,) if self.channels_first else (-1, 3)):
            _refuse(node, f"normalizes axis {axis}, which is not that of the channels")
        if not any(op.kind == "conv" for op in self.ops) or any(op.kind == "linear" for op in self.ops):
            _refuse(node, "follows no convolution: batch normalization is only supported behind convolutions")
        self._parameters(node, "batch-norm", ())
        self._op("batch-norm", node.name, eps=float(node.config.get("epsilon", 1e-3)))

    def _dense(self, node: _Node) -> None:
        if not any(op.kind == "flatten" for op in self.ops):
            _refuse(node, "is applied to feature maps: there is no Flatten before it")
        self._parameters(node, "linear", STEPS_DENSE)
        self._op("linear", node.name)
        self._named_activation(node)

    def _named_activation(self, node: _Node) -> None:
        """The ``activation`` of a layer: a name, or the description of a function or of a layer."""
        activation = node.config.get("activation")
        if isinstance(activation, Mapping):
            inner = activation.get("config")
            activation = inner if isinstance(inner, str) else activation.get("class_name")
        if activation == "softmax":
            self._op("softmax")
        elif activation in ACTIVATIONS or activation in ("ReLU",):
            self._op("activation", kind=str(activation).lower())
        elif activation not in (None, "linear"):
            _refuse(node, f"has the activation {printable(str(activation))!r}: no AlexNet of this program has it")

    def _activation(self, node: _Node) -> None:
        self._named_activation(node)

    def _relu(self, node: _Node) -> None:
        if (
            node.config.get("max_value") is not None
            or node.config.get("negative_slope")
            or node.config.get("threshold")
        ):
            _refuse(node, "is no plain ReLU")
        self._op("activation", kind="relu")

    def _softmax(self, node: _Node) -> None:
        self._op("softmax")

    def _dropout(self, node: _Node) -> None:
        self._op("dropout", p=float(node.config["rate"]))

    def _flatten(self, node: _Node) -> None:
        """The order of fc6's inputs: "channels_first" moves the channels to the end before it flattens."""
        moves_channels = node.config.get("data_format") == "channels_first"
        if moves_channels and not self.channels_first:
            _refuse(node, "has another data_format than the layers before it, which is not supported")
        if not any(op.kind == "flatten" for op in self.ops):
            self.flatten = "CHW" if self.channels_first and not moves_channels else "HWC"
        self._op("flatten")

    def _data_format(self, node: _Node) -> None:
        """Check that all layers agree on the axis of the channels."""
        data_format = node.config.get("data_format")
        if data_format not in (None, "channels_first", "channels_last"):
            _refuse(node, f"has the data_format {printable(str(data_format))!r}, which is not Keras's")
        if node.kind == "Flatten" or data_format is None:
            return
        first = data_format == "channels_first"
        if self.channels_first not in (None, first):
            _refuse(node, "has another data_format than the layers before it, which is not supported")
        self.channels_first = first

    def _variables(self, node: _Node) -> list[Tensor]:
        return list(self.stored.get(node.path, {}).values())

    def _parameters(self, node: _Node, kind: str, steps: tuple[str, ...]) -> None:
        names = {
            "batch-norm": [
                *(["gamma"] if node.config.get("scale", True) else []),
                *(["beta"] if node.config.get("center", True) else []),
                *("moving_mean", "moving_variance"),
            ]
        }.get(kind, ["kernel", *(["bias"] if node.config.get("use_bias", True) else [])])
        stored = self.stored.get(node.path, {})
        values = stored if self.legacy else dict(zip(names, stored.values(), strict=False))
        if missing := [name for name in names if name not in values]:
            _refuse(node, f"has no {missing[0]} in the file")
        if not self.legacy and len(stored) != len(names):
            _refuse(
                node,
                f"has {len(stored)} arrays in the file instead of {len(names)}: a quantized model is not supported",
            )
        self.layers.append(_layer(node.name, kind, values))

    def _preprocessing(self) -> Preprocessing | None:
        """The preprocessing, if a layer of the network changes pixels: (x − mean) / std with x from 0 to 255."""
        if not self.states_pixels or self.image_size is None or not self.layers:
            return None
        if not all(self.scale):
            raise UserError("the scale of the pixels in the description is 0")
        channels = self.layers[0].weight.shape[1]
        if channels not in (1, 3) or len(self.scale) not in (1, channels):
            return None
        self.notes.append("preprocessing: the file states how pixels are scaled, but not how images are resized")
        scale, offset = ([values[0]] * channels if len(values) == 1 else values for values in (self.scale, self.offset))
        size = self.image_size
        mean, std = (
            tuple(values) for values in ([-b / a for a, b in zip(scale, offset, strict=True)], [1 / a for a in scale])
        )
        plain = all(abs(m) < 1e-9 and abs(s - 255) < 1e-4 for m, s in zip(mean, std, strict=True))
        return Preprocessing(
            3 if channels == 3 else 1, size, size, size, "unit" if plain else "channel",
            (0.0,) * channels if plain else mean, (255.0,) * channels if plain else std,
            "short-side" if self.resize in (None, "short-side") else "warp",
        )  # fmt: skip


def _without_description(
    stored: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, str], form: str
) -> ForeignWeights:
    """The layers of a file that does not describe its network, by their kind; numbers in names are their order."""
    paths = [path for path, values in stored.items() if values]
    if form != "legacy":
        paths.sort(key=_numbered)
    layers = []
    for path in paths:
        values = dict(stored[path])
        kind = _kind(values)
        if form != "legacy":
            known = {"batch-norm": ("gamma", "beta", "moving_mean", "moving_variance")}.get(kind, ("kernel", "bias"))
            values = dict(zip(known, values.values(), strict=False))
        layers.append(_layer(names[path] or path, kind, values))
    notes = (
        "the file does not describe its network: strides, padding and the order of operations are those of the variant",
        "the inputs of fc6 are taken to be in the order row, column, channel, Keras's default",
    )
    return ForeignWeights(FORMS[form], "keras", tuple(layers), flatten="HWC", notes=notes)


def _numbered(name: str) -> list[tuple[str, int]]:
    """A key that sorts ``conv2d_2`` before ``conv2d_10``, and ``conv2d`` first."""
    found = [re.fullmatch(r"(.*?)(?:_([0-9]{1,9}))?", part, re.DOTALL) for part in name.split("/")]
    return [(match[1], int(match[2] or 0)) for match in found if match]


def _kind(values: Mapping[str, Tensor]) -> str:
    """The kind of a layer from its arrays."""
    first = next(iter(values.values()))
    if first.ndim == 1 and len(values) in (2, 3, 4):
        return "batch-norm"
    return {4: "conv", 2: "linear"}.get(first.ndim, "unknown")


def _layer(name: str, kind: str, values: Mapping[str, Tensor]) -> ForeignLayer:
    """A layer with PyTorch's layouts. ``values``: its arrays by Keras's names."""
    wanted = {"conv": ("kernel", 4), "linear": ("kernel", 2), "batch-norm": ("moving_variance", 1)}
    shown = printable(name)
    if kind not in wanted or wanted[kind][0] not in values:
        raise UserError(f"layer {shown!r} is in no AlexNet: it has {', '.join(map(printable, values))}")
    if strange := [key for key, value in values.items() if not value.is_floating_point()]:
        raise UserError(
            f"layer {shown!r}: {printable(strange[0])} holds no floating-point numbers; quantized models cannot be read"
        )
    main, axes = values[wanted[kind][0]], wanted[kind][1]
    if main.ndim != axes:
        raise UserError(f"layer {shown!r}: its array has the shape {tuple(main.shape)}, expected {axes} axes")
    if kind == "batch-norm":
        mean, gamma, beta = (values.get(key) for key in ("moving_mean", "gamma", "beta"))
        if mean is None:
            raise UserError(f"layer {shown!r} has no moving_mean")
        weight = torch.ones_like(main) if gamma is None else gamma
        return ForeignLayer(
            name, "batch-norm", weight, torch.zeros_like(main) if beta is None else beta, mean, main, tuple(main.shape)
        )
    bias = values.get("bias")
    if kind == "conv":
        return ForeignLayer(
            name, "conv", main.permute(3, 2, 0, 1), bias, original_shape=tuple(main.shape), steps=STEPS_CONV
        )
    return ForeignLayer(name, "linear", main.T, bias, original_shape=tuple(main.shape), steps=STEPS_DENSE)


def _square(node: _Node, name: str, default: int | None = None) -> int:
    """A setting that is one number, or the same number twice."""
    value = node.config.get(name, default)
    values = value if isinstance(value, list) else [value, value]
    if len(values) != 2 or values[0] != values[1] or not isinstance(values[0], int) or not 0 < values[0] <= MAX_SIDE:
        _refuse(node, f"has {name} = {printable(str(value))}: it must be one whole number")
    return int(values[0])


def _same_padding(node: _Node) -> bool:
    padding = node.config.get("padding", "valid")
    if padding not in ("same", "valid"):
        _refuse(node, f"has padding {printable(str(padding))!r}, which is not supported")
    return bool(padding == "same")


def _pairs(value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """A ``ZeroPadding2D``'s padding: n, [rows, columns], or [[top, bottom], [left, right]]."""
    rows, columns = value if isinstance(value, list) else (value, value)
    (top, bottom), (left, right) = (pair if isinstance(pair, list) else (pair, pair) for pair in (rows, columns))
    if not all(isinstance(each, int) and each <= MAX_SIDE for each in (top, bottom, left, right)):
        raise ValueError("the padding is no whole number")
    return (top, bottom), (left, right)


def _numbers(value: Any) -> list[float]:
    """A number or a nested list of numbers, flat. Raises ``UserError`` for more than four."""
    values = list(_flat(value, 0))
    if not 0 < len(values) <= 4:
        raise UserError(f"a scale of pixels has {len(values)} values: there must be one for each channel")
    return values


def _flat(value: Any, depth: int) -> Iterable[float]:
    if isinstance(value, Mapping):  # a serialized array
        value = value["config"]["value"]
    if isinstance(value, list) and depth < 8:
        for item in value:
            yield from _flat(item, depth + 1)
    else:
        yield float(value)


def _same(*lists: Sequence[float]) -> list[list[float]]:
    """The lists with one length: a single number stands for all channels."""
    longest = max(map(len, lists))
    return [list(values) * longest if len(values) == 1 else list(values) for values in lists]
