"""Image files with damage of every kind: each becomes pixels or a refusal, and no process ends for one of them."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from alexnet.data.decode import ImageRefusedError, read_pixels
from alexnet_lab.faults.trial import Child, Tally

SIDE = 32
TOGETHER = 250  # images that one process reads
FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"quality": 80},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


def damage_images(times: int, draws: random.Random) -> Tally:
    """So many files, each damaged in one to four places, read by processes that may die of it."""
    tally = Tally("an image file is damaged: pixels or a refusal, and nobody dies")
    files, refused = list(whole_files().values()), 0
    for start in range(0, times, TOGETHER):
        damaged = [damage(files[number % len(files)], draws) for number in range(start, min(times, start + TOGETHER))]

        def read(tell: Callable[[int], None], images: list[bytes] = damaged) -> int:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff has much to say of each
            for data in images:
                tell(int(_is_refused(data)))
            return 0

        status, told = Child(read).wait()
        refused += sum(told)
        tally.trials += len(told)
        if status or len(told) < len(damaged):
            tally.failures.append(f"status {status} at image {start + len(told)}")
    tally.remark = f"{refused:,} refused, {tally.trials - refused:,} shown; {', '.join(FORMATS)}"
    return tally


def whole_files() -> dict[str, bytes]:
    """The same picture in every format that is read."""
    corners = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(corners).resize((100, 80), Image.Resampling.BILINEAR)
    files = {}
    for kind, options in FORMATS.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files[kind] = buffer.getvalue()
    return files


def damage(data: bytes, draws: random.Random) -> bytes:
    """Bits flipped, stretches zeroed, repeated, removed, or replaced by noise."""
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
