"""Damaged image files: each is decoded or gives an error, and no process crashes."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from alexnet.data.decode import ImageRefusedError, read_pixels
from alexnet_lab.faults.trial import Child, FaultResult

SIDE = 32
PER_PROCESS = 250  # images that one process reads
FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"quality": 80},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 80},
    "PPM": {},
}


def damage_images(times: int, draws: random.Random) -> FaultResult:
    """``times`` files, each damaged in one to four places, read by child processes."""
    result = FaultResult("damaged image file: pixels or an error, no crash")
    files, refused = list(whole_files().values()), 0
    for start in range(0, times, PER_PROCESS):
        damaged = [
            damage(files[number % len(files)], draws) for number in range(start, min(times, start + PER_PROCESS))
        ]

        def read(send: Callable[[int], None], images: list[bytes] = damaged) -> int:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints messages
            for data in images:
                send(int(_is_refused(data)))
            return 0

        status, received = Child(read).wait()
        refused += sum(received)
        result.trials += len(received)
        if status or len(received) < len(damaged):
            result.failures.append(f"status {status} at image {start + len(received)}")
    result.remark = f"{refused:,} refused, {result.trials - refused:,} decoded; {', '.join(FORMATS)}"
    return result


def whole_files() -> dict[str, bytes]:
    """The same image in every format that can be read."""
    corners = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((100, 80), Image.Resampling.BILINEAR)
    files = {}
    for kind, options in FORMATS.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[kind] = buffer.getvalue()
    return files


def damage(data: bytes, draws: random.Random) -> bytes:
    """A copy with flipped bits, or with ranges set to zero, repeated, removed or replaced by noise."""
    changed = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        at = draws.randrange(len(changed))
        end = min(len(changed), at + draws.choice((1, 2, 8, 64)))
        match draws.randrange(5):
            case 0:
                changed[at] ^= 1 << draws.randrange(8)
            case 1:
                changed[at:end] = bytes(end - at)
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:end] = draws.randbytes(end - at)
            case _:
                del changed[max(1, at) : end]
    return bytes(changed)


def _is_refused(data: bytes) -> bool:
    try:
        read_pixels(data, SIDE, 3)
    except ImageRefusedError:
        return True
    return False
