"""PNG files: whether a file is complete, and metadata that Pillow does not read.

Pillow decodes a PNG whose compressed data hold fewer rows than the header states: the missing rows are black and there
is no error. Other decoders have crashed on such files. So the structure is checked here first: every chunk is inside
the file, there is an end mark, and one unbroken sequence of IDAT chunks inflates to exactly the number of bytes that
follows from the header (PNG specification, third edition, W3C 2025: sections 5.6, 7.2, 8.1 and 10). The bytes are
counted block by block and dropped, so a file needs no more memory than a block, and no more time than its image.

A zlib stream ends with a checksum of its content, and inflating verifies it: a flipped bit in the pixels is found. The
checksums of the IDAT chunks are not verified, because they would add nothing to that.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

MAX_CHUNKS = 100_000  # Pillow parses about a hundred thousand a second
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


def chunks_fault(data: bytes) -> str | None:
    """Why a PNG is refused before Pillow parses it, as the predicate of a sentence; None if it is not."""
    more = next(itertools.islice(_chunks(data), MAX_CHUNKS, None), None)
    return f"has more than {MAX_CHUNKS:,} PNG chunks" if more else None


def fault(data: bytes) -> str | None:
    """Why a PNG is refused, as the predicate of a sentence: "is truncated (no PNG end mark)"; ``None`` if it is not."""
    wanted = _inflated_size(data)
    if wanted is None:
        return "has an unreadable PNG header"
    spans: list[tuple[int, int]] = []
    has_palette, last = False, b""
    for name, start, stop in _chunks(data):
        if name == b"IDAT" and (last == b"IDAT" or not spans):  # decoders read the first sequence only, too
            spans.append((start, stop))
        elif name == b"fcTL" and not spans and data[start + 4 : start + 12] != data[16:24]:
            return "is an animation whose first frame is only a part of the image"
        has_palette |= name == b"PLTE" and not spans
        last = name
    if last != b"IEND":
        return "is truncated (no PNG end mark)"
    if data[25] == 3 and not has_palette:
        return "has a palette image without a palette"
    return _inflation_fault(data, spans, wanted)


def exif(data: bytes) -> bytes:
    """The EXIF block of a PNG, at any position (Pillow finds it before the pixels only); empty if there is none."""
    return next((data[start:stop] for name, start, stop in _chunks(data) if name == b"eXIf"), b"")


def scaled_key(data: bytes, key: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """The transparent grey level or colour, converted from the range of the file to that of Pillow's pixels."""
    depth = data[24]
    if isinstance(key, tuple):
        return tuple(sample >> 8 for sample in key) if depth == 16 else key
    return (
        key * (255 // (2**depth - 1)) if depth in (2, 4) else key
    )  # 1 bit: Pillow scales it; 16 bits: pixels are not scaled either


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stop of the contents of each chunk that is completely inside the file, up to the end mark."""
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
    """The bytes of the pixels, including filter bytes; ``None`` for a header that violates the specification."""
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
    # zlib returns the bytes that it has not used yet as a copy, which is fast only if blocks are small
    for start, stop in spans:
        for at in range(start, stop, _BLOCK):
            yield data[at : min(at + _BLOCK, stop)]
