"""Masks: the class of each pixel of an image, in a PNG file.

A mask is a PNG with a palette or with 8-bit grey, as in PASCAL VOC: its raw values are the numbers of the classes, and
255 means that the pixel counts for nothing (the border of an object in VOC). The palette is only for people to look at.
A mask goes through the same resizing and the same centre square as its image, but a pixel takes the value of the
nearest one: a mean of two classes would be a third class.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.core.files import read_bytes
from alexnet.data.decode import ImageRefusedError, raw_png

IGNORED = 255  # the value of pixels that count for nothing
MOST_CLASSES = 255


def read_mask(path: Path, classes: int) -> NDArray[np.uint8]:
    """The classes ``(H, W)`` uint8 of a mask file; each is below ``classes``, or ``IGNORED``.

    Raises ``ImageRefusedError`` for a file that is no such mask, and ``OSError`` for one that cannot be read.
    """
    values = decode_mask(read_bytes(path))
    wrong = values[(values >= classes) & (values != IGNORED)]
    if wrong.size:
        raise ImageRefusedError(
            f"has the value {int(wrong.max())} in its mask, and there are {classes} classes, 0 to {classes - 1}, "
            f"and {IGNORED} for pixels without a class"
        )
    return values


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """The raw values ``(H, W)`` uint8 of a PNG file. Raises ``ImageRefusedError``."""
    image = raw_png(data)
    if image.mode not in ("P", "L", "1"):
        raise ImageRefusedError(
            f"has a mask with {image.mode} pixels: save it as a PNG with a palette or 8-bit grey, whose values are "
            "the numbers of the classes"
        )
    return np.array(image, np.uint8)  # of mode "P", the places in the palette; of mode "1", 0 and 1


def fit_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A mask ``(H, W)`` as ``(side, side)``: short side resized to ``side``, then the centre square, as ``decode.fit``.

    Each pixel has the value of the nearest one.
    """
    height, width = mask.shape
    if min(height, width) != side:
        long = int(side * max(width, height) / min(width, height))
        width, height = (side, long) if width <= height else (long, side)
    rows, columns = nearest(mask.shape[0], height), nearest(mask.shape[1], width)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.ascontiguousarray(mask[rows[top : top + side, None], columns[None, left : left + side]])


def nearest(size: int, new: int) -> NDArray[np.int64]:
    """For each of ``new`` pixels, the one of ``size`` pixels in which its centre lies, ``(new,)``."""
    return ((2 * np.arange(new, dtype=np.int64) + 1) * size) // (2 * new)


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A mask ``(H, W)`` uint8 as a PNG with the palette of PASCAL VOC."""
    image = Image.fromarray(mask, "P")
    image.putpalette(voc_palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def voc_palette() -> NDArray[np.uint8]:
    """The colours ``(256, 3)`` of PASCAL VOC's masks: bit k of R, G, B is bit 3k, 3k + 1, 3k + 2 of the class.

    The bits are in reverse order, so that the first classes have colours that differ most (VOC development kit,
    ``VOClabelcolormap.m``).
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if (source := 3 * bit + channel) < 8:
                colours[:, channel] |= (((numbers >> source) & 1) << (7 - bit)).astype(np.uint8)
    return colours
