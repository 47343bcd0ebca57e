"""Weights in an ONNX file: initializers and the nodes that use them.

Two kinds of files are read. Files that ``alexnet export --to onnx`` wrote state their variant with every setting, the
preprocessing and the classes in ``metadata_props``; only the weights are taken from the graph, where local response
normalization consists of many nodes. In other files (those of the ONNX model zoo, exports of PyTorch, of Keras) the
graph is followed from the image to the logits, and settings are those of its nodes. Files with int8 weights are
refused.

A file is never run: it is read as a protocol buffer (:mod:`alexnet.weights.protobuf`), and weights are copied once the
shape that it states agrees with the bytes that are there. Sources: onnx.proto of ONNX 1.23; onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.models.layers import Padding, padding_amounts, window_count
from alexnet.weights import protobuf
from alexnet.weights.foreign import ForeignLayer, ForeignOp, ForeignWeights, Framework
from alexnet.weights.formats import ReadOptions
from alexnet.weights.metadata import Description, parse
from alexnet.weights.protobuf import as_bytes, as_int, signed
from alexnet.weights.torchvision import LAYERS

SUFFIX = ".onnx"
MAX_NODES = 10_000  # and initializers: AlexNets have less than a hundred
MAX_RANK = 8
LARGE = 1 << 20  # bytes
DTYPES: Mapping[int, str] = {1: "<f4", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
"""Types of numbers that are read: float, int32, int64, float16, double."""
LISTS: Mapping[int, tuple[int, str]] = {1: (4, "<f4"), 11: (10, "<f8")}
"""Type → the field with its numbers as a packed list, where they are not raw bytes."""
INT8_OPS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QGemm",
}  # fmt: skip
ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
UNCHANGED = {"Identity", "Dropout"}  # in evaluation
FLATTEN = {"Flatten", "Reshape", "Squeeze"}
ENDS = {"Softmax", "LogSoftmax"}
KNOWN_OPS = {
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "BatchNormalization",
    "LRN",
    "MaxPool",
    "Pad",
    *ACTIVATIONS,
    *UNCHANGED,
    *FLATTEN,
    *ENDS,
}
CAFFE2_INPUT = "data_0"
IGNORED_DOMAINS = ("", "ai.onnx")


@dataclass
class Node:
    """A node of the graph. ``attributes``: name → the fields of an AttributeProto by number."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


@dataclass
class TensorEntry:
    """An initializer whose numbers were not read yet. ``external``: the entries of ``external_data``."""

    dims: tuple[int, ...] = ()
    data_type: int = 0
    data: list[tuple[int, int, memoryview | int]] = field(default_factory=list)
    external: dict[str, str] | None = None

    @property
    def count(self) -> int:
        """How many numbers the shape states."""
        return math.prod(self.dims)


@dataclass
class Graph:
    """What a file holds, in the order of the file."""

    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, TensorEntry] = field(default_factory=dict)
    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    producer: str = ""


def recognises(head: bytes, path: Path) -> bool:
    """``ir_version`` as the first field, as all writers have it, or the suffix."""
    if path.suffix.lower() == SUFFIX:
        return True
    return (
        len(head) > 3
        and head[0] == 0x08
        and 0 < head[1] < 0x20
        and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    )


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers of the file. Raises ``UserError`` for a damaged file, for int8 weights and for another network."""
    name = printable(str(path))
    try:
        data, forget = _bytes_of(path)
        graph = parse_graph(data)
        return _weights(graph, _Tensors(graph, path, name, forget), name)
    except OSError as error:
        raise cannot_read(path, error) from error
    except UserError:
        raise
    except (ValueError, LookupError, OverflowError, MemoryError) as error:
        raise UserError(f"{name} is no complete ONNX file: use another copy", [printable(str(error))]) from error


def _bytes_of(path: Path) -> tuple[memoryview, Callable[[], None]]:
    """The bytes of a file, and a function that gives the memory of those that were read back to the system.

    A large file is mapped: beside its tensors, at most the largest of them is in memory.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < LARGE:
            return memoryview(file.read(LARGE)), lambda: None
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)  # closed with its last view
        return memoryview(mapped), lambda: mapped.madvise(mmap.MADV_DONTNEED)


