"""Zips, read through their list of members by a strict reader.

The format is PKWARE's APPNOTE 6.3.10 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT). A zip describes
each member twice: in the central directory at its end, and in a local header before its data. If they differ, two
programs read different files from one zip. Here both must agree. Two members may not share bytes, so a zip cannot
unpack to more than about a thousand times its size. The bytes of each member are compared with their length and their
CRC-32. A member that fails is ignored, with a note that names it.

Python's ``zipfile`` is not used: it keeps the whole list in memory, its checks differ from version to version, and one
malformed entry ends the reading of all. Members are stored or deflated, as nearly all zips have them; others, and
encrypted ones, are ignored, with a note that names them.
"""

from __future__ import annotations

import functools
import io
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alexnet.data.sources.archives import (
    MEMBER_LIMIT,
    ArchiveFormat,
    DamagedMemberError,
    FormatError,
    Member,
    damaged,
)

COMMENT_LIMIT = (1 << 16) - 1
LIST_LIMIT = 1 << 30
"""Bytes of the largest central directory, ten times that of ImageNet. Only 8 bytes for each member are kept."""

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _END64_LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_LOCAL_FIELDS = struct.Struct("<4s2xHH4xLLLHH")  # flags, method, crc, packed, size, name and extra lengths
_CENTRAL_FIELDS = struct.Struct("<4sxB2xHH4xLLLHHHH2xLL")
_END_FIELDS = struct.Struct("<4sHHHHLLH")
_END64_FIELDS = struct.Struct("<4sQ4xLLQQQQ")
_LOCATOR_FIELDS = struct.Struct("<4sLQL")
_16, _32 = 0xFFFF, 0xFFFFFFFF  # stand for numbers that are in the ZIP64 fields
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_SIZES_FOLLOW = 1 << 3  # length and CRC are behind the data, and may be absent from the local header
_UTF8 = 1 << 11
_ZIP64 = 1
_STORED, _DEFLATED = 0, 8
_UNIX, _MACOS = 3, 19
_BACKSLASH_SYSTEMS = (0, 10, 11)  # MS-DOS and Windows
_DRIVE = re.compile(r"[A-Za-z]:")
SPECIAL = "link or special file in a zip"
SLACK = 1 << 20
"""Bytes by which packed data may be larger than the file."""


class _End(NamedTuple):
    """What the end of a zip says: the number of members, and where their list is."""

    members: int
    size: int
    start: int


@dataclass(frozen=True)
class _Entry:
    """An entry of the central directory."""

    name: bytes
    system: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int
    fault: str = ""  # why it cannot be used


def is_zip(file: io.BufferedReader) -> bool:
    """Whether a file begins like a zip: with a member, or with the end of an empty one."""
    return file.read(4) in (_LOCAL, _END)


@dataclass(frozen=True)
class StoredMember:
    """A member that is stored as it is: its name, and the position, length and CRC-32 of its bytes in the file."""

    name: str
    begin: int
    size: int
    crc: int


def member_names(file: io.BufferedReader, limit: int) -> list[str]:
    """The names of a zip's members. Raises ``FormatError`` if there are more than ``limit``, and ``OSError``."""
    return [_name(entry) for entry in _entries(file, _limited_end(file, limit))]


def stored_members(file: io.BufferedReader, limit: int) -> list[StoredMember]:
    """The members of a zip that holds at most ``limit`` files, all stored; their bytes are not read.

    Raises ``FormatError`` for any other zip, with the reason, and ``OSError``.
    """
    end = _limited_end(file, limit)
    entries = list(_entries(file, end))
    starts = np.sort(np.array([entry.offset for entry in entries], np.uint64))
    members = []
    for entry in entries:
        kind, begin = _locate(file, entry, starts, end.start)
        if kind != "file" or entry.flags & _ENCRYPTED:
            raise FormatError(f"{_name(entry)} is a {kind if kind != 'file' else 'file that is encrypted'}")
        if entry.method != _STORED or entry.size != entry.packed:
            raise FormatError(f"{_name(entry)} is compressed")
        members.append(StoredMember(_name(entry), begin, entry.size, entry.crc))
    return members


def zip_members(path: Path, file: io.BufferedReader) -> Iterator[Member]:
    """The members of a zip in order, see :class:`~alexnet.data.sources.archives.ArchiveFormat`."""
    name = ""
    try:
        end = _find_end(file)
        starts = np.sort(np.fromiter((entry.offset for entry in _entries(file, end)), np.uint64, end.members))
        for entry in _entries(file, end):
            member = _member(file, entry, starts, end.start)
            name = member.name
            yield member
    except FormatError as error:
        raise damaged(path, "zip", f"{error}, after {name}" if name else str(error)) from error


