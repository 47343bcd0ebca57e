"""Readers of two file formats of pixel arrays: idx (MNIST, Fashion-MNIST) and CIFAR's pickles.

idx: two zero bytes, an element type, a number of dimensions, the sizes as big-endian 32-bit integers, then the elements
(http://yann.lecun.com/exdb/mnist/). CIFAR: pickled dictionaries (https://www.cs.toronto.edu/~kriz/cifar.html). A pickle
can run code, so it is read only if its bytes have the md5 that torchvision publishes, and the unpickler accepts only
the few names that rebuild a numpy array.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular, read_bytes
from alexnet.data.sources.records import unreadable

T = TypeVar("T")

_GZIP_MAGIC = b"\x1f\x8b"
_IDX_UINT8 = 8
_IDX_LIMIT = 1 << 30  # bytes: a damaged header could ask for any amount of memory
_EXPANSION = 64  # times the file size: gzip shrinks images to a fifth, zeros to a thousandth
_CLASSES = 10  # of MNIST and of Fashion-MNIST


def _dtype(kind: str, align: int, copy: int) -> np.dtype[Any]:
    """``np.dtype`` as old pickles call it: with integers, for which numpy now warns, instead of booleans."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


_reconstruct: Any = np.zeros(0).__reduce__()[0]
_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # its name in numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


def read_idx(images: Path, targets: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(N, 28, 28, 1)`` uint8 pixels and ``(N,)`` int64 labels below 10, from a file of images and one of labels.

    Raises ``UserError`` if the files hold anything else.
    """
    shape = _open_idx(images, lambda file: _shape(images, file, 3))  # checked before memory is allocated
    if shape[1:] != (28, 28):
        raise _damaged(images, f"images of {shape[1]}×{shape[2]}, expected 28×28")
    labels = _idx(targets, 1)
    if shape[0] != len(labels):
        raise _damaged(targets, f"{len(labels)} labels for {shape[0]} images")
    pixels = _idx(images, 3)
    if labels.size and labels.max() >= _CLASSES:
        raise _damaged(targets, f"label {labels.max()}, expected 0 to {_CLASSES - 1}")
    return pixels[..., np.newaxis], labels.astype(np.int64)


def idx_count(path: Path) -> int:
    """The number of items of an idx file, from its header."""
    return _open_idx(path, lambda file: _header(path, file)[0])


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    def read(file: io.BufferedIOBase) -> NDArray[np.uint8]:
        shape = _shape(path, file, dimensions)
        size = math.prod(shape)
        data = file.read(size + 1)  # one byte more than expected, to detect a longer file
        if len(data) != size:
            raise _damaged(path, f"{'more than ' * (len(data) > size)}{min(len(data), size)} bytes, expected {size}")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)

    return _open_idx(path, read)


def _shape(path: Path, file: io.BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    """The shape in the header. Raises ``UserError`` for another number of dimensions, or too many bytes."""
    shape = _header(path, file)
    if len(shape) != dimensions:
        raise _damaged(path, f"{len(shape)} dimensions, expected {dimensions}")
    if (size := math.prod(shape)) > min(_IDX_LIMIT, _EXPANSION * path.stat().st_size):
        raise _damaged(path, f"its header asks for {size} bytes, too many for a file of this size")
    return shape


def _header(path: Path, file: io.BufferedIOBase) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not magic[3]:
        raise _damaged(path, f"starts with {magic.hex()!r}, not an idx header")
    if magic[2] != _IDX_UINT8:
        raise _damaged(path, f"element type {magic[2]:#04x}, expected 0x08, unsigned bytes")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise _damaged(path, "cut short in its header")
    return tuple(np.frombuffer(sizes, dtype=">u4").tolist())


def _open_idx(path: Path, read: Callable[[io.BufferedIOBase], T]) -> T:
    try:
        with open_regular(path) as file:
            gzipped = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            if not gzipped:
                return read(file)
            with gzip.open(file, "rb") as inflated:
                return read(inflated)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise unreadable(path, error) from error


def read_cifar(path: Path, md5: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(N, 32, 32, 3)`` uint8 pixels and ``(N,)`` int64 labels of a batch. Raises ``UserError`` for another md5."""
    batch = _unpickle(path, md5)
    targets = batch["labels"] if "labels" in batch else batch["fine_labels"]
    planes = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.array(targets, dtype=np.int64)


def read_cifar_names(path: Path, md5: str) -> tuple[str, ...]:
    """The class names in a CIFAR meta file. Raises ``UserError`` for another md5."""
    meta = _unpickle(path, md5)
    return tuple(meta["label_names"] if "label_names" in meta else meta["fine_label_names"])


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return _REBUILD[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module}.{name}") from None


def _unpickle(path: Path, md5: str) -> dict[str, Any]:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise unreadable(path, error) from error
    found = hashlib.md5(
        data, usedforsecurity=False
    ).hexdigest()  # the bytes that are checked are the bytes that are used
    if found != md5:
        raise UserError(f"{path} is not the published file: its md5 is {found}, expected {md5}; download it again")
    try:
        value = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()  # written by Python 2
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} was not unpickled: it {error}, which a numpy array does not need") from error
    return dict(value)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged or another file: {why}; download it again")