def parse_graph(data: memoryview) -> Graph:
    """The graph of a ModelProto, without the numbers of its initializers. Raises ``ValueError``."""
    graph, found = Graph(), False
    for number, _, value in protobuf.fields(data):
        if number == 2:
            graph.producer = protobuf.text(value)
        elif number == 7:
            if found:
                raise ValueError("the file holds two graphs")
            found = True
            _parse_graph(as_bytes(value), graph)
        elif number == 14:
            key, text = _pair(as_bytes(value))
            graph.metadata[key] = text
    if not found:
        raise ValueError("the file holds no graph")
    return graph


def _parse_graph(data: memoryview, graph: Graph) -> None:
    for number, _, value in protobuf.fields(data, 4 * MAX_NODES):
        if number == 1:
            graph.nodes.append(_node(as_bytes(value)))
        elif number == 5:
            name, entry = _tensor(as_bytes(value))
            if name in graph.initializers:
                raise ValueError(f"two initializers are called {name!r}")
            graph.initializers[name] = entry
        elif number == 11:
            name, shape = _value_info(as_bytes(value))
            graph.inputs[name] = shape
        elif number == 12:
            graph.outputs.append(_value_info(as_bytes(value))[0])
        if len(graph.nodes) > MAX_NODES or len(graph.initializers) > MAX_NODES:
            raise ValueError(f"the graph has more than {MAX_NODES:,} nodes or initializers")


def _pair(data: memoryview) -> tuple[str, str]:
    found = {number: protobuf.text(value) for number, _, value in protobuf.fields(data) if number in (1, 2)}
    return found.get(1, ""), found.get(2, "")


def _node(data: memoryview) -> Node:
    node = Node("", [], [], {})
    domain = ""
    for number, _, value in protobuf.fields(data, 1000):
        if number == 1:
            node.inputs.append(protobuf.text(value))
        elif number == 2:
            node.outputs.append(protobuf.text(value))
        elif number == 4:
            node.op = protobuf.text(value)
        elif number == 5:
            name, setting = _attribute(as_bytes(value))
            node.attributes[name] = setting
        elif number == 7:
            domain = protobuf.text(value)
    if domain not in IGNORED_DOMAINS:
        node.op = f"{domain}.{node.op}"
    return node


def _attribute(data: memoryview) -> tuple[str, Any]:
    """The name and the value: a float, an int, a text, an initializer, or a list of ints."""
    name = ""
    value: Any = None
    ints: list[int] = []
    for number, wire_type, item in protobuf.fields(data, 1000):
        if number == 1:
            name = protobuf.text(item)
        elif number == 2:
            value = protobuf.as_float(item)
        elif number == 3:
            value = signed(as_int(item))
        elif number == 4:
            value = str(as_bytes(item)[:100], "utf-8", "replace")
        elif number == 5:
            value = _tensor(as_bytes(item))[1]
        elif number == 8:
            ints += _ints(wire_type, item)
            value = ints
    return name, value


def _ints(wire_type: int, value: memoryview | int) -> list[int]:
    """An item of a repeated int64, packed or not."""
    return (
        [signed(as_int(value))]
        if wire_type == protobuf.VARINT
        else list(map(signed, protobuf.varints(as_bytes(value), 1000)))
    )


def _tensor(data: memoryview) -> tuple[str, TensorEntry]:
    name, entry, dims = "", TensorEntry(), []
    for number, wire_type, value in protobuf.packed_fields(data):
        if number == 1:
            dims += _ints(wire_type, value)
        elif number == 2:
            entry.data_type = as_int(value)
        elif number in (4, 5, 9, 10):
            entry.data.append((number, wire_type, value))
        elif number == 8:
            name = protobuf.text(value)
        elif number == 13:
            key, text = _pair(as_bytes(value))
            entry.external = {**(entry.external or {}), key: text}
        elif number == 14 and as_int(value) == 1:
            entry.external = entry.external or {}
    if len(dims) > MAX_RANK or any(dim < 0 for dim in dims):
        raise ValueError(f"{name!r} has the shape {dims[:10]}")
    entry.dims = tuple(dims)
    return name, entry


def _value_info(data: memoryview) -> tuple[str, tuple[int | None, ...]]:
    """The name of an input and its shape, None for a length that is not fixed."""
    name, shape = "", []
    for number, _, value in protobuf.fields(data):
        if number == 1:
            name = protobuf.text(value)
        elif number == 2:
            for dims in _inside(_inside_one(_inside_one(as_bytes(value), 1), 2), 1):
                sizes = [as_int(item) for key, _, item in protobuf.fields(dims) if key == 1]
                shape.append(sizes[0] if sizes else None)
    return name, tuple(shape)