def _limited_end(file: io.BufferedReader, limit: int) -> _End:
    """The end of a zip. Raises ``FormatError`` if it states more than ``limit`` members."""
    end = _find_end(file)
    if end.members > limit:
        raise FormatError(f"it has {end.members:,} members, more than {limit:,}")
    return end


def _find_end(file: io.BufferedReader) -> _End:
    """Read the end of a zip. Raises ``FormatError`` if it is missing or contradicts the length of the file."""
    length = file.seek(0, io.SEEK_END)
    begin = max(0, length - _END_FIELDS.size - COMMENT_LIMIT)
    tail = _at(file, begin, length - begin)
    place = tail.rfind(_END)
    while place >= 0:
        if place + _END_FIELDS.size <= len(tail):
            _, *disks, here, count, size, start, comment = _END_FIELDS.unpack_from(tail, place)
            if place + _END_FIELDS.size + comment == len(tail):
                break
        place = tail.rfind(_END, 0, place)
    else:
        raise FormatError("its end, with the list of its members, is missing")
    at = begin + place
    if at >= _LOCATOR_FIELDS.size and _at(file, at - _LOCATOR_FIELDS.size, 4) == _END64_LOCATOR:
        small = (here, count, size, start)
        at, disks, here, count, size, start = _find_end64(file, at)
        for number, wide, absent in zip(small, (here, count, size, start), (_16, _16, _32, _32), strict=True):
            if number not in (wide, absent):
                raise FormatError("its two ends differ")
    if any(disks) or here != count:
        raise FormatError("it is one of several parts")
    if start + size != at or size < count * _CENTRAL_FIELDS.size:
        raise FormatError("the list of its members is not where its end states")
    if size > LIST_LIMIT:
        raise FormatError(f"the list of its members has {size:,} bytes")
    return _End(count, size, start)


def _find_end64(file: io.BufferedReader, at: int) -> tuple[int, list[int], int, int, int, int]:
    """The position of the ZIP64 end, and its fields. ``at``: the position of the other end."""
    _, disk, place, disks = _LOCATOR_FIELDS.unpack(_at(file, at - _LOCATOR_FIELDS.size, _LOCATOR_FIELDS.size))
    found, length, one, two, here, count, size, start = _END64_FIELDS.unpack(_at(file, place, _END64_FIELDS.size))
    if found != _END64 or place + 12 + length != at - _LOCATOR_FIELDS.size:
        raise FormatError("its ZIP64 end is malformed")
    return place, [disk, disks - 1 if disks else 0, one, two], here, count, size, start


def _at(file: io.BufferedReader, position: int, count: int) -> bytes:
    """``count`` bytes from ``position``. Raises ``FormatError`` if there are fewer."""
    if position < 0 or position >= 1 << 63:
        raise FormatError(f"a position of {position:,}")
    file.seek(position)
    data = file.read(count)
    if len(data) < count:
        raise FormatError("unexpected end of the file")
    return data


def _entries(file: io.BufferedReader, end: _End) -> Iterator[_Entry]:
    """The entries of the central directory, in order. Raises ``FormatError`` if they do not fill it exactly."""
    position = end.start
    for _ in range(end.members):
        fields = _at(file, position, _CENTRAL_FIELDS.size)
        signature, system, flags, method, crc, packed, size, *lengths, mode, offset = _CENTRAL_FIELDS.unpack(fields)
        if signature != _CENTRAL or position + _CENTRAL_FIELDS.size + sum(lengths[:3]) > end.start + end.size:
            raise FormatError("a malformed entry in the list of its members")
        rest = _at(file, position + _CENTRAL_FIELDS.size, sum(lengths[:3]))
        position += _CENTRAL_FIELDS.size + len(rest)
        name, extra = rest[: lengths[0]], rest[lengths[0] : lengths[0] + lengths[1]]
        (size, packed, offset), fault = _zip64(extra, (size, packed, offset))
        fault = fault or ("is in another part of a zip of several" if lengths[3] else "")
        yield _Entry(name, system, flags, method, crc, packed, size, mode >> 16, offset, fault)
    if position != end.start + end.size:
        raise FormatError("the list of its members is longer than its entries")


