"""Tars, compressed or not, read from front to back by a strict reader.

The format is that of POSIX.1-2024, chapter *pax* (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html),
with the additions of GNU tar (https://www.gnu.org/software/tar/manual/html_node/Standard.html). Python's ``tarfile`` is
not used: an unreadable header ends its listing silently, offsets that do not increase make it read without end, and
other malformed fields raise many kinds of exceptions.

Each block is read once, so the position only increases. Each number is checked, and a member has at most one header
extension of each kind. Data of a tar has no checksum; gzip, bzip2 and xz have one. Sparse files (``tar --sparse``) are
ignored, with a note that names them.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from alexnet.data.sources.archives import ArchiveFormat, FormatError, Member, damaged

BLOCK = 512
CHUNK = 1 << 16
EXTENSION_LIMIT = 1 << 20
"""Bytes of the largest header extension (e.g. a long name), which is read into memory."""
XZ_MEMORY = 256 << 20
"""Bytes that the decompression of xz may use: the largest preset, ``xz -9``, needs 65 MiB."""
END_LIMIT = 1 << 20
"""Bytes that are read after the end of a tar: writers pad it with zeros to a multiple of 10 KiB."""

SPECIAL = "link or special file in a tar"
SPARSE = "sparse file in a tar (pack it again without --sparse)"
LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX, SOLARIS_PAX, GNU_SPARSE = b"L", b"K", b"x", b"g", b"X", b"S"
_EXTENSIONS = (LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX, SOLARIS_PAX)
_FILES = (b"0", b"\0", b"7")
_FOLDER = b"5"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: their size means nothing
_SIZE, _CHECKSUM = slice(124, 136), slice(148, 156)
_OTHER_NUMBERS = (slice(100, 108), slice(108, 116), slice(116, 124), slice(136, 148))  # mode, uid, gid, mtime
_DEVICE_NUMBERS = (slice(329, 337), slice(337, 345))
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")


_DAMAGE = (FormatError, OSError, EOFError, zlib.error, lzma.LZMAError)  # the exceptions of decompressors


class _Stream:
    """Blocks of a tar in their order. In a tar that is not compressed, skipped blocks are not read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file: io.BufferedReader | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self.position = 0
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            self._chunks = _chunks_of(gzip.GzipFile(fileobj=file))
        elif start.startswith(b"BZh"):
            self._chunks = _decompress(file, bz2.BZ2Decompressor)
        elif start.startswith((b"\xfd7zXZ\0", b"]\0\0")):
            self._chunks = _decompress(file, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY))
        else:
            self._file = file
            self._size = file.seek(0, io.SEEK_END)
            file.seek(0)

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer only at the end."""
        if self._file is not None:
            data = self._file.read(count)
            self.position += len(data)
            return data
        parts = []
        while count:
            if not self._rest:
                if not (chunk := next(self._chunks, b"")):
                    break
                self._rest = memoryview(chunk)
            parts.append(self._rest[:count])
            self._rest = self._rest[count:]
            count -= len(parts[-1])
            self.position += len(parts[-1])
        return b"".join(parts)

    def exactly(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises ``FormatError`` if there are fewer."""
        data = self.read(count)
        if len(data) < count:
            raise FormatError("unexpected end of the file")
        return data

    def skip(self, count: int) -> None:
        """Skip ``count`` bytes. Raises ``FormatError`` if there are fewer."""
        if self._file is not None:
            self.position += count
            if self.position > self._size:
                raise FormatError("unexpected end of the file")
            self._file.seek(self.position)
            return
        while count:
            count -= len(self.exactly(min(count, CHUNK)))


