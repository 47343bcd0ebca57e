"""An array of an HDF5 file, given back to the caller of a child process: by its place in the file, or as a copy.

An array that is neither compressed nor in chunks lies in the file as one block of bytes. Then h5py is asked only where,
and the caller reads the block. All others are read by h5py.
"""

from __future__ import annotations

from typing import Any

import h5py

from alexnet.weights.child import Exchange


def give_dataset(exchange: Exchange, name: str, dataset: h5py.Dataset, *, reversed_axes: bool = False) -> None:
    """Give a dataset of numbers back under ``name``; a single number as an array of one.

    ``reversed_axes``: with its axes in reverse order, as MATLAB has them. Raises ``UserError`` for more than the limit.
    """
    exchange.check(dataset.size * dataset.dtype.itemsize)
    offset = _offset(dataset)
    if offset is None or exchange.start is None or not dataset.shape:
        values = dataset[()] if dataset.shape else dataset[()].reshape(1)
        exchange.add(name, values.T if reversed_axes else values)
    elif reversed_axes:
        exchange.refer(name, offset, dataset.dtype, dataset.shape[::-1], "F")
    else:
        exchange.refer(name, offset, dataset.dtype, dataset.shape)


def _offset(dataset: h5py.Dataset) -> int | None:
    """Where the numbers of a dataset begin in the file, if they are one block in a form that NumPy has too."""
    if dataset.chunks is not None or dataset.dtype.kind not in "fiu":
        return None
    stored: Any = dataset.id.get_type()
    if not stored.equal(h5py.h5t.py_create(dataset.dtype)):
        return None
    offset = dataset.id.get_offset()
    return None if offset is None else int(offset)