def _zip64(extra: bytes, numbers: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The numbers with those that ZIP64 stores in the extra field in place of 0xffffffff; and a fault, or ""."""
    position, wide = 0, b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4 + length
        if position > len(extra):
            return numbers, "has a malformed extra field"
        if kind == _ZIP64:
            wide = extra[position - length : position]
    found = []
    for number in numbers:
        if number == _32:
            if len(wide) < 8:
                return numbers, "lacks its ZIP64 length"
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(number)
    return tuple(found), ""


def _member(file: io.BufferedReader, entry: _Entry, starts: NDArray[np.uint64], limit: int) -> Member:
    """The member of an entry. ``starts``: the sorted positions of all members; ``limit``: that of the list."""
    name = _name(entry)
    mode = stat.S_IFMT(entry.mode) if entry.system in (_UNIX, _MACOS) else 0
    begin = 0
    if name.endswith("/") or stat.S_ISDIR(mode):
        kind = "folder with data in a zip" if entry.size else "folder"
    elif mode and not stat.S_ISREG(mode):
        kind = SPECIAL
    elif entry.flags & _ENCRYPTED:
        kind = "encrypted file in a zip"
    elif entry.method not in (_STORED, _DEFLATED):
        kind = "file in a zip that is neither stored nor deflated (pack it again)"
    else:
        kind, begin = _locate(file, entry, starts, limit)
    return Member(name, kind, entry.size, functools.partial(_read, file, entry, begin))


def _name(entry: _Entry) -> str:
    """The name of an entry: UTF-8, or else code page 437, in which every sequence of bytes is a text."""
    try:
        name = entry.name.decode("utf-8")  # also without its flag: macOS does not set it
    except UnicodeDecodeError:
        name = entry.name.decode("utf-8" if entry.flags & _UTF8 else "cp437", "surrogateescape")
    if entry.system in _BACKSLASH_SYSTEMS:
        name = name.replace("\\", "/")
    return f"/{name}" if _DRIVE.match(name) else name  # a path of Windows that is absolute


def _locate(file: io.BufferedReader, entry: _Entry, starts: NDArray[np.uint64], limit: int) -> tuple[str, int]:
    """The kind "file" and the position of its data; or why the member is ignored, and 0."""
    if entry.fault:
        return f"file in a zip that {entry.fault}", 0
    try:
        fields = _at(file, entry.offset, _LOCAL_FIELDS.size)
        signature, flags, method, crc, packed, size, *lengths = _LOCAL_FIELDS.unpack(fields)
        rest = _at(file, entry.offset + _LOCAL_FIELDS.size, sum(lengths))
    except FormatError as error:
        return f"file in a zip without a header ({error})", 0
    (size, packed), fault = _zip64(rest[lengths[0] :], (size, packed))
    same = (crc, packed, size) == (entry.crc, entry.packed, entry.size) and not fault
    if (
        (signature, method, rest[: lengths[0]]) != (_LOCAL, entry.method, entry.name)
        or flags & _ENCRYPTED
        or not (same or flags & _SIZES_FOLLOW)
    ):
        return "file in a zip whose two headers differ", 0
    begin = entry.offset + _LOCAL_FIELDS.size + sum(lengths)
    first, last = (int(np.searchsorted(starts, np.uint64(entry.offset), side)) for side in ("left", "right"))
    following = int(starts[last]) if last < len(starts) else limit
    if last - first > 1 or begin + entry.packed > min(following, limit):
        return "file in a zip that shares bytes with another", 0
    return "file", begin


def _read(file: io.BufferedReader, entry: _Entry, begin: int) -> bytes:
    if entry.packed > MEMBER_LIMIT + SLACK:
        raise DamagedMemberError(f"is packed into {entry.packed:,} bytes")
    try:
        data = _at(file, begin, entry.packed)
        if entry.method == _DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            data = unpacker.decompress(data, entry.size + 1)
            if not unpacker.eof or unpacker.unused_data:
                raise DamagedMemberError("does not unpack to the length in its header")
    except (FormatError, zlib.error) as error:
        raise DamagedMemberError(f"cannot be unpacked ({error})") from error
    if len(data) != entry.size:
        raise DamagedMemberError("does not unpack to the length in its header")
    if zlib.crc32(data) != entry.crc:
        raise DamagedMemberError("is damaged (its CRC-32 differs)")
    return data


ZIP = ArchiveFormat("zip", re.compile(r"\.zip$", re.IGNORECASE), zip_members)