def _inside(data: memoryview, number: int) -> list[memoryview]:
    return [as_bytes(value) for key, _, value in protobuf.fields(data) if key == number]


def _inside_one(data: memoryview, number: int) -> memoryview:
    return next(iter(_inside(data, number)), memoryview(b""))


class _Tensors:
    """The numbers of initializers, copied when they are asked for."""

    def __init__(self, graph: Graph, path: Path, name: str, forget: Callable[[], None]) -> None:
        self.entries, self.path, self.name, self.forget = graph.initializers, path, name, forget
        self.external_bytes: dict[str, int] = {}  # file beside → bytes that were read of it

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def get(self, name: str) -> Tensor:
        """The numbers as fp32. Raises ``ValueError`` if shape, type and bytes do not agree."""
        if name not in self.entries:
            raise ValueError(f"{name!r} is no initializer")
        entry = self.entries[name]
        if entry.data_type not in DTYPES:
            raise ValueError(f"{name!r} has numbers of type {entry.data_type}, which is not read")
        values = self._external(name, entry) if entry.external is not None else self._inside(name, entry)
        if values.size != entry.count:
            raise ValueError(f"{name!r} has {values.size:,} numbers, and its shape is {entry.dims}")
        with np.errstate(over="ignore"):  # numbers that fp32 cannot hold become infinite, and are refused later
            tensor = torch.from_numpy(values.reshape(entry.dims).astype(np.float32))
        if values.nbytes > LARGE:
            self.forget()
        return tensor

    def _inside(self, name: str, entry: TensorEntry) -> np.ndarray:
        dtype, parts = np.dtype(DTYPES[entry.data_type]), []
        for number, wire_type, value in entry.data:
            if number == 9 or LISTS.get(entry.data_type, (0, ""))[0] == number:
                parts.append(_numbers(as_bytes(value), dtype))
            elif number == 5 and entry.data_type == 10:
                parts.append(_halves(wire_type, value, entry.count))
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return np.zeros(0, dtype)
        return np.concatenate(parts)

    def _external(self, name: str, entry: TensorEntry) -> np.ndarray:
        stated = entry.external or {}
        location, dtype = stated.get("location", ""), np.dtype(DTYPES[entry.data_type])
        if not location or location in (".", "..") or set(location) & set("/\\\0") or len(location) > 255:
            raise UserError(
                f"{self.name} keeps weights in the file {printable(location[:255])!r}: only a file in the same folder "
                "is read"
            )
        length = entry.count * dtype.itemsize
        offset = _whole(stated.get("offset", "0"))
        if "length" in stated and _whole(stated["length"]) != length:
            raise ValueError(f"{name!r} states {stated['length']} bytes, and its shape is {entry.dims}")
        beside = self.path.parent / location
        try:
            with open_regular(beside) as file:
                return self._read_beside(file, location, offset, length, dtype)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.name} keeps its weights in a second file, {printable(location)}, which is not beside it: "
                "copy both files into one folder"
            ) from error

    def _read_beside(self, file: BinaryIO, location: str, offset: int, length: int, dtype: np.dtype[Any]) -> np.ndarray:
        size = os.fstat(file.fileno()).st_size
        used = self.external_bytes.get(location, 0) + length
        if offset + length > size or used > size:
            raise ValueError(f"the file {location!r} has {size:,} bytes, and more are needed")
        self.external_bytes[location] = used
        file.seek(offset)
        data = file.read(length)
        if len(data) < length:
            raise ValueError(f"the file {location!r} has become shorter")
        return np.frombuffer(data, dtype)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:40]!r} is no number of bytes")
    return int(text)


def _numbers(data: memoryview, dtype: np.dtype[Any]) -> np.ndarray:
    if len(data) % dtype.itemsize:
        raise ValueError(f"{len(data):,} bytes are no whole numbers of {dtype.itemsize} bytes")
    return np.frombuffer(data, dtype)


