"""The variables of a MATLAB file, as text, lists, dictionaries and tensors.

Files of version 5 to 7 are read here, without a library: a file is a sequence of elements, each with a type and a
length. Nothing is allocated before its length is compared with what the file holds, and the bytes of an array are read
once. A compressed variable is unpacked as a stream. Files of version 7.3 are HDF5 and are read in a child process
(``matlab_child.py``).

Both give one form: a struct is a dictionary, a cell array or an array of structs a list, a char array a text (or a list
of texts, one for each row), and an array of numbers ``{"array": name, "shape": …}``, where ``name`` is the key of a
tensor. All else (sparse and complex arrays, objects, function handles) is None. MATLAB drops trailing axes of length 1,
so the caller adds them.

Source: MathWorks, "MAT-File Format" (version 5); ``scipy/io/matlab/_mio5_params.py`` for the codes.
"""

from __future__ import annotations

import importlib.util
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular, size_in_words
from alexnet.core.names import printable
from alexnet.weights.child import COPIES, MEMORY_EXTRA, MEMORY_FACTOR, call

VERSION_73 = b"MATLAB 7.3 MAT-file"
HEADER, TAG, CHUNK = 128, 8, 1 << 20
MAX_DEPTH, MAX_VALUES, MAX_TEXT, MAX_AXES, MAX_FIELDS = 10, 100_000, 100_000, 32, 1000
MATRIX, COMPRESSED = 14, 15
STORED: Mapping[int, str] = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
"""Type of an element with numbers → NumPy's code."""
TEXT: Mapping[int, str] = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR, OPAQUE = 1, 2, 4, 17
NUMBERS: Mapping[int, str] = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
"""Class of an array of numbers → NumPy's code. The element may store them in a smaller type."""
COMPLEX = 0x800


