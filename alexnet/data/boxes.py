"""Boxes around the objects of images.

A box is a row of six numbers: the class, left, top, right, bottom in pixels, and a flag: 1 for a box that is not
counted, else 0. Pixel i is the interval from i to i + 1, so a box around one pixel is 1 wide. COCO's crowds and VOC's
difficult objects are not counted: to find or to miss one changes no measure, and a network is trained as if there were
no object. Where images have different numbers of boxes, the rows of an array are filled up with the class −1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alexnet.config import Resize
from alexnet.data.decode import ImageRefusedError

COLUMNS = 6
PADDING = -1  # the class of a row that is no box
LEAST_SIDE = 1.0  # pixels of a prepared image: a box that becomes narrower is left out
MOST_BOXES = 10_000  # of one image
ROUNDING = 0.5  # pixels: a box that extends beyond the image by less is cut without a note


def check_boxes(
    rows: Sequence[Sequence[float]], width: int, height: int, classes: int, notes: list[str]
) -> NDArray[np.float32]:
    """The boxes ``(n, 6)`` of an image of ``width`` × ``height`` pixels, cut at its edges.

    Boxes without area are left out. ``notes`` receives what was changed. Raises ``ImageRefusedError`` for a box outside
    the image, for one with right < left or bottom < top, for numbers that are not finite, and for a class that
    does not exist.
    """
    if len(rows) > MOST_BOXES:
        raise ImageRefusedError(f"has {len(rows):,} boxes, more than {MOST_BOXES:,}")
    boxes = np.array(rows, np.float64).reshape(-1, COLUMNS)
    if not np.isfinite(boxes).all():
        raise ImageRefusedError("has a box with a number that is not finite")
    for number, left, top, right, bottom, _ in boxes.tolist():
        text = f"has a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        if not 0 <= number < classes or number != int(number):
            raise ImageRefusedError(f"has a box of class {number:g}, and there are {classes} classes")
        if right < left or bottom < top:
            raise ImageRefusedError(f"{text}: its right edge is left of its left edge, or its bottom above its top")
        if left >= width or top >= height or right < 0 or bottom < 0:
            raise ImageRefusedError(f"{text}, outside its {width} × {height} pixels")
    cut = boxes.copy()
    cut[:, 1:5] = np.clip(boxes[:, 1:5], 0, [width, height, width, height])
    if (np.abs(cut - boxes) > ROUNDING).any():
        notes.append("box that extends beyond the image, cut at the edge")
    area = (cut[:, 3] > cut[:, 1]) & (cut[:, 4] > cut[:, 2])
    if not area.all():
        notes.append("box without area, left out")
    return cut[area].astype(np.float32)


def fit_boxes(
    boxes: NDArray[np.float32], size: tuple[int, int], side: int, resize: Resize, notes: list[str]
) -> NDArray[np.float32]:
    """The boxes ``(n, 6)`` of an image of ``size`` (width, height) in its prepared image of ``side`` × ``side`` pixels.

    ``resize``: as in :class:`~alexnet.config.Preprocessing`. Boxes are cut at the edges of the prepared image; those of
    which less than ``LEAST_SIDE`` remains are left out, and ``notes`` receives this.
    """
    width, height = size
    if resize != "short-side":
        scale, offset = (side / width, side / height), (0.0, 0.0)
    else:
        short = min(width, height)
        scaled = [int(side * each / short) for each in (width, height)]
        scale = (scaled[0] / width, scaled[1] / height)
        offset = (round((scaled[0] - side) / 2), round((scaled[1] - side) / 2))
    fitted = boxes.copy()
    fitted[:, 1:5] = np.clip(boxes[:, 1:5] * np.array(scale * 2) - np.array(offset * 2), 0, side)
    large = ((fitted[:, 3:5] - fitted[:, 1:3]) >= LEAST_SIDE).all(axis=1)
    if not large.all():
        notes.append(f"box that is narrower than {LEAST_SIDE:g} pixel or outside the prepared image, left out")
    return fitted[large]


def padded(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The boxes of N images ``(n, 6)`` each as one array ``(N, M, 6)``, filled up with the class ``PADDING``."""
    most = max((len(each) for each in rows), default=0)
    together = np.zeros((len(rows), most, COLUMNS), np.float32)
    together[:, :, 0] = PADDING
    for place, each in zip(together, rows, strict=True):
        place[: len(each)] = each
    return together
