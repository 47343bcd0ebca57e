"""Weights in NumPy's files: a pickled dictionary (``.npy``, ``.pkl``), and ``.npz``.

The best known is ``bvlc_alexnet.npy``, which caffe-tensorflow made of Caffe's weights: ``{"conv1": [W, b], …, "fc8":
[W, b]}``, or with ``{"weights": W, "biases": b}`` for each layer. Kernels are H, W, in / groups, out (grouped
convolutions stay whole: conv2 is 5, 5, 48, 256), dense layers in, out. TensorFlow flattens row, column, channel, so
fc6's inputs are in this order. The images are BGR like Caffe's, 0 to 255, minus a mean.

Pickles are read by ``closed_pickle.py``, which calls nothing. Arrays are mapped from the file.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.weights.closed_pickle import PickleError, load_arrays
from alexnet.weights.foreign import ForeignLayer, ForeignWeights
from alexnet.weights.formats import ReadOptions

NPY = b"\x93NUMPY"
HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[|<>=]?(?:O|O8|b1|[iu]1|[fiu][248]))', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>[0-9, L]{0,200})\), ?\}\s*"
)
TORCH_PICKLE = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the number that begins torch's older files
CAFFE_NAMES = {*(f"conv{number}" for number in range(1, 6)), "fc6", "fc7", "fc8"}
MAX_MEMBERS, MAX_LAYERS = 1000, 64
MEMORY_FACTOR, MEMORY_EXTRA = 4, 64 << 20
KEY = re.compile(r"(?P<layer>.+?)[/._:-](?P<part>weights?|kernel|w|biases|bias|b)(?::0)?", re.IGNORECASE)
WEIGHT_NAMES, BIAS_NAMES = ("weights", "weight", "kernel", "w"), ("biases", "bias", "b")


def recognises(head: bytes, path: Path) -> bool:
    """NumPy's signature, a zip whose first member is an array, or a pickle that is not torch's."""
    length = int.from_bytes(head[26:28], "little")
    is_npz = head[:4] == b"PK\x03\x04" and head[30 : 30 + length].endswith(b".npy")
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[2:14] != TORCH_PICKLE
    return head[:6] == NPY or is_npz or is_pickle


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers of the file. Raises ``UserError`` for a damaged file, and for one that holds something else."""
    shown = printable(str(path))
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if file.peek(4)[:4] == b"PK\x03\x04":
                return layers_of(
                    _nested(_read_npz(file, size)), "NumPy .npz", shown, MEMORY_FACTOR * size + MEMORY_EXTRA
                )
            data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY))
        return layers_of(_read_npy(data), "NumPy dictionary", shown, size)
    except PickleError as error:
        raise UserError(f"{shown} {error}") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _read_npy(data: memoryview) -> Any:
    """The object in a ``.npy`` file, or in a bare pickle."""
    if bytes(data[:6]) != NPY:
        return load_arrays(data)
    header, start = _header(data)
    if not header["descr"].lstrip(b"|<>=").startswith(b"O"):
        raise PickleError("holds one array: weights are a dictionary of arrays, written by numpy.save")
    return load_arrays(data[start:])


def _header(data: memoryview) -> tuple[re.Match[bytes], int]:
    """The header of a ``.npy`` file (NumPy's format 1 to 3), and where the data begins."""
    major = data[6] if len(data) > 12 else 0
    if major not in (1, 2, 3):
        raise PickleError("is no .npy file of the versions 1 to 3")
    width = 2 if major == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    header = HEADER.fullmatch(bytes(data[8 + width : 8 + width + min(length, 10_000)]))
    if header is None or length > 10_000:
        raise PickleError("is damaged: its header is not NumPy's")
    return header, 8 + width + length