def _chunks_of(file: gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _decompress(
    file: io.BufferedReader, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    """The decompressed chunks of a file of one or more streams, as ``bzip2`` and ``xz`` write them."""
    pending = file.read(CHUNK)
    while pending:
        decompressor = new()
        while not decompressor.eof:
            if decompressor.needs_input and not pending and not (pending := file.read(CHUNK)):
                raise EOFError("unexpected end of the file")
            chunk = decompressor.decompress(pending, CHUNK)
            pending = b""
            if chunk:
                yield chunk
        pending = (decompressor.unused_data or file.read(CHUNK)).lstrip(b"\0")  # zeros may follow a stream of xz


@dataclass(frozen=True)
class _Header:
    name: bytes
    kind: bytes
    size: int
    sparse_more: bool  # whether blocks with the rest of a sparse file's map follow


@dataclass
class _Extension:
    """The contents of the header extensions before a member."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False
    kinds: set[bytes] = field(default_factory=set)


def is_tar(file: io.BufferedReader) -> bool:
    """Whether a file begins like a tar, compressed or not: with a header, or with the zeros of an empty tar."""
    try:
        block = _Stream(file).exactly(BLOCK)
        return not any(block) or bool(_header(block).name)
    except _DAMAGE as error:
        if is_disk_fault(error):
            raise
        return False


def tar_members(path: Path, file: io.BufferedReader) -> Iterator[Member]:
    """The members of a tar in order, see :class:`~alexnet.data.sources.archives.ArchiveFormat`."""
    where = "at its start"
    with contextlib.closing(_members(_Stream(file))) as found:
        while True:
            with _refusing(path, where):
                member = next(found, None)
            if member is None:
                return
            where = f"after the header of {member.name}"
            yield replace(member, read=functools.partial(_read, path, member))


def _read(path: Path, member: Member) -> bytes:
    with _refusing(path, f"in {member.name}"):
        return member.read()


@contextlib.contextmanager
def _refusing(path: Path, where: str) -> Iterator[None]:
    """Turn each exception of a damaged tar into ``UserError``; ``where``: the place, for the message."""
    try:
        yield
    except _DAMAGE as error:
        if is_disk_fault(error):
            raise
        raise damaged(path, "tar", f"{error}, {where}") from error


def is_disk_fault(error: BaseException) -> bool:
    """Whether an ``OSError`` is one of the system; ``gzip`` and ``bz2`` raise those without a number for damage."""
    return isinstance(error, OSError) and error.errno is not None


def _members(stream: _Stream) -> Generator[Member, None, None]:
    extension = _Extension()
    while any(block := stream.exactly(BLOCK)):
        header = _header(block)
        if header.kind in _EXTENSIONS:
            _extend(extension, header, stream)
            continue
        member, size = _member(stream, header, extension)
        start = stream.position
        yield member
        stream.skip(start + size + -size % BLOCK - stream.position)
        extension = _Extension()
    if extension.kinds:
        raise FormatError("a header extension without a member")
    rest = stream.read(END_LIMIT)  # also compares the checksum of a compressed tar, which is at its end
    if any(rest):
        raise FormatError("data after a block of zeros, which ends a tar")


def _member(stream: _Stream, header: _Header, extension: _Extension) -> tuple[Member, int]:
    """The member after a header, and the number of bytes that follow the header in the tar."""
    size = header.size if extension.size is None else extension.size
    name = header.name if extension.name is None else extension.name
    more = header.sparse_more
    while more:
        more = stream.exactly(BLOCK)[504] != 0
    if header.kind == GNU_SPARSE or extension.sparse:
        kind = SPARSE
    elif header.kind == _FOLDER or (header.kind in _FILES and name.endswith(b"/")):
        kind = "folder"
    else:
        kind = "file" if header.kind in _FILES else SPECIAL
    if header.kind in _WITHOUT_DATA:
        size = 0
    elif kind == "folder" and size:
        raise FormatError("a folder with data")
    return Member(name.decode("utf-8", "surrogateescape"), kind, size, lambda: stream.exactly(size)), size


def _header(block: bytes) -> _Header:
    """The header in a block. Raises ``FormatError`` if a number or the checksum is wrong."""
    total = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    negative = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[_CHECKSUM])
    if _number(block[_CHECKSUM]) not in (total, total - 256 * negative):  # old writers added signed bytes
        raise FormatError("a header with a wrong checksum")
    posix, gnu = block[257:263] == b"ustar\0", block[257:263] == b"ustar "
    for place in (*_OTHER_NUMBERS, *(_DEVICE_NUMBERS if posix or gnu else ())):
        _number(block[place])
    if (size := _number(block[_SIZE])) < 0:
        raise FormatError(f"a size of {size:,} bytes")
    name = _text(block[:100])
    if posix and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    kind = block[156:157]
    return _Header(name, kind, size, kind == GNU_SPARSE and block[482] != 0)


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _number(data: bytes) -> int:
    """A field of a header: octal digits, or binary after a byte 0x80 (0xff: negative), as GNU tar writes large ones."""
    if data[0] in (0x80, 0xFF):
        return int.from_bytes(data[1:], "big") - (256 ** (len(data) - 1) if data[0] == 0xFF else 0)
    digits = _text(data).strip(b" ")
    if digits.strip(b"01234567"):
        raise FormatError(f"the number {digits!r} in a header")
    return int(digits or b"0", 8)


def _extend(extension: _Extension, header: _Header, stream: _Stream) -> None:
    """Read a header extension. Raises ``FormatError`` if it is malformed, or a second one for the same member."""
    if header.size > EXTENSION_LIMIT:
        raise FormatError(f"a header extension of {header.size:,} bytes")
    data = stream.exactly(header.size)
    stream.skip(-header.size % BLOCK)
    if header.kind == GLOBAL_PAX:
        if any(key in (b"path", b"size") or key.startswith(b"GNU.sparse.") for key, _ in _pax_records(data)):
            raise FormatError("a header that gives all members one name or size")
        return
    if header.kind in extension.kinds:
        raise FormatError("two header extensions of one kind before a member")
    extension.kinds.add(header.kind)
    if header.kind == LONG_NAME:
        _set_name(extension, _text(data))
    elif header.kind in (PAX, SOLARIS_PAX):
        _apply_pax(extension, dict(_pax_records(data)))


def _apply_pax(extension: _Extension, records: dict[bytes, bytes]) -> None:
    if size := records.get(b"size"):
        if not size.isdigit() or len(size) > 19:
            raise FormatError(f"a size of {size[:40]!r}")
        extension.size = int(size)
    extension.sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    if name := records.get(b"GNU.sparse.name") or records.get(b"path"):
        _set_name(extension, name)


def _set_name(extension: _Extension, name: bytes) -> None:
    if extension.name is not None:
        raise FormatError("two long names for one member")
    extension.name = name


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    r"""Keys and values of records "LENGTH KEY=VALUE\n"; the length counts the whole record."""
    position = 0
    while position < len(data):
        length = _PAX_LENGTH.match(data, position)
        record = data[length.end() : position + int(length[1])] if length else b""
        key, equals, value = record[:-1].partition(b"=")
        if length is None or position + int(length[1]) > len(data) or record[-1:] != b"\n" or not (key and equals):
            raise FormatError("a malformed header extension")
        yield key, value
        position += int(length[1])


TAR = ArchiveFormat("tar", re.compile(r"\.(tar(\.\w+)?|t[gbx]z2?)$", re.IGNORECASE), tar_members)
