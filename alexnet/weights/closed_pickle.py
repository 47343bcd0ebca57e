"""A reader of pickles that hold dictionaries of NumPy arrays, and nothing else.

Python's unpickler calls what a file names. This reader calls nothing: it interprets the opcodes that a dictionary of
arrays needs (of protocols 2 to 5, from Python 2 and 3) and knows a few names. An opcode or a name outside these lists
is a refusal. The bytes of an array are read once, into memory that the array then has: their number is compared with
what is left of the file before it is allocated, and a shape with the number of bytes before anything is made of it. The
number of opcodes and of values is limited.

Sources: Python's ``Lib/pickletools.py`` for the opcodes; ``numpy/_core/src/multiarray/methods.c``
(``array_reduce``, ``array_setstate``) and ``numpy/_core/numeric.py`` (``_frombuffer``) for what NumPy writes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alexnet.core.names import printable

MAX_OPCODES, MAX_DEPTH, MAX_AXES = 100_000, 8, 8
MAX_NAME = 1000
LARGE = 4096  # bytes from which the file is read into the memory of an array
NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    **{
        (f"numpy.{core}.{module}", name): name
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
}
"""Module and name in the file → what this reader makes of it."""
FRAME, STOP = 0x95, 0x2E
NUMBERS = ("b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8")
"""The types of arrays that are read, in NumPy's codes."""


class PickleError(ValueError):
    """Why a pickle is refused: the rest of a sentence that begins with the file's name."""


@dataclass(frozen=True)
class _Known:
    """One of ``NAMES``."""

    name: str


@dataclass
class _DType:
    """A ``numpy.dtype``: its code such as ``f4``, and its byte order."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        """The type. Raises ``PickleError`` if it is not one of numbers."""
        if self.code not in NUMBERS:
            raise PickleError(f"holds an array of the type {printable(self.code)!r}, not of numbers")
        return np.dtype(("<" if self.order == "<" else ">" if self.order == ">" else "=") + self.code)


@dataclass
class _Array:
    """An array that is being read: ``value`` is the array, or the list of an array of objects."""

    value: Any = None


class _Mark:
    """The mark that some opcodes put on the stack."""


@dataclass
class _Machine:
    file: BinaryIO
    left: int  # bytes of the file that are not read yet
    size: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    copied: int = 0  # bytes that texts were copied into

    def run(self) -> Any:
        """Interpret the opcodes; the value before STOP."""
        for _ in range(MAX_OPCODES):
            opcode = self.take(1)[0]
            if opcode == STOP:
                return self.pop()
            if opcode == FRAME:
                self.take(8)
                continue
            handler = HANDLERS.get(opcode)
            if handler is None:
                raise PickleError(
                    f"is a pickle with the opcode {opcode:#04x}, which a dictionary of arrays does not need"
                )
            handler(self)
        raise PickleError(f"is a pickle of more than {MAX_OPCODES:,} opcodes")

    def take(self, count: int) -> memoryview:
        """The next bytes of the file, in memory of their own."""
        if count > self.left:
            raise PickleError("is not complete")
        self.left -= count
        if count < LARGE:
            data = memoryview(bytearray(self.file.read(count)))
        else:
            data = np.empty(count, np.uint8).data
            data = data[: self.file.readinto(data)]  # type: ignore[attr-defined]
        if len(data) != count:
            raise PickleError("has become shorter")
        return data

    def number(self, form: str) -> int:
        value = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return int(value)

    def line(self) -> str:
        """Bytes up to a line break, a module's or a name's."""
        raw = self.file.readline(MAX_NAME)
        self.left -= len(raw)
        if not raw.endswith(b"\n"):
            raise PickleError("is damaged: it holds a very long name")
        return raw[:-1].decode("utf-8", "backslashreplace")

    def pop(self) -> Any:
        if not self.stack:
            raise PickleError("is damaged: a value is missing")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """The values above the last mark, which are removed with it."""
        for place in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[place], _Mark):
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise PickleError("is damaged: a mark is missing")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, key: int) -> None:
        if not self.stack:
            raise PickleError("is damaged: a value is missing")
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise PickleError("is damaged: it refers to a value that is not there")
        self.push(self.memo[key])

    def text(self, form: str) -> None:
        self.push(str(self.take(self.number(form)), "utf-8", "surrogatepass"))

    def encoded(self, text: str) -> memoryview:
        """A text as bytes. Protocol 2 of Python 3 writes bytes so; a text may be encoded once, not again and again."""
        self.copied += len(text)
        if self.copied > self.size:
            raise PickleError("is damaged: it uses the same bytes many times")
        return memoryview(bytearray(text, "latin-1"))

    def raw(self, form: str) -> None:
        self.push(self.take(self.number(form)))

    def long(self, form: str) -> None:
        count = self.number(form)
        if not 0 <= count <= 16:
            raise PickleError("is damaged: it holds a very large number")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def known(self, module: Any, name: Any) -> None:
        found = NAMES.get((_string(module), _string(name)))
        if found is None:
            shown = printable(f"{_string(module)}.{_string(name)}")
            raise PickleError(
                f"names {shown}, which is not among the {len(NAMES)} names that arrays need; nothing in it was run"
            )
        self.push(_Known(found))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.known(module, name)

    def set_items(self, pairs: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], dict) or len(pairs) % 2:
            raise PickleError("is damaged: items of a dictionary are without one")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def extend(self, values: list[Any]) -> None:
        if not self.stack or not isinstance(self.stack[-1], list):
            raise PickleError("is damaged: items of a list are without one")
        self.stack[-1].extend(values)

    def reduce(self) -> None:
        """A call: only of the known names, whose effect is written here."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Known) or not isinstance(arguments, tuple):
            raise PickleError("is damaged: it calls what is no function")
        match function.name, arguments:
            case "_reconstruct", (_Known("ndarray"), _, _):
                self.push(_Array())
            case "dtype", (code, *_):
                self.push(_DType(_string(code)))
            case "encode", (str() as text, coding) if _string(coding) in ("latin1", "latin-1", "iso8859-1"):
                self.push(self.encoded(text))
            case "scalar", (_DType() as dtype, value):
                self.push(_array((), dtype, "C", value))
            case "_frombuffer", (value, _DType() as dtype, tuple() as shape, order):
                self.push(_Array(_array(shape, dtype, _string(order), value)))
            case _:
                raise PickleError(f"is damaged: it calls {function.name} in another way than NumPy writes it")

    def build(self) -> None:
        """The state of an array or of a type."""
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _DType) and isinstance(state, tuple) and len(state) >= 2:
            target.order = _string(state[1])
        elif isinstance(target, _Array) and target.value is None and isinstance(state, tuple) and len(state) in (4, 5):
            shape, dtype, fortran, value = state[-4:]
            if not isinstance(dtype, _DType):
                raise PickleError("is damaged: an array has no type")
            target.value = _array(shape, dtype, "F" if fortran else "C", value)
        else:
            raise PickleError("is damaged: it gives a state to what has none")


