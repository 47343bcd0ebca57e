"""What runs in the child process for MATLAB files of version 7.3, which are HDF5: structs and cells as JSON, arrays of
numbers as arrays. ``matlab_files.py`` describes the form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.weights.child import Exchange
from alexnet.weights.hdf5_arrays import give_dataset

MAX_DEPTH, MAX_VALUES, MAX_TEXT = 10, 100_000, 100_000


def read_matlab(path: Path, exchange: Exchange) -> dict[str, Any]:
    """The variables of a ``.mat`` file of version 7.3 by name."""
    with open_regular(path) as file, h5py.File(file, "r") as opened:
        converter = _Converter(exchange)
        return {name: converter.hdf5(opened, opened, name, 0) for name in opened if not name.startswith("#")}


@dataclass
class _Converter:
    exchange: Exchange
    values: int = 0

    def count(self, depth: int) -> None:
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise UserError("is nested too deeply, or holds too many values")

    def hdf5(self, root: Any, parent: Any, name: str, depth: int) -> Any:
        """A member of a group."""
        if parent.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"is refused: {name!r} is a link to another place or file")
        return self.node(root, parent[name], name, depth)

    def node(self, root: Any, value: Any, name: str, depth: int) -> Any:
        """A group or a dataset of HDF5. Its axes are MATLAB's in reverse order."""
        self.count(depth)
        if isinstance(value, h5py.Group):
            return self.struct(root, value, depth)
        if not isinstance(value, h5py.Dataset) or value.is_virtual or value.external or value.shape is None:
            raise UserError(f"is refused: the bytes of {name!r} are not in this file")
        kind = value.attrs.get("MATLAB_class", b"")
        if value.attrs.get("MATLAB_empty", 0):
            return "" if kind == b"char" else []
        if value.dtype == h5py.ref_dtype:
            if value.size > MAX_VALUES:
                raise UserError("holds too many values")
            return [self.node(root, root[ref], name, depth + 1) if ref else None for ref in value[()].ravel()]
        if value.dtype.kind not in "fiub":
            return None
        if kind == b"char":
            if value.size > MAX_TEXT:
                raise UserError("holds a very long text")
            return "".join(map(chr, value[()].ravel().tolist()))
        key = f"{self.values}:{name}"
        give_dataset(self.exchange, key, value, reversed_axes=True)
        return {"array": key, "shape": list(value.shape[::-1])}

    def struct(self, root: Any, group: Any, depth: int) -> Any:
        """A struct, or an array of structs: each field of it is then a dataset of references."""
        names = [name for name in group if not name.startswith("#")]
        members = {name: self.hdf5(root, group, name, depth + 1) for name in names}
        refs = [name for name in names if self.is_field_of_many(group[name])]
        if not names or refs != names:
            return members
        counts = {math.prod(group[name].shape) for name in names}
        if len(counts) != 1:
            return members
        return [{name: members[name][place] for name in names} for place in range(counts.pop())]

    def is_field_of_many(self, value: Any) -> bool:
        """Whether a member is a field of an array of structs: references that are no cell array."""
        return isinstance(value, h5py.Dataset) and value.dtype == h5py.ref_dtype and "MATLAB_class" not in value.attrs