def read_matlab(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The variables of a ``.mat`` file of version 5 to 7.3: (arrays of numbers by key, the variables by name).

    Raises ``UserError`` for a file that is damaged, too deeply nested, or whose arrays need more memory than
    ``MEMORY_FACTOR`` / ``COPIES`` times its size and a little more.
    """
    shown = printable(str(path))
    try:
        with open_regular(path) as file:
            head, size = file.read(HEADER), os.fstat(file.fileno()).st_size
            if not head.startswith(VERSION_73):
                reader = _Reader(_order(head), (MEMORY_FACTOR * size + MEMORY_EXTRA) // COPIES)
                variables = reader.variables(_Stored(file, size - len(head)))
                return reader.tensors, variables
    except OSError as error:
        raise cannot_read(path, error) from error
    except UserError as error:
        raise UserError(f"{shown} {error.line}", error.details) from error
    except (ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{shown} is damaged, or no MATLAB file", [printable(str(error))]) from error
    if importlib.util.find_spec("h5py") is None:
        raise UserError(f"{shown} is a MATLAB file of version 7.3: to read it, run pip install 'alexnet[h5]'")
    return call("alexnet.weights.matlab_child:read_matlab", path)


def _order(head: bytes) -> str:
    """The byte order that the header states, as NumPy and ``struct`` write it."""
    if len(head) < HEADER or head[126:128] not in (b"IM", b"MI"):
        raise ValueError("its header is not MATLAB's")
    return "<" if head[126:128] == b"IM" else ">"


class _Source(Protocol):
    """Bytes that are read one after the other. ``left``: how many may still come."""

    left: int

    def into(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with the next bytes. Raises ``ValueError`` if there are fewer."""

    def skip(self, count: int) -> None:
        """Pass over the next bytes."""


@dataclass
class _Stored:
    """The rest of a file."""

    file: BinaryIO
    left: int

    def into(self, buffer: memoryview) -> None:
        _check_left(self, len(buffer))
        if len(buffer) and self.file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise ValueError("the file has become shorter")
        self.left -= len(buffer)

    def skip(self, count: int) -> None:
        _check_left(self, count)
        self.file.seek(count, os.SEEK_CUR)
        self.left -= count


@dataclass
class _Unpacked:
    """A compressed element of ``packed`` bytes, unpacked in small parts. ``left``: at most so many bytes of it."""

    source: _Source
    packed: int
    left: int
    stream: Any = field(default_factory=zlib.decompressobj)

    def into(self, buffer: memoryview) -> None:
        _check_left(self, len(buffer))
        at = 0
        while at < len(buffer):
            part = self.stream.decompress(self.stream.unconsumed_tail or self._next(), min(CHUNK, len(buffer) - at))
            if not part and self.stream.eof:
                raise ValueError("a compressed variable is too short")
            buffer[at : at + len(part)] = part
            at += len(part)
        self.left -= at

    def skip(self, count: int) -> None:
        while count:
            part = memoryview(bytearray(min(CHUNK, count)))
            self.into(part)
            count -= len(part)

    def rest(self) -> None:
        """Pass over what was not needed: the end of the stream, with its checksum."""
        while not self.stream.eof and (self.packed or self.stream.unconsumed_tail):
            if self.stream.decompress(self.stream.unconsumed_tail or self._next(), CHUNK):
                raise ValueError("a compressed variable is too long")
        self.source.skip(self.packed)

    def _next(self) -> bytes:
        if not self.packed:
            raise ValueError("a compressed variable is cut off")
        data = bytearray(min(CHUNK, self.packed))
        self.source.into(memoryview(data))
        self.packed -= len(data)
        return bytes(data)


def _check_left(source: _Source, count: int) -> None:
    if not 0 <= count <= source.left:
        raise ValueError(f"an element has {count:,} bytes, but only {source.left:,} follow")


@dataclass(frozen=True)
class _Element:
    """The tag of an element. ``data``: its bytes if they are in the tag. ``size``: of all others that follow."""

    type: int
    count: int
    data: bytes | None
    size: int


@dataclass
class _Reader:
    """``order``: of the bytes in a number. ``limit``: the most bytes of all arrays."""

    order: str
    limit: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: int = 0
    size: int = 0

    def variables(self, source: _Source) -> dict[str, Any]:
        """All variables of a file, by name."""
        found: dict[str, Any] = {}
        while source.left >= TAG:
            tag = self.tag(source)
            if tag.type == COMPRESSED:
                _check_left(source, tag.count)
                unpacked = _Unpacked(source, tag.count, 2 * self.limit)
                inner = self.tag(unpacked)
                if inner.type == MATRIX:
                    name, value = self.matrix(unpacked, inner, "", 0)
                    found[name] = value
                    unpacked.rest()
                else:
                    source.skip(unpacked.packed)
            elif tag.type == MATRIX:
                name, value = self.matrix(source, tag, "", 0)
                found[name] = value
            else:
                source.skip(tag.size)
        return found

    def tag(self, source: _Source) -> _Element:
        raw = bytearray(TAG)
        source.into(memoryview(raw))
        kind, count = struct.unpack(f"{self.order}II", raw)
        if small := kind >> 16:  # up to four bytes are in the tag
            if small > 4:
                raise ValueError(f"a small element has {small} bytes")
            return _Element(kind & 0xFFFF, small, bytes(raw[4 : 4 + small]), 0)
        return _Element(kind, count, None, count if kind in (MATRIX, COMPRESSED) else count + -count % 8)

    def data(self, source: _Source, limit: int) -> tuple[int, bytes]:
        """The type and the bytes of a short element."""
        tag = self.tag(source)
        if tag.data is not None:
            return tag.type, tag.data
        if tag.count > limit or tag.type in (MATRIX, COMPRESSED):
            raise ValueError(f"an element of type {tag.type} has {tag.count:,} bytes")
        raw = bytearray(tag.size)
        source.into(memoryview(raw))
        return tag.type, bytes(raw[: tag.count])

    def integers(self, source: _Source, limit: int) -> list[int]:
        """The numbers of a short element of 32-bit integers."""
        kind, raw = self.data(source, 4 * limit)
        if kind not in (5, 6) or len(raw) % 4:
            raise ValueError(f"an element of type {kind} is where integers are expected")
        return [int(value) for value in np.frombuffer(raw, f"{self.order}{STORED[kind]}")]

    def matrix(self, source: _Source, tag: _Element, name: str, depth: int) -> tuple[str, Any]:
        """The name and the value of an array. ``name``: of what holds it."""
        self.values += 1
        if depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise UserError("is nested too deeply, or holds too many values")
        if tag.type != MATRIX:
            raise ValueError(f"an element of type {tag.type} is where an array is expected")
        if tag.count == 0:
            return name, []  # an empty cell, as MATLAB writes it
        _check_left(source, tag.count)
        end = source.left - tag.count
        flags = self.integers(source, 2)
        if len(flags) != 2:
            raise ValueError("an array has no flags")
        kind = flags[0] & 0xFF
        value: Any = None
        if kind != OPAQUE:
            shape = self.integers(source, MAX_AXES)
            own = self.data(source, MAX_TEXT)[1].decode("latin-1")
            name = printable(own) if own else name
            if len(shape) < 2 or min(shape) < 0:
                raise ValueError(f"an array has the shape {shape}")
            if kind == CELL:
                value = self.cell(source, math.prod(shape), name, depth)
            elif kind == STRUCT:
                value = self.struct(source, math.prod(shape), depth)
            elif kind == CHAR:
                value = self.text(source, shape)
            elif kind in NUMBERS and not flags[0] & COMPLEX:
                value = self.numbers(source, shape, NUMBERS[kind], name)
        if source.left < end:
            raise ValueError("an array is longer than it states")
        source.skip(source.left - end)
        return name, value

    def cell(self, source: _Source, count: int, name: str, depth: int) -> list[Any]:
        self.check(count)
        return [self.matrix(source, self.tag(source), name, depth + 1)[1] for _ in range(count)]

    def check(self, count: int) -> None:
        if self.values + count > MAX_VALUES:
            raise UserError("is nested too deeply, or holds too many values")

    def struct(self, source: _Source, count: int, depth: int) -> Any:
        """A struct as a dictionary, an array of structs as a list."""
        lengths = self.integers(source, 1)
        raw = self.data(source, MAX_TEXT)[1]
        length = lengths[0] if lengths else 0
        if length < 1 or len(raw) % length or len(raw) // length > MAX_FIELDS:
            raise ValueError("the names of a struct are damaged")
        names = [
            printable(raw[start : start + length].split(b"\0")[0].decode("latin-1"))
            for start in range(0, len(raw), length)
        ]
        self.check(count * max(1, len(names)))
        found = [
            {name: self.matrix(source, self.tag(source), name, depth + 1)[1] for name in names} for _ in range(count)
        ]
        return found[0] if count == 1 else found

    def text(self, source: _Source, shape: list[int]) -> str | list[str]:
        """A char array: a text for each of its rows; one row is a text."""
        kind, raw = self.data(source, 4 * MAX_TEXT)
        if kind not in TEXT:
            raise ValueError(f"a text has the type {kind}")
        wide = TEXT[kind] in ("utf-16", "utf-32")
        coding = TEXT[kind] + {"<": "-le", ">": "-be"}[self.order] if wide else TEXT[kind]
        letters = raw.decode(coding, "replace")
        if len(shape) > 2 or shape[0] <= 1 or len(letters) != math.prod(shape):
            return letters[:MAX_TEXT]
        return [letters[row :: shape[0]].rstrip() for row in range(shape[0])]

    def numbers(self, source: _Source, shape: list[int], code: str, name: str) -> dict[str, Any]:
        """An array of numbers, which becomes a tensor. The first index changes fastest."""
        tag = self.tag(source)
        if tag.type not in STORED:
            raise ValueError(f"numbers have the type {tag.type}")
        stored, wanted = np.dtype(self.order + STORED[tag.type]), np.dtype(code)
        count = math.prod(shape)
        if count * stored.itemsize != tag.count:
            raise ValueError(f"an array of the shape {shape} has {tag.count:,} bytes")
        self.size += count * (wanted.itemsize if stored == wanted else wanted.itemsize + stored.itemsize)
        if self.size > self.limit:
            raise UserError(f"holds arrays of more than {size_in_words(self.limit)}, too much for its size")
        if tag.data is None:
            _check_left(source, tag.size)
            flat = np.empty(tag.count, np.uint8)
            source.into(flat.data)
            source.skip(tag.size - tag.count)
        else:
            flat = np.frombuffer(bytearray(tag.data), np.uint8)
        values: NDArray[Any] = flat.view(stored).reshape(shape, order="F")
        key = f"{self.values}:{name}"
        with np.errstate(over="ignore", invalid="ignore"):
            self.tensors[key] = torch.from_numpy(values.astype(wanted, copy=False))
        return {"array": key, "shape": shape}
