"""JPEG files: bounds on segments and scans, which are counted in the markers before a decoder starts.

A decoder cannot be stopped in a thread, so the work that a file asks for is estimated first. Two kinds of small files
cost minutes: a progressive JPEG with hundreds of scans, each of which visits every 8 × 8 block of the image, and a JPEG
with thousands of segments before its first scan, which Pillow parses in Python. Cameras and programs write about ten
scans, and a few dozen segments.

The bounds: 4,096 segments before the first scan, and as many between the scans; 64 of the first Exif, Photoshop or
quantization tables; 64 KiB between them; 100 scans; and no more visited blocks than 40 passes over an image of the
largest size that is decoded. That is about ten seconds on one core. An image with several scans is held in memory as
coefficients of 2 bytes: they may take twice the memory of the largest image that is decoded. Markers: ITU-T T.81,
annex B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from alexnet.data.containers import RAISE_LIMIT

MAX_SEGMENTS = 4096
MAX_PARSED_SEGMENTS = 64  # of the kinds that Pillow parses entry by entry
MAX_GAP_BYTES = 65536  # fill bytes and other bytes between the segments before the first scan
MAX_SCANS = 100
MAX_PASSES = 40  # visited samples, in images of the largest size that is decoded
COEFFICIENT_BYTES = 8  # of memory for each pixel of the largest image that is decoded: 4 channels of 2 bytes

_SOS, _EOI, _DQT, _APP1, _APP13 = 0xDA, 0xD9, 0xDB, 0xE1, 0xED
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_STANDALONE = {*range(0x02), 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # no length follows, as Pillow reads them
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restart marks are a part of the scan


def segments_fault(data: bytes) -> str | None:
    """Why a JPEG is refused for its segments before the first scan, as the predicate of a sentence; None if it is not.

    A file that is damaged in other ways is left to the decoder.
    """
    parsed = gaps = 0
    end = 2
    for count, (marker, start, stop, gap) in enumerate(_segments(data), 1):
        gaps, end = gaps + gap, stop
        if marker == _SOS or gaps > MAX_GAP_BYTES:
            break
        parsed += marker in (_DQT, _APP13) or (marker == _APP1 and data[start + 2 : start + 6] == b"Exif")
        if count > MAX_SEGMENTS:
            return f"has more than {MAX_SEGMENTS:,} JPEG segments before its pixels"
        if parsed > MAX_PARSED_SEGMENTS:
            return f"has more than {MAX_PARSED_SEGMENTS} JPEG segments of Exif, Photoshop or quantization tables"
    else:
        gaps += len(data) - end
    if gaps > MAX_GAP_BYTES:
        return f"has more than {MAX_GAP_BYTES // 1024} KiB between its JPEG segments"
    return None


def is_lossless(data: bytes) -> bool:
    """Whether a JPEG is of a lossless kind, which cannot be decoded at 1/2, 1/4 or 1/8."""
    return next((marker in _LOSSLESS for marker, *_ in _segments(data) if marker in {*_FRAMES, _SOS}), False)


def scans_fault(data: bytes, max_pixels: int) -> str | None:
    """Why a JPEG is refused for its scans, as the predicate of a sentence; None if it is not.

    ``max_pixels``: the size of the largest image that is decoded, in pixels. The scans of a file that holds all of its
    image in one scan are not searched.
    """
    blocks: dict[int, int] = {}  # component → its 8 × 8 blocks
    progressive = lossless = False
    scans = visited = 0
    for count, (marker, start, stop, _) in enumerate(_segments(data), 1):
        if marker == _EOI and scans:
            break
        if count > 2 * MAX_SEGMENTS:
            return f"has more than {MAX_SEGMENTS:,} JPEG segments between its scans"
        if marker in _FRAMES and not blocks:
            progressive, lossless = marker in _PROGRESSIVE, marker in _LOSSLESS
            blocks = _blocks(data[start + 2 : stop])
        if marker != _SOS:
            continue
        body = data[start + 2 : stop]
        components = body[1 : 1 + 2 * body[0] : 2] if body else b""
        if not scans:
            if lossless or (not progressive and len(components) == len(blocks)):
                return None
            if 128 * sum(blocks.values()) > COEFFICIENT_BYTES * max_pixels:
                return (
                    f"is a JPEG of several scans that needs more than {COEFFICIENT_BYTES * max_pixels / 1e6:,.0f} MB "
                    f"of memory: {RAISE_LIMIT}"
                )
        scans += 1
        visited += sum(blocks.get(component, 0) for component in components)
        if scans > MAX_SCANS:
            return f"has more than {MAX_SCANS} JPEG scans"
        if 64 * visited > MAX_PASSES * max_pixels:
            return f"has {scans} JPEG scans or more, which would take too long at its size: {RAISE_LIMIT}"
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Marker, start and stop of the contents (with their length), and bytes skipped before it, of each segment."""
    at, pattern = 2, _MARKER
    while found := pattern.search(data, at):
        marker, start = found[0][1], found.end()
        length = 0 if marker in _STANDALONE else max(2, int.from_bytes(data[start : start + 2], "big"))
        yield marker, start, start + length, found.start() - at
        at, pattern = start + length, _MARKER_AFTER_SCAN if marker == _SOS else _MARKER


def _blocks(frame: bytes) -> dict[int, int]:
    """The number of 8 × 8 blocks of each component, from the contents of a frame header (T.81, B.2.2)."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    rows = [frame[at : at + 2] for at in range(6, len(frame) - 2, 3)]
    if not all(row[1] >> 4 and row[1] & 15 for row in rows):
        return {}
    across, down = (max((pick(row[1]) for row in rows), default=1) for pick in (_horizontal, _vertical))
    return {
        row[0]: -(-width * _horizontal(row[1]) // (8 * across)) * -(-height * _vertical(row[1]) // (8 * down))
        for row in rows
    }


def _horizontal(sampling: int) -> int:
    return sampling >> 4


def _vertical(sampling: int) -> int:
    return sampling & 15
