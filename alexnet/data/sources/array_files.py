"""Readers of the two file formats that pixel sets come in: idx (the MNISTs) and CIFAR's pickles.

idx: two zero bytes, an element type, a number of dimensions, the sizes as big-endian 32-bit integers, then the elements
(http://yann.lecun.com/exdb/mnist/). CIFAR: pickled dictionaries (https://www.cs.toronto.edu/~kriz/cifar.html). A pickle
is a program, so one is run only if the very bytes in memory have the md5 that torchvision publishes, and even then only
with the names that rebuild a numpy array.
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
from alexnet.data.sources.records import unreadable

T = TypeVar("T")

_GZIP_MAGIC = b"\x1f\x8b"
_IDX_UINT8 = 8
_IDX_LIMIT = 1 << 30  # bytes: a damaged header asks for any amount of memory
_EXPANSION = 64  # times a file's size: images shrink to a fifth, zeros to a thousandth
_CLASSES = 10  # of either MNIST


def _dtype(kind: str, align: int, copy: int) -> np.dtype[Any]:
    """``np.dtype`` as pickles of old call it: with integers where numpy now wants booleans, and says so."""
    return np.dtype(kind, align=bool(align), copy=bool(copy))


_reconstruct: Any = np.zeros(0).__reduce__()[0]
_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # what numpy 1 called it
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


def read_idx(images: Path, targets: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(N, 28, 28, 1)`` pixels and ``(N,)`` labels below 10. Raises ``UserError`` for anything else."""
    promised = _open_idx(images, lambda file: _shape(images, file, 3))  # before any memory is taken for them
    if promised[1:] != (28, 28):
        raise _damaged(images, f"images of {promised[1]}×{promised[2]}, expected 28×28")
    truth = _idx(targets, 1)
    if promised[0] != len(truth):
        raise _damaged(targets, f"{len(truth)} labels for {promised[0]} images")
    pixels = _idx(images, 3)
    if truth.size and truth.max() >= _CLASSES:
        raise _damaged(targets, f"label {truth.max()}, expected 0 to {_CLASSES - 1}")
    return pixels[..., np.newaxis], truth.astype(np.int64)


def idx_count(path: Path) -> int:
    """How many items an idx file says it has, from its header."""
    return _open_idx(path, lambda file: _header(path, file)[0])


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    def read(file: io.BufferedIOBase) -> NDArray[np.uint8]:
        shape = _shape(path, file, dimensions)
        size = math.prod(shape)
        data = file.read(size + 1)  # one more than there should be, to notice it
        if len(data) != size:
            raise _damaged(path, f"{'more than ' * (len(data) > size)}{min(len(data), size)} bytes, expected {size}")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)

    return _open_idx(path, read)


def _shape(path: Path, file: io.BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    """What the header says, of so many dimensions and of no more bytes than a file of this size can hold."""
    shape = _header(path, file)
    if len(shape) != dimensions:
        raise _damaged(path, f"{len(shape)} dimensions, expected {dimensions}")
    if (size := math.prod(shape)) > min(_IDX_LIMIT, _EXPANSION * path.stat().st_size):
        raise _damaged(path, f"its header promises {size} bytes")
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
        with path.open("rb") as file:
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
    """``(N, 32, 32, 3)`` pixels and ``(N,)`` labels of one batch file, if its bytes have that md5."""
    batch = _unpickle(path, md5)
    targets = batch["labels"] if "labels" in batch else batch["fine_labels"]
    planes = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.array(targets, dtype=np.int64)


def read_cifar_names(path: Path, md5: str) -> tuple[str, ...]:
    """The class names in a CIFAR meta file, if its bytes have that md5."""
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
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()  # read once: these bytes are checked and then used
    if found != md5:
        raise UserError(f"{path} is not the published file: its md5 is {found}, expected {md5}; download it again")
    try:
        value = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()  # written by Python 2
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} was not unpickled: it {error}, more than a numpy array needs") from error
    return dict(value)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged or not what its name says: {why}", ["download it again"])