def _halves(wire_type: int, value: memoryview | int, count: int) -> np.ndarray:
    """Numbers in fp16 whose bits are a list of integers, each in at most three bytes."""
    if wire_type == protobuf.VARINT:
        return np.array([as_int(value) & 0xFFFF], np.uint16).view(np.float16)
    data, found, start = np.frombuffer(as_bytes(value), np.uint8), np.empty(count, np.uint16), 0
    if count > len(data):
        raise ValueError(f"{len(data):,} bytes are too few for {count:,} numbers")
    filled = 0
    while start < len(data):
        part = data[start : start + LARGE]
        ends = np.flatnonzero(part < 0x80)
        firsts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        lengths = ends - firsts + 1
        if not len(ends) or lengths.max() > 3 or filled + len(ends) > count:
            raise ValueError("the list of numbers in fp16 is malformed")
        bits = np.zeros(len(ends), np.uint32)
        for place in range(3):
            has = lengths > place
            bits[has] |= (part[firsts[has] + place] & 0x7F).astype(np.uint32) << 7 * place
        if bits.max() > 0xFFFF:
            raise ValueError("a number in fp16 has more than 16 bits")
        found[filled : filled + len(ends)] = bits
        filled, start = filled + len(ends), start + int(ends[-1]) + 1
    return found[:filled].view(np.float16)


def _weights(graph: Graph, tensors: _Tensors, name: str) -> ForeignWeights:
    if quantized := next((node.op for node in graph.nodes if node.op in INT8_OPS), None):
        raise UserError(f"{name} holds int8 weights ({quantized}), which are not read: give the file in fp32")
    stated = parse(graph.metadata, name)
    if stated is not None:
        return _own(graph, tensors, stated)
    return _Walk(graph, tensors).weights(graph)


def _own(graph: Graph, tensors: _Tensors, stated: Description) -> ForeignWeights:
    """A file of this program: the layers in the order of the nodes, everything else as it is stated."""
    if stated.architecture is None:
        raise UserError(f"{stated.variant} is no AlexNet: its weights can only be read from a folder of this program")
    walk = _Walk(graph, tensors)
    with_weights = (node for node in graph.nodes if node.op != "MatMul")  # a MatMul resizes images or maps
    layers = [layer for node in with_weights if (layer := walk.layer(node)) is not None]
    return ForeignWeights(
        "ONNX", "alexnet", tuple(layers), variant=stated.variant, mean_image=stated.mean_image,
        preprocessing=stated.preprocessing, classes=stated.classes, labels=stated.labels, image_size=stated.image_size,
        architecture=stated.architecture, notes=("exported by this program",),
    )  # fmt: skip