def _read_npz(file: Any, size: int) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name. No member may hold objects."""
    limit = MEMORY_FACTOR * size + MEMORY_EXTRA
    arrays: dict[str, NDArray[Any]] = {}
    _check_directory(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > limit // 2:
                raise PickleError("is refused: its arrays are too many, or too large for its size")
            for member in members:
                with archive.open(member) as opened:
                    data = opened.read(member.file_size)
                name = member.filename.removesuffix(".npy")
                arrays[name] = _plain_array(memoryview(bytearray(data)), name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        if isinstance(error, PickleError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise  # EINVAL: a member begins before the file
        raise PickleError(f"is damaged ({error})") from error
    return arrays


def _check_directory(file: Any, size: int) -> None:
    """Refuse a zip with a long list of members: ``zipfile`` keeps some ten times its bytes in memory."""
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or int.from_bytes(tail[end + 12 : end + 16], "little") > MAX_MEMBERS * 300:
        raise PickleError("is damaged: the list of its members is missing or too long")
    file.seek(0)


def _plain_array(data: memoryview, name: str) -> NDArray[Any]:
    """An array of numbers in a ``.npy`` file, as a view."""
    header, start = _header(data)
    descr = header["descr"].decode()
    shown = printable(name)
    if "O" in descr:
        raise PickleError(f"is refused: its member {shown!r} holds objects")
    shape = tuple(int(part) for part in header["shape"].decode().replace("L", "").split(",") if part.strip())
    kind = np.dtype(descr)
    if math.prod(shape) * kind.itemsize != len(data) - start:
        raise PickleError(f"is damaged: {shown!r} has the shape {shape} and {len(data) - start} bytes")
    array: NDArray[Any] = np.frombuffer(data[start:], kind)
    return array.reshape(shape, order="F" if header["order"] == b"True" else "C")


def _nested(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """The arrays by layer and part: ``conv1/weights``, ``conv1_w``, … → ``{"conv1": {"weights": …}}``."""
    nested: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        match = KEY.fullmatch(name)
        if match is None:
            raise PickleError(
                f"is not known: the name {printable(name)!r} is not a layer's weights or biases (conv1/weights)"
            )
        nested.setdefault(match["layer"], {})[match["part"].lower()] = array
    return nested


def layers_of(value: Any, file_format: str, shown: str, size: int) -> ForeignWeights:
    """The layers of a dictionary: name → ``[weights, biases]`` or a dictionary of the two.

    ``shown``: the file's name in errors. ``size``: the most bytes of all arrays. Raises ``UserError``.
    """
    if not isinstance(value, dict) or not value:
        raise UserError(f"{shown} holds no dictionary of layers: expected {{'conv1': [weights, biases], …}}")
    arrays = [
        array
        for entry in value.values()
        for array in (entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ())
    ]
    if len(value) > MAX_LAYERS or sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) > size:
        raise UserError(f"{shown} is damaged: it has {len(value)} layers, or its arrays share their bytes")
    layers = [_layer(str(name), entry, shown) for name, entry in value.items()]
    layers.sort(key=lambda layer: (layer.kind == "linear", _number(layer.name), layer.name))
    convs = [layer for layer in layers if layer.kind == "conv"]
    layers = convs[:5] + [_as_linear(layer) for layer in convs[5:]] + layers[len(convs) :]
    if not any(layer.kind == "linear" for layer in layers):
        raise UserError(
            f"{shown} holds {len(convs)} convolutions and no fully connected layers: only a whole AlexNet can be used"
        )
    names = {layer.name for layer in layers}
    of_caffe = names == CAFFE_NAMES and layers[0].weight.shape[1] == 3
    notes: tuple[str, ...] = ("the inputs of fc6 are taken to be in the order row, column, channel, TensorFlow's",)
    if of_caffe:
        notes += ("the names are caffe-tensorflow's: conv1 is taken to expect BGR images, 0 to 255, minus a mean",)
    return ForeignWeights(
        file_format, "tensorflow", tuple(layers), flatten="HWC", channel_order="BGR" if of_caffe else "RGB", notes=notes
    )


def _layer(name: str, entry: Any, shown: str) -> ForeignLayer:
    label = printable(name)
    if isinstance(entry, dict):
        parts = {str(key).lower().removesuffix(":0"): item for key, item in entry.items()}
        weight, bias = (next((parts[key] for key in keys if key in parts), None) for keys in (WEIGHT_NAMES, BIAS_NAMES))
    elif isinstance(entry, list) and 1 <= len(entry) <= 2:
        weight, bias = entry[0], entry[1] if len(entry) == 2 else None
    else:
        raise UserError(f"{shown}: layer {label!r} is neither [weights, biases] nor a dictionary of the two")
    if not isinstance(weight, np.ndarray) or not (bias is None or isinstance(bias, np.ndarray)):
        raise UserError(f"{shown}: layer {label!r} has no array of weights")
    if weight.dtype.kind != "f" or (bias is not None and bias.dtype.kind != "f") or not weight.size:
        raise UserError(f"{shown}: layer {label!r} does not hold floating-point numbers")
    if weight.ndim == 4 and weight.shape[0] == weight.shape[1]:
        axes, kind, steps = (3, 2, 0, 1), "conv", ("HWIO to OIHW",)
    elif weight.ndim == 2:
        axes, kind, steps = (1, 0), "linear", ("transposed",)  # type: ignore[assignment]
    else:
        raise UserError(
            f"{shown}: layer {label!r} has weights of the shape {weight.shape}; expected in, out, or height, "
            f"width, in, out with equal height and width"
        )
    biases = None if bias is None else torch.from_numpy(np.array(bias.ravel(), np.float32))
    moved = np.ascontiguousarray(weight.transpose(axes), np.float32)
    return ForeignLayer(name, kind, torch.from_numpy(moved), biases, original_shape=weight.shape, steps=steps)  # type: ignore[arg-type]


def _as_linear(layer: ForeignLayer) -> ForeignLayer:
    """A fully connected layer that is written as a convolution, with its inputs in the order row, column, channel."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return ForeignLayer(
        layer.name, "linear", weight, layer.bias, original_shape=layer.original_shape, steps=("HWIO to O, HWI",)
    )


def _number(name: str) -> int:
    """The last number in a name, 0 if there is none; the 2 of ``conv2d`` is part of a word."""
    found = re.findall(r"[0-9]{1,9}(?![0-9]|[dD](?:[^a-zA-Z]|$))", name)
    return int(found[-1]) if found else 0
