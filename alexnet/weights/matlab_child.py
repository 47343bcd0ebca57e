"""What runs in the child process for MATLAB files: structs and cells as JSON, arrays of numbers as arrays.

Files of version 5 to 7 are read by SciPy, those of version 7.3, which are HDF5, by h5py. Both give one form: a struct
is an object, a cell array or an array of structs a list, a char array a text, and an array of numbers ``{"array": name,
"shape": …}``. MATLAB drops trailing axes of length 1, so the caller adds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io  # here and not in a function: the memory is limited after the import of this module
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.weights.child import Exchange

try:
    import h5py
except ImportError:  # only files of version 7.3 need it
    h5py = None
MAX_DEPTH, MAX_VALUES, MAX_TEXT = 10, 100_000, 100_000
VERSION_73 = b"MATLAB 7.3 MAT-file"


def read_matlab(path: Path, exchange: Exchange) -> dict[str, Any]:
    """The variables of a ``.mat`` file by name, in the form that the module describes."""
    with open_regular(path) as file:
        is_73 = file.read(len(VERSION_73)) == VERSION_73
        file.seek(0)
        converter = _Converter(exchange)
        if is_73:
            return converter.from_hdf5(file)
        variables = scipy.io.loadmat(file, struct_as_record=False, squeeze_me=False, chars_as_strings=True)
        return {name: converter.plain(value, name, 0) for name, value in variables.items() if name[:2] != "__"}


@dataclass
class _Converter:
    exchange: Exchange
    values: int = 0

    def count(self, depth: int) -> None:
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise UserError("is nested too deeply, or holds too many values")

    def array(self, value: NDArray[Any], name: str) -> dict[str, Any]:
        key = f"{self.values}:{name}"
        self.exchange.add(key, value)
        return {"array": key, "shape": list(value.shape)}

    def plain(self, value: Any, name: str, depth: int) -> Any:
        """A value of SciPy."""
        self.count(depth)
        fields = getattr(value, "_fieldnames", None)
        if fields is not None:
            return {str(field): self.plain(getattr(value, field), str(field), depth + 1) for field in fields}
        if not isinstance(value, np.ndarray):
            return str(value)[:MAX_TEXT] if isinstance(value, str) else None
        if value.dtype.kind == "U":
            texts = [str(text)[:MAX_TEXT] for text in value.ravel()]
            return texts[0] if len(texts) == 1 else texts or ""
        if value.dtype.kind == "O":
            items = [self.plain(item, name, depth + 1) for item in value.ravel(order="F")]
            return items[0] if len(items) == 1 and hasattr(value.ravel()[0], "_fieldnames") else items
        if value.dtype.kind in "fiub":
            return self.array(value, name)
        return None  # function handles and other objects of MATLAB

    def from_hdf5(self, file: Any) -> dict[str, Any]:
        """The variables of a file of version 7.3."""
        if h5py is None:
            raise UserError("is a MATLAB file of version 7.3: to read it, run pip install 'alexnet[h5]'")
        with h5py.File(file, "r") as opened:
            return {name: self.hdf5(opened, opened, name, 0) for name in opened if not name.startswith("#")}

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
        self.exchange.check(value.size * value.dtype.itemsize)
        if kind == b"char":
            if value.size > MAX_TEXT:
                raise UserError("holds a very long text")
            return "".join(map(chr, value[()].ravel().tolist()))
        return self.array(value[()].T, name)

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