class _Walk:
    """The way from the image to the logits through the nodes of a graph, which ONNX lists in order."""

    def __init__(self, graph: Graph, tensors: _Tensors) -> None:
        self.tensors, self.nodes = tensors, graph.nodes
        self.layers: list[ForeignLayer] = []
        self.ops: list[ForeignOp] = []
        self.notes: list[str] = []
        self.size: int | None = None
        self.pools: list[tuple[int, bool]] = []  # the size before each pool, and whether it rounds up
        self.pads: tuple[int, int, int, int] | None = None  # of a Pad node before a convolution
        self.transposed: dict[str, str] = {}  # output of a Transpose of an initializer → the initializer
        self.constants: set[str] = set()

    def weights(self, graph: Graph) -> ForeignWeights:
        """The layers and operations of the whole graph."""
        images = [name for name in graph.inputs if name not in graph.initializers]
        if len(images) != 1:
            raise UserError(f"this is not an AlexNet: the graph has {len(images)} inputs besides its weights")
        shape = graph.inputs[images[0]]
        if len(shape) == 4 and shape[2] is not None and shape[2] == shape[3]:
            self.size = shape[2]
        image_size = self.size
        current, ended = images[0], False
        for node in self.nodes:
            if current not in node.inputs:
                self._constant(node)
            elif node.op == "Shape":
                self.constants.update(node.outputs)
            elif ended or (node.inputs[0] != current and not self._is_bias(node, current)):
                raise UserError(f"this is not an AlexNet: its graph branches at the operation {printable(node.op)}")
            else:
                ended = self._step(node)
                current = node.outputs[0] if node.outputs else ""
        if current not in graph.outputs:
            raise UserError("this is not an AlexNet: the output of its graph is not that of its last layer")
        self._check_pools()
        _check_equal(self.ops)
        framework, variant = self._framework(images[0], graph.producer)
        caffe = framework == "caffe"
        if caffe:
            self.notes.append("names as in Caffe: images are assumed to be BGR, 0 to 255, minus a mean")
        elif framework == "onnx":
            self.notes.append("the file does not state the order of the colours: RGB is assumed")
        return ForeignWeights(
            "ONNX", framework, tuple(self.layers), tuple(self.ops), channel_order="BGR" if caffe else "RGB",
            variant=variant, image_size=image_size, notes=tuple(self.notes),
        )  # fmt: skip

    def _framework(self, image: str, producer: str) -> tuple[Framework, str | None]:
        names = [layer.name.removesuffix(".weight") for layer in self.layers]
        if names == [theirs for _, theirs, _ in LAYERS]:
            return "torchvision", "torchvision"
        if "caffe" in producer.lower() or image == CAFFE2_INPUT or image == "data":
            return "caffe", None
        return "onnx", None

    def _constant(self, node: Node) -> None:
        """A node that does not use the image: constants, weights that are transposed, shapes."""
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, TensorEntry) and len(node.outputs) == 1:
            if node.outputs[0] in self.tensors:
                raise ValueError(f"two constants are called {node.outputs[0]!r}")
            self.tensors.entries[node.outputs[0]] = value
        elif node.op == "Identity" and node.inputs and node.outputs and node.inputs[0] in self.tensors:
            self.tensors.entries.setdefault(node.outputs[0], self.tensors.entries[node.inputs[0]])
        elif self._is_transpose(node):
            self.transposed[node.outputs[0]] = node.inputs[0]
        self.constants.update(node.outputs)

    def _is_transpose(self, node: Node) -> bool:
        """Whether a node transposes a weight."""
        if node.op != "Transpose" or not node.inputs or not node.outputs or node.inputs[0] not in self.tensors:
            return False
        return bool(node.attributes.get("perm", [1, 0]) == [1, 0])

    def _is_bias(self, node: Node, current: str) -> bool:
        return node.op == "Add" and len(node.inputs) == 2 and node.inputs[1] == current

    def _step(self, node: Node) -> bool:
        """One operation on the image; True if it is the last."""
        layer = self.layer(node)
        if layer is not None:
            kind = layer.kind
            settings = self._conv(node, layer) if kind == "conv" else {}
            if kind == "batch-norm":
                settings = {"eps": _float(node, "epsilon", 1e-5)}
            self.layers.append(layer)
            self.ops.append(ForeignOp(kind, layer.name, settings))
        elif node.op in ACTIVATIONS:
            self.ops.append(ForeignOp("activation", settings={"kind": ACTIVATIONS[node.op]}))
        elif node.op == "LRN":
            settings = {
                "alpha": _float(node, "alpha", 1e-4),
                "beta": _float(node, "beta", 0.75),
                "k": _float(node, "bias", 1),
            }
            self.ops.append(
                ForeignOp("lrn", settings={**settings, "size": _int(node, "size", 0), "convention": "mean"})
            )
        elif node.op == "MaxPool":
            self._pool(node)
        elif node.op == "AveragePool":
            if self._windows(node) != (1, 1, (0, 0, 0, 0)):
                raise UserError("this is not an AlexNet: it has average pools")
        elif node.op == "Pad":
            self._pad(node)
        elif node.op in FLATTEN:
            self.ops.append(ForeignOp("flatten"))
        elif node.op == "Add":
            self._bias(node)
        elif node.op in UNCHANGED:
            if node.op == "Dropout":
                self._dropout(node)
        elif node.op in ENDS:
            self.ops.append(ForeignOp("softmax"))
            self.notes.append("the softmax at the end was left out")
            return True
        else:
            raise UserError(
                f"this graph cannot be read: it has the operation {printable(node.op[:100])}, and AlexNets are read if "
                f"they consist of {', '.join(sorted(KNOWN_OPS))}"
            )
        return False

    def _dropout(self, node: Node) -> None:
        settings: dict[str, Any] = {}
        ratio = self.tensors.entries.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if "ratio" in node.attributes:  # before opset 12
            settings = {"p": _float(node, "ratio", 0.5)}
        elif ratio is not None and ratio.count == 1:
            settings = {"p": float(self.tensors.get(node.inputs[1]))}
        self.ops.append(ForeignOp("dropout", settings=settings))

    def layer(self, node: Node) -> ForeignLayer | None:
        """The layer of a node with weights, else None."""
        if node.op not in ("Conv", "Gemm", "MatMul", "BatchNormalization") or len(node.inputs) < 2:
            return None
        name = node.inputs[1]
        if node.op == "MatMul" and name not in self.tensors and name not in self.transposed:
            return None
        if node.op == "BatchNormalization":
            if len(node.inputs) != 5:
                raise ValueError(f"a BatchNormalization has {len(node.inputs)} inputs")
            scale, shift, mean, var = (self.tensors.get(each) for each in node.inputs[1:])
            if any(part.shape != scale.shape or part.ndim != 1 for part in (scale, shift, mean, var)):
                raise ValueError(f"{name!r}: the tensors of a BatchNormalization have different shapes")
            return ForeignLayer(_short(name), "batch-norm", scale, shift, mean, var, tuple(scale.shape))
        bias = self.tensors.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        if node.op == "Conv":
            weight = self.tensors.get(name)
            if weight.ndim != 4:
                raise ValueError(f"{name!r} has the shape {tuple(weight.shape)}, expected four lengths")
            return ForeignLayer(_short(name), "conv", weight, bias, original_shape=tuple(weight.shape))
        return self._linear(node, name, bias)

    def _linear(self, node: Node, name: str, bias: Tensor | None) -> ForeignLayer:
        is_transposed = name in self.transposed
        weight = self.tensors.get(self.transposed.get(name, name))
        if weight.ndim != 2:
            raise ValueError(f"{name!r} has the shape {tuple(weight.shape)}, expected two lengths")
        if node.op == "Gemm":
            is_transposed ^= bool(_int(node, "transB", 0))
            weight = _scaled(weight, _float(node, "alpha", 1))
            bias = None if bias is None else _scaled(bias, _float(node, "beta", 1))
            if _int(node, "transA", 0):
                raise ValueError(f"{name!r}: a Gemm transposes the image")
        if bias is not None:
            bias = bias.reshape(-1)
        shape = tuple(weight.shape)
        steps = () if is_transposed else ("transposed",)
        weight = weight if is_transposed else weight.T
        name = _short(self.transposed.get(name, name))
        return ForeignLayer(name, "linear", weight, bias, original_shape=shape, steps=steps)

    def _bias(self, node: Node) -> None:
        """An Add after a MatMul: the bias of the linear layer."""
        last = self.layers[-1] if self.layers else None
        name = next((name for name in node.inputs if name in self.tensors), None)
        is_last = bool(self.ops) and last is not None and self.ops[-1].layer == last.name
        if last is None or name is None or not is_last or last.kind == "batch-norm" or last.bias is not None:
            raise UserError("this is not an AlexNet: its graph has the operation Add")
        bias = self.tensors.get(name).reshape(-1)
        self.layers[-1] = ForeignLayer(
            last.name, last.kind, last.weight, bias, original_shape=last.original_shape, steps=last.steps
        )

    def _conv(self, node: Node, layer: ForeignLayer) -> dict[str, Any]:
        """Stride, padding and groups of a convolution; the size of the maps after it is kept."""
        kernel, stride, pads = self._windows(node, tuple(layer.weight.shape[2:]))
        before, self.pads = self.pads, None
        if before is not None:
            top, left, bottom, right = (one + other for one, other in zip(pads, before, strict=True))
            pads = top, left, bottom, right
        padding: Padding | None = pads[0] if len(set(pads)) == 1 else None
        automatic = node.attributes.get("auto_pad", "NOTSET")
        if automatic == "SAME_UPPER" and before is None:
            padding = "same"
        elif automatic not in ("NOTSET", "VALID"):
            stated = printable(str(automatic))
            raise UserError(f"this is not an AlexNet: {printable(layer.name)} has the padding {stated}")
        if padding is None:
            padding = self._named_padding(kernel, stride, pads, layer.name)
        if self.size is not None:
            amounts = padding_amounts(self.size, kernel, stride, padding)
            self.size = window_count(self.size + sum(amounts), kernel, stride)
        return {"stride": stride, "padding": padding, "groups": _int(node, "group", 1)}

    def _named_padding(self, kernel: int, stride: int, pads: tuple[int, ...], name: str) -> Padding:
        top, left, bottom, right = pads
        if self.size is not None and (top, bottom) == (left, right):
            rules: tuple[Padding, ...] = ("ceil", "same")
            for rule in rules:
                if padding_amounts(self.size, kernel, stride, rule) == (top, bottom):
                    return rule
        raise UserError(f"this is not an AlexNet: {printable(name)} has the padding {', '.join(map(str, pads))}")

    def _pad(self, node: Node) -> None:
        pads = node.attributes.get("pads") or node.attributes.get("paddings")
        if pads is None and len(node.inputs) > 1 and node.inputs[1] in self.tensors:
            pads = [int(number) for number in self.tensors.get(node.inputs[1]).flatten()[:8].nan_to_num(-1, -1, -1)]
        if not pads or len(pads) != 8 or pads[:2] + pads[4:6] != [0] * 4 or not all(0 <= pad <= 64 for pad in pads):
            raise UserError("this is not an AlexNet: its graph has a Pad that is not zeros around the maps")
        if node.attributes.get("mode", "constant") != "constant" or self.pads is not None:
            raise UserError("this is not an AlexNet: its graph has a Pad that is not zeros around the maps")
        self.pads = (pads[2], pads[3], pads[6], pads[7])

    def _windows(self, node: Node, own: Sequence[int] = ()) -> tuple[int, int, tuple[int, int, int, int]]:
        """Kernel, stride and the zeros (top, left, bottom, right) of a convolution or a pool."""
        kernel, strides = node.attributes.get("kernel_shape", list(own)), node.attributes.get("strides", [1, 1])
        pads, dilations = node.attributes.get("pads", [0] * 4), node.attributes.get("dilations", [1, 1])
        lists = [kernel, strides, pads, dilations]
        if not all(isinstance(item, list) for item in lists) or list(map(len, lists)) != [2, 2, 4, 2]:
            raise ValueError(f"a {node.op} has the settings {str(lists)[:200]}")
        if kernel[0] != kernel[1] or strides[0] != strides[1] or dilations != [1, 1] or (own and list(own) != kernel):
            raise UserError(f"this is not an AlexNet: a {node.op} has windows that are no squares or have holes")
        if not (1 <= kernel[0] <= 64 and 1 <= strides[0] <= 64 and all(0 <= pad <= 64 for pad in pads)):
            raise UserError(f"this is not an AlexNet: a {node.op} has the settings {str(lists)[:200]}")
        return kernel[0], strides[0], (pads[0], pads[1], pads[2], pads[3])

    def _pool(self, node: Node) -> None:
        """A max pool. Zeros after the maps up to one less than the stride round the size up (Caffe2's converter)."""
        kernel, stride, pads = self._windows(node)
        up = bool(_int(node, "ceil_mode", 0))
        if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or self.pads is not None:
            raise UserError("this is not an AlexNet: a max pool has padding")
        if any(pads):
            up = pads == (0, 0, stride - 1, stride - 1)
            if not up:
                raise UserError("this is not an AlexNet: a max pool has padding")
        if self.size is not None:
            floor, ceil = (window_count(self.size, kernel, stride, ceil=rounded) for rounded in (False, True))
            if floor != ceil:
                self.pools.append((self.size, up))
            self.size = ceil if up else floor
        else:
            self.pools.append((0, up))
        self.ops.append(ForeignOp("pool", settings={"kernel": kernel, "stride": stride, "ceil_mode": up}))

    def _check_pools(self) -> None:
        """State one rounding for all pools: that of the pools where it matters."""
        roundings = {up for _, up in self.pools}
        if len(roundings) > 1:
            raise UserError("this is not an AlexNet: its pools round sizes in different ways")
        for place, op in enumerate(self.ops):
            if op.kind == "pool":
                settings = {name: value for name, value in op.settings.items() if name != "ceil_mode"}
                if roundings:  # else no pool's size depends on it
                    settings["ceil_mode"] = True in roundings
                self.ops[place] = ForeignOp("pool", op.layer, settings)


def _check_equal(ops: Sequence[ForeignOp]) -> None:
    """Raise ``UserError`` if layers of one kind have different settings: all of an AlexNet's have the same."""
    kinds: dict[str, Mapping[str, Any]] = {}
    for op in ops:
        is_uniform = op.kind in ("pool", "lrn", "batch-norm", "activation")
        if is_uniform and kinds.setdefault(op.kind, op.settings) != op.settings:
            raise UserError(f"this is not an AlexNet: its {op.kind} layers have different settings")


def _short(name: str) -> str:
    """A layer's name: that of its weight without the suffix."""
    return name.removeprefix("model.").removesuffix(".weight").removesuffix("_w_0")[:200]


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def _float(node: Node, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    if not isinstance(value, int | float):
        raise ValueError(f"{name} of a {node.op} is no number")  # noqa: TRY004
    return float(value)


def _int(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise ValueError(f"{name} of a {node.op} is no whole number")  # noqa: TRY004
    return value
