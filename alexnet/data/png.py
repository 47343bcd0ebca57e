"""PNG files: whether one is whole, and what Pillow misses in it.

Pillow decodes a PNG whose compressed data hold fewer rows than its header promises and leaves the missing rows black
without a word; other decoders have crashed on such files. So the structure is walked here first: every chunk inside
the file, an end mark, and one unbroken run of IDAT chunks that inflates to exactly the bytes which the header implies
(PNG specification, third edition, W3C 2025: sections 5.6, 7.2, 8.1 and 10). The bytes are counted and dropped, a block
at a time, so that no file costs more memory than a block, or more time than the picture that it claims to be.

A zlib stream ends in a checksum of what it holds, and inflating verifies it: a flipped bit among the pixels is found.
The checksums of the IDAT chunks are not looked at, since they would add nothing to that.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_BLOCK = 65536  # bytes read, and bytes inflated, at a time
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour type: bits per sample
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type: samples per pixel
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, dx, dy


def fault(data: bytes) -> str | None:
    """What keeps a PNG from being whole, as the predicate of a sentence about it; ``None`` if nothing does."""
    wanted = _inflated_size(data)
    if wanted is None:
        return "has an unreadable PNG header"
    spans: list[tuple[int, int]] = []
    has_palette, last = False, b""
    for name, start, stop in _chunks(data):
        if name == b"IDAT" and (last == b"IDAT" or not spans):  # decoders, too, read the first run only
            spans.append((start, stop))
        elif name == b"fcTL" and not spans and data[start + 4 : start + 12] != data[16:24]:
            return "is an animation whose first frame is not the whole picture"
        has_palette |= name == b"PLTE" and not spans
        last = name
    if last != b"IEND":
        return "is truncated (no PNG end mark)"
    if data[25] == 3 and not has_palette:
        return "has a palette image without a palette"
    return _inflation_fault(data, spans, wanted)


def exif(data: bytes) -> bytes:
    """The EXIF block of a PNG, wherever it stands (Pillow sees it before the pixels only); empty if there is none."""
    return next((data[start:stop] for name, start, stop in _chunks(data) if name == b"eXIf"), b"")


def scaled_key(data: bytes, key: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """A transparent grey or colour in the scale of Pillow's pixels, which it gives in that of the file's samples."""
    depth = data[24]
    if isinstance(key, tuple):
        return tuple(sample >> 8 for sample in key) if depth == 16 else key
    return key * (255 // (2**depth - 1)) if depth in (2, 4) else key  # 1 bit: scaled already; 16 bits: so are pixels


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stop of the contents of each chunk that lies wholly inside the file, up to the end mark."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start, stop = at + 8, at + 8 + length
        if stop + 4 > len(data):
            return
        yield name, start, stop
        if name == b"IEND":
            return
        at = stop + 4


def _inflated_size(data: bytes) -> int | None:
    """How many bytes the pixels take, filter bytes included; ``None`` for a header outside the specification."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\x0dIHDR":
        return None
    width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1 or not width or not height:
        return None
    total = 0
    for x, y, dx, dy in _ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        if columns:  # a pass without columns has no filter bytes either
            total += rows * (1 + (columns * _SAMPLES[colour] * depth + 7) // 8)
    return total


def _inflation_fault(data: bytes, spans: list[tuple[int, int]], wanted: int) -> str | None:
    engine = zlib.decompressobj()
    got = 0
    try:
        for block in _blocks(data, spans):
            while block and not engine.eof:
                got += len(engine.decompress(block, _BLOCK))
                if got > wanted:
                    return "has more pixel data than its PNG header says"
                block = engine.unconsumed_tail
    except zlib.error as error:
        return f"has corrupt PNG pixel data ({error})"
    if not engine.eof:
        return "is truncated (its PNG pixel data stop early)"
    return "has less pixel data than its PNG header says" if got < wanted else None


def _blocks(data: bytes, spans: list[tuple[int, int]]) -> Iterator[bytes]:
    # zlib hands back what it has not read yet as a copy, which is cheap only if the blocks are small
    for start, stop in spans:
        for at in range(start, stop, _BLOCK):
            yield data[at : min(at + _BLOCK, stop)]
