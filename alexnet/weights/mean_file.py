"""The mean image of a training set in Caffe's files: ``.binaryproto``, or ``.npy`` as pycaffe reads it.

A ``.binaryproto`` is one blob ``(1, C, H, W)`` (Caffe's ``compute_image_mean``); a ``.npy`` holds ``(C, H, W)`` or one
value a channel ``(C,)`` (``python/caffe/imagenet/ilsvrc_2012_mean.npy`` is ``(3, 256, 256)`` float64). Both are in the
order of the network's input, which is BGR in Caffe, on the scale 0 … 255. The result is RGB: this is the only place
where a mean image changes its order.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alexnet.config import MAX_SIDE
from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import read_bytes
from alexnet.core.names import printable
from alexnet.weights.caffe_blobs import read_blob
from alexnet.weights.foreign import shape_in_words

SIDE = 256  # of the image that is made from one value a channel: the side of Caffe's stored images
NPY = b"\x93NUMPY"
FLOATS = ("f2", "f4", "f8", "u1")


def read_mean(path: Path) -> Tensor:
    """The mean image ``(H, H, C)`` fp32, RGB, 0 … 255, with C = 1 or 3; H = 256 for a file with one value a channel.

    Raises ``UserError`` for a file that cannot be read, that is no such file, or that holds other shapes, and for
    numbers that are not finite.
    """
    name = printable(str(path))
    try:
        data = read_bytes(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    if not data:
        raise UserError(f"{name} is empty")
    try:
        mean = _read_npy(data) if data.startswith(NPY) else read_blob(memoryview(data))
    except (ValueError, EOFError) as error:
        reason = [printable(str(error))]
        raise UserError(f"{name} is no mean image: give a complete .binaryproto or .npy file", reason) from error
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim == 1 and len(mean) in (1, 3):
        mean = mean[:, None, None].repeat(SIDE, 1).repeat(SIDE, 2)
    if mean.ndim != 3 or mean.shape[0] not in (1, 3) or not 0 < mean.shape[1] == mean.shape[2] <= MAX_SIDE:
        shape = shape_in_words(mean.shape)
        raise UserError(f"{name} is no mean image: its shape is {shape}; 3 × H × H (BGR) or 3 values are needed")
    if not np.isfinite(mean).all():
        raise UserError(f"{name} is no mean image: it holds numbers that are not finite")
    return torch.from_numpy(np.array(mean[::-1].transpose(1, 2, 0), np.float32, order="C"))


def _read_npy(data: bytes) -> npt.NDArray[np.float32]:
    """The array in a ``.npy`` file, as fp32. Raises ``ValueError`` before memory for a wrong shape is allocated."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the file has version {version} of the format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            shape, fortran, dtype = read_header(file)
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if dtype.str[1:] not in FLOATS:
        raise ValueError(f"the array holds {dtype}, not numbers")
    start = file.tell()
    if math.prod(shape) * dtype.itemsize != len(data) - start or not shape:
        raise ValueError(f"an array of the shape {shape} does not have {len(data) - start:,} bytes")
    values = np.frombuffer(data, dtype, offset=start)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.reshape(shape, order="F" if fortran else "C").astype(np.float32)
