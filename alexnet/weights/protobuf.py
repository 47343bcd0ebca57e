"""Messages of protocol buffers, read and written without a description of them: Caffe's and ONNX's files are such.

A message is a sequence of fields. A field is a number, a wire type and a value: an integer of variable length (0),
eight bytes (1), a length and that many bytes (2: texts, bytes, messages and packed lists), or four bytes (5). What a
number means depends on the message, which the caller knows. Source: protobuf.dev, "Encoding".

Values are views of the given bytes: reading copies nothing. Every malformed input is a ``ValueError``. A length is
compared with the bytes that follow before it is used, and the number of fields in a message is limited.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, TypeAlias

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTHS = {FIXED64: 8, FIXED32: 4}
MAX_FIELDS = 100_000  # in one message
MAX_VARINT = 10  # bytes of a number of 64 bits
CHUNK = 65_536  # fields that are compared at a time where a list is not packed

Value: TypeAlias = int | memoryview
Field: TypeAlias = tuple[int, int, Value]
Chunks: TypeAlias = list[bytes | memoryview]
"""Parts of an encoded message, in order: large arrays are not copied into one text of bytes."""


def fields(view: memoryview, limit: int = MAX_FIELDS, *, is_head: bool = False) -> Iterator[Field]:
    """The fields ``(number, wire type, value)`` of a message, in the order of the file.

    The value is an int from 0 to 2^64 − 1 for wire type 0 (see :func:`signed`), else a view of its bytes. ``is_head``:
    ``view`` is the beginning of a message; a last field of bytes may be cut off. Raises ``ValueError`` for a message
    that is cut off or malformed, and for more than ``limit`` fields.
    """
    position = count = 0
    while position < len(view):
        found, position = _field_at(view, position, is_head=is_head)
        count += 1
        if count > limit:
            raise ValueError(f"a message has more than {limit:,} fields")
        yield found


def packed_fields(view: memoryview, limit: int = MAX_FIELDS) -> Iterator[Field]:
    """As :func:`fields`, but neighbouring fields of four or eight bytes with one number come as one packed list.

    So a list of a million floats is one field of wire type 2, whether its writer packed it or not.
    """
    position = count = 0
    while position < len(view):
        start = position
        (number, wire_type, value), position = _field_at(view, position)
        if wire_type in WIDTHS:
            step, width = position - start, WIDTHS[wire_type]
            position = _end_of_run(view, start, step, step - width)
            rows = np.frombuffer(view[start:position], np.uint8).reshape(-1, step)
            wire_type, value = BYTES, memoryview(rows[:, -width:].tobytes())
        count += 1
        if count > limit:
            raise ValueError(f"a message has more than {limit:,} fields")
        yield number, wire_type, value


def file_fields(file: BinaryIO, size: int, limit: int = MAX_FIELDS) -> Iterator[Field]:
    """The fields of a message that is a whole file of ``size`` bytes, of which one at a time is in memory.

    Raises ``ValueError`` as :func:`fields`, and ``OSError``.
    """
    position = count = 0
    while position < size:
        head = file.read(min(2 * MAX_VARINT, size - position))
        key, start = _varint_at(memoryview(head), 0)
        number, wire_type = _split_key(key)
        if wire_type == BYTES:
            length, start = _varint_at(memoryview(head), start)
        elif wire_type == VARINT:
            value, end = _varint_at(memoryview(head), start)
            length = end - start
        else:
            length = WIDTHS[wire_type]
        position += start
        if length > size - position:
            raise ValueError(f"field {number} has {length:,} bytes, but only {size - position:,} follow")
        file.seek(position)
        count += 1
        if count > limit:
            raise ValueError(f"a message has more than {limit:,} fields")
        if wire_type == VARINT:
            file.seek(position + length)
            yield number, VARINT, value
        else:
            data = file.read(length)
            if len(data) < length:
                raise ValueError("the file has become shorter")
            yield number, wire_type, memoryview(data)
            del data
        position += length


def varints(view: memoryview, limit: int = MAX_FIELDS) -> list[int]:
    """The numbers of a packed list of integers, from 0 to 2^64 − 1. Raises ``ValueError`` as :func:`fields`."""
    numbers: list[int] = []
    position = 0
    while position < len(view):
        number, position = _varint_at(view, position)
        numbers.append(number)
        if len(numbers) > limit:
            raise ValueError(f"a list has more than {limit:,} numbers")
    return numbers


def signed(number: int) -> int:
    """An int32 or int64 field's value: two's complement of 64 bits."""
    return number - (1 << 64) if number >> 63 else number


def text(view: Value) -> str:
    """The value of a text field. Raises ``ValueError`` if it is no UTF-8."""
    return str(as_bytes(view), "utf-8")  # UnicodeDecodeError is a ValueError


def as_bytes(value: Value) -> memoryview:
    """The value of a field of bytes, a text or a message. Raises ``ValueError`` for a number."""
    if isinstance(value, int):
        raise ValueError("a number is where bytes are expected")  # noqa: TRY004
    return value


def as_int(value: Value) -> int:
    """The value of an integer field. Raises ``ValueError`` for bytes."""
    if not isinstance(value, int):
        raise ValueError("bytes are where a number is expected")  # noqa: TRY004
    return value


def as_float(value: Value) -> float:
    """The value of a float field, rounded to the fewest digits that give the same fp32. Raises ``ValueError``."""
    view = as_bytes(value)
    if len(view) != WIDTHS[FIXED32]:
        raise ValueError(f"a float has {len(view)} bytes")
    return float(str(np.frombuffer(view, "<f4")[0]))


def _varint_at(view: memoryview, position: int) -> tuple[int, int]:
    """The integer at ``position``, and the position after it."""
    number = 0
    for place, byte in enumerate(view[position : position + MAX_VARINT]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if number >> 64:
                raise ValueError("an integer has more than 64 bits")
            return number, position + place + 1
    raise ValueError(
        "an integer is cut off" if position + MAX_VARINT > len(view) else "an integer has more than 10 bytes"
    )


def _split_key(key: int) -> tuple[int, int]:
    number, wire_type = key >> 3, key & 7
    if not 0 < number < 1 << 29 or wire_type not in (VARINT, FIXED64, BYTES, FIXED32):
        raise ValueError(f"there is no field with the number {number} and the wire type {wire_type}")
    return number, wire_type


def _field_at(view: memoryview, position: int, *, is_head: bool = False) -> tuple[Field, int]:
    """The field at ``position``, and the position after it."""
    key, position = _varint_at(view, position)
    number, wire_type = _split_key(key)
    if wire_type == VARINT:
        value, position = _varint_at(view, position)
        return (number, wire_type, value), position
    length = WIDTHS.get(wire_type, 0)
    if wire_type == BYTES:
        length, position = _varint_at(view, position)
        length = min(length, len(view) - position) if is_head else length
    if length > len(view) - position:
        raise ValueError(f"field {number} has {length:,} bytes, but only {len(view) - position:,} follow")
    return (number, wire_type, view[position : position + length]), position + length


def _end_of_run(view: memoryview, start: int, step: int, key_length: int) -> int:
    """The end of the fields of ``step`` bytes from ``start`` on that have the same first ``key_length`` bytes."""
    key = np.frombuffer(view[start : start + key_length], np.uint8)
    end, chunk = start + step, 16
    while (count := min(chunk, (len(view) - end) // step)) > 0:
        rows = np.frombuffer(view[end : end + count * step], np.uint8).reshape(count, step)
        same = (rows[:, :key_length] == key).all(axis=1)
        run = count if same.all() else int(same.argmin())
        end += run * step
        if run < count:
            break
        chunk = min(2 * chunk, CHUNK)
    return end


def varint(number: int) -> bytes:
    """An integer of variable length. ``number``: from −2^63 to 2^64 − 1."""
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number: int, value: int | float | str | bytes | memoryview | Chunks) -> Chunks:
    """An encoded field: an int as wire type 0, a float as fp32, anything else as bytes with their length.

    ``value``: ``Chunks`` are a message, as this function and :func:`message` give it.
    """
    if isinstance(value, int):
        return [varint(number << 3 | VARINT) + varint(value)]
    if isinstance(value, float):
        return [varint(number << 3 | FIXED32) + struct.pack("<f", value)]
    chunks: Chunks = [value.encode()] if isinstance(value, str) else value if isinstance(value, list) else [value]
    length = sum(memoryview(chunk).nbytes for chunk in chunks)
    return [varint(number << 3 | BYTES) + varint(length), *chunks]


def message(parts: Iterable[Chunks]) -> Chunks:
    """Encoded fields as one message."""
    return [chunk for part in parts for chunk in part]


def packed_varints(numbers: Sequence[int]) -> bytes:
    """A packed list of integers."""
    return b"".join(map(varint, numbers))