def _array(shape: Any, dtype: _DType, order: str, value: Any) -> Any:
    """The array of a shape over bytes, which it shares; for the type of objects, the list of its values."""
    if not isinstance(shape, tuple) or len(shape) > MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise PickleError("is damaged: an array has no shape")
    count = math.prod(shape)
    if dtype.code.lstrip("|") in ("O", "O8", "O4"):
        if not isinstance(value, list) or len(value) != count:
            raise PickleError("is damaged: an array of objects has another number of them")
        return value
    kind = dtype.numpy()
    if not isinstance(value, memoryview) or len(value) != count * kind.itemsize:
        raise PickleError(f"is damaged: an array of the shape {shape} has another number of bytes")
    flat: NDArray[Any] = np.frombuffer(value, kind) if count else np.zeros(0, kind)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _string(value: Any) -> str:
    """A short text: a str, or the bytes of Python 2."""
    if isinstance(value, memoryview) and len(value) <= MAX_NAME:
        return bytes(value).decode("latin-1")
    if isinstance(value, str) and len(value) <= MAX_NAME:
        return value
    raise PickleError("is damaged: a name is missing")


def _key(value: Any) -> str | int:
    return value if type(value) is int else _string(value)


HANDLERS: dict[int, Callable[[_Machine], object]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x28: lambda m: m.push(_Mark()),
    0x4E: lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x4A: lambda m: m.push(m.number("<i")),  # BININT
    0x4B: lambda m: m.push(m.number("<B")),
    0x4D: lambda m: m.push(m.number("<H")),
    0x8A: lambda m: m.long("<B"),  # LONG1
    0x8B: lambda m: m.long("<i"),
    0x47: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    0x58: lambda m: m.text("<I"),  # BINUNICODE
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    0x54: lambda m: m.raw("<I"),  # BINSTRING, of Python 2
    0x55: lambda m: m.raw("<B"),
    0x42: lambda m: m.raw("<I"),  # BINBYTES
    0x43: lambda m: m.raw("<B"),
    0x8E: lambda m: m.raw("<Q"),
    0x96: lambda m: m.raw("<Q"),  # BYTEARRAY8
    0x98: lambda m: None,  # READONLY_BUFFER
    0x5D: lambda m: m.push([]),
    0x7D: lambda m: m.push({}),
    0x29: lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    0x74: lambda m: m.push(tuple(m.to_mark())),
    0x61: lambda m: m.extend([m.pop()]),  # APPEND
    0x65: lambda m: m.extend(m.to_mark()),
    0x73: lambda m: m.set_item(),
    0x75: lambda m: m.set_items(m.to_mark()),
    0x71: lambda m: m.put(m.number("<B")),  # BINPUT
    0x72: lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),  # MEMOIZE
    0x68: lambda m: m.get(m.number("<B")),
    0x6A: lambda m: m.get(m.number("<I")),
    0x63: lambda m: m.known(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.stack_global(),
    0x52: lambda m: m.reduce(),
    0x62: lambda m: m.build(),
}
"""Opcode → its effect."""


def load_arrays(file: BinaryIO, size: int) -> Any:
    """The value of a pickle: dictionaries (with str or int keys), lists and tuples of arrays, numbers and texts.

    ``file``: it is read from its position on. ``size``: the number of bytes from there to its end. Raises
    :class:`PickleError` for anything else, and ``OSError``.
    """
    try:
        return _plain(_Machine(file, size, size).run(), 0, [MAX_OPCODES])
    except (struct.error, UnicodeError, OverflowError) as error:
        raise PickleError(f"is damaged ({error})") from error


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """The value without the classes of this module. ``left``: how many values may still come."""
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise PickleError("is nested too deeply, or refers to itself")
    if isinstance(value, _Array):
        value = value.value
        if isinstance(value, list) and len(value) == 1:  # an array of one object
            value = value[0]
        return _plain(value, depth + 1, left) if isinstance(value, list | dict | tuple | _Array) else value
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, left) for item in value]
    if isinstance(value, memoryview):
        return bytes(value[:MAX_NAME]).decode("latin-1")
    if value is None or isinstance(value, int | float | str | np.ndarray | np.generic):
        return value
    raise PickleError("holds something else than arrays")
