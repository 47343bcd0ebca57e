"""The pickle inside a file of ``torch.save``, read without unpickling: nothing in it is imported or called.

A pickle is a program for a stack machine. Python's ``pickletools`` decodes its instructions, and this module carries
out those that build containers, texts and numbers. A tensor is a call of a function of torch with the key of a storage,
an offset, a shape and strides. Such a call becomes a :class:`StoredTensor`; it is checked against the size of its
storage, and nothing is allocated for it. Any other class or function is refused by its name.

``torch.load(weights_only=True)`` has a similar list, but it allocates what a file claims (a legacy file's storages,
``bytearray(n)``), and it accepts a tensor of 2^40 elements with stride 0 on a storage of 16 bytes, which the first copy
would expand. Its protocol is described in torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from alexnet.core.names import printable

MAX_INSTRUCTIONS: Final = 300_000
"""The most instructions of a pickle: a training checkpoint of an AlexNet has about 2,000, and each costs memory."""
MAX_DIMENSIONS: Final = 8
MAX_ARGUMENTS: Final = 16

STORAGES: Final[Mapping[str, torch.dtype]] = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
HARMLESS: Final = frozenset({
    "collections.Counter", "collections.defaultdict", "builtins.set", "__builtin__.set", "builtins.dict",
    "builtins.complex", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "_codecs.encode",
    *(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in STORAGES.values()),
})  # fmt: skip
"""Names that checkpoints hold beside the weights: their values are skipped."""
ORDERED_DICT: Final = "collections.OrderedDict"
DAMAGE: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)


class RefusedObjectError(ValueError):
    """The pickle holds an object of another class than those of a state dict; ``name``: the class or function."""

    def __init__(self, name: str) -> None:
        self.name = printable(name[:100])
        super().__init__(self.name)


@dataclass(frozen=True)
class Storage:
    """A block of numbers in the file: its key, the type and the count of its elements."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the file: where it lies in its storage, in elements. It never has more elements than the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Skipped:
    """A value that is none of those that are read."""


@dataclass(frozen=True)
class _Global:
    name: str


def read_pickle(data: io.BytesIO) -> Any:
    """The value of the pickle that begins at the position of ``data``, which is left behind its end.

    Containers, texts and numbers are Python's own, an ``OrderedDict`` is a dict, a tensor is a :class:`StoredTensor`.
    Raises :class:`RefusedObjectError`, and one of ``DAMAGE`` for a pickle that is damaged.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count >= MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS:,} objects")
        if opcode.name == "STOP":
            break
        machine.run(opcode.name, argument)
    return machine.pop()


class _Machine:
    """The stack machine of ``pickle`` (Python's ``pickletools`` documents each instruction)."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # pairs copied from lists, which the memo could repeat without end

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def run(self, name: str, argument: Any) -> None:
        """Carry out one instruction. Raises ``KeyError`` for one that no state dict needs."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name not in _IGNORED:
            _INSTRUCTIONS[name](self, argument)

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def push_from_mark(self, make: Callable[[list[Any]], Any]) -> None:
        items = self.pop_to_mark()
        self.stack.append(make(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Skipped):
            raise TypeError("items for no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            _set_items(target, items)
        elif not isinstance(target, Skipped):
            raise TypeError("items for no dictionary")

    def global_name(self, argument: str) -> None:
        self.stack.append(_known_global(argument.replace(" ", ".", 1)))

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_known_global(f"{module}.{name}"))

    def persistent_id(self, _: Any) -> None:
        self.stack.append(_storage(self.pop()))

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise TypeError("a call of no function")
        if function.name == ORDERED_DICT:
            self.stack.append(self.ordered_dict(*arguments))
        else:
            call: Callable[..., Any] = _FUNCTIONS.get(function.name, _skip)
            self.stack.append(call(*arguments))

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """``OrderedDict()`` or, as Python 2 wrote it, ``OrderedDict([[key, value], …])``."""
        self.copied += len(pairs)
        if self.copied > MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS:,} objects")
        return _set_items({}, [item for key, value in pairs for item in (key, value)])

    def build(self, _: Any) -> None:
        self.pop()  # attributes, such as the versions of modules in an OrderedDict
        if not self.stack:
            raise IndexError("attributes of nothing")


def _set_items(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | float | None) and not (isinstance(key, int) and abs(key) < 1 << 63):
            raise TypeError("a key that is no text and no number")
        target[key] = value
    return target


def _known_global(name: str) -> _Global:
    if name != ORDERED_DICT and name not in _FUNCTIONS and name not in STORAGES and name not in HARMLESS:
        raise RefusedObjectError(name)
    return _Global(name)


def _storage(identity: Any) -> Storage:
    """The storage that a persistent id names: ("storage", type, key, device, number of elements[, view])."""
    if not isinstance(identity, tuple) or len(identity) > MAX_ARGUMENTS:
        raise TypeError("a storage of an unknown kind")
    kind, storage_type, key, _, numel, *view = identity
    if kind == "module":
        raise RefusedObjectError(getattr(storage_type, "name", "a module"))
    if kind != "storage" or not isinstance(storage_type, _Global) or any(part is not None for part in view):
        raise ValueError("a storage of an unknown kind")
    if not isinstance(key, str) or not _is_size(numel):
        raise ValueError("a storage without key or size")
    return Storage(key, STORAGES[storage_type.name], numel)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise TypeError("a tensor without storage or shape")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, (offset, *shape, *stride))):
        raise ValueError("a tensor with an impossible shape")
    elements = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if elements else 0
    if elements > storage.numel or last >= max(1, storage.numel):
        raise ValueError(f"a tensor of {elements:,} elements in a storage of {storage.numel:,}")
    return StoredTensor(storage, offset if elements else 0, shape, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(shape: Any = (), *_: Any) -> Any:
    return shape


def _skip(*_: Any) -> Skipped:
    return Skipped()


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
}
_VALUES: Final = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
})  # fmt: skip
_CONSTANTS: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": Skipped,
}
_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_INSTRUCTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.push_from_mark(tuple),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.push_from_mark(list),
    "FROZENSET": lambda machine, _: machine.push_from_mark(_skip),
    "DICT": lambda machine, _: machine.push_from_mark(lambda items: _set_items({}, items)),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
}
