"""Caffe's arrays: the message ``BlobProto``, read and written.

The numbers are fp32 or fp64 (fields 5 and 8). The shape is a list (field 7), or in files of before 2014 num, channels,
height and width (1 to 4). Source: ``src/caffe/proto/caffe.proto`` of BVLC/caffe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alexnet.weights.protobuf import (
    BYTES,
    Chunks,
    as_bytes,
    as_int,
    field,
    fields,
    message,
    packed_fields,
    packed_varints,
    signed,
    varints,
)

NUM, WIDTH, DATA, SHAPE, DOUBLE_DATA, DIM = 1, 4, 5, 7, 8, 1
MAX_AXES = 32  # blob.hpp
LAYER, DESCRIPTION = 100, 20_000
"""Fields of ``NetParameter``: a layer; an entry of our description (key 1, text 2), which Caffe does not know."""


def read_blob(view: memoryview) -> npt.NDArray[np.float32]:
    """The array of a ``BlobProto`` as fp32, with memory of its own. Raises ``ValueError``."""
    old, shape, parts = [1, 1, 1, 1], None, []
    has_old = False
    for number, wire_type, value in packed_fields(view):
        if NUM <= number <= WIDTH:
            old[number - NUM], has_old = signed(as_int(value)), True
        elif number == SHAPE:
            shape = _read_shape(as_bytes(value))
        elif number in (DATA, DOUBLE_DATA) and wire_type == BYTES:
            parts.append(np.frombuffer(as_bytes(value), "<f4" if number == DATA else "<f8"))
    count = sum(map(len, parts))
    if shape is None:
        shape = old if has_old else [count]
    if len(shape) > MAX_AXES or min(shape, default=1) < 0 or math.prod(shape) != count:
        raise ValueError(f"an array of the shape {tuple(shape[:MAX_AXES])} has {count:,} numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.concatenate([part.astype(np.float32) for part in parts]) if len(parts) != 1 else parts[0]
        return values.astype(np.float32).reshape(shape)


def _read_shape(view: memoryview) -> list[int]:
    dims: list[int] = []
    for number, wire_type, value in fields(view, limit=MAX_AXES + 1):
        if number == DIM:
            dims += map(signed, varints(as_bytes(value), MAX_AXES + 1) if wire_type == BYTES else [as_int(value)])
    return dims


def blob(values: npt.NDArray[np.float32], shape: Sequence[int] | None = None, *, is_old: bool = False) -> Chunks:
    """An array as a ``BlobProto``. ``shape``: if it differs from that of ``values``. ``is_old``: with the four sizes of
    files from before 2014, not with a list.
    """
    dims = list(values.shape if shape is None else shape)
    data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
    if is_old:
        sizes = [field(number, size) for number, size in enumerate([1] * (4 - len(dims)) + dims, NUM)]
        return message([*sizes, field(DATA, data)])
    return message([field(DATA, data), field(SHAPE, message([field(DIM, packed_varints(dims))]))])
