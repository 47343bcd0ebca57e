"""One image that a user gives, with the same pixels as in a prepared dataset; errors are one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.config import Resize
from alexnet.core.errors import UserError
from alexnet.core.files import FILE_LIMIT, NOT_REGULAR, read_bytes, too_large
from alexnet.core.names import is_url, printable
from alexnet.data.decode import (
    ImageRefusedError,
    decode,
    pixels_of_image,
    read_pixels,
    upright_image,
    whole_pixels,
)

ImageLike = Path | str | bytes | Image.Image | NDArray[np.uint8]
"""The path of an image file; its bytes; a PIL image; an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``
of uint8, 0 … 255 (grey, RGB or RGBA)."""


def read_photograph(
    image: ImageLike, side: int, channels: int, name: str | None = None, resize: Resize = "short-side"
) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image.

    The short side is resized to ``side`` and the centre square is cut out; with ``resize="warp"`` both sides are
    resized. ``channels``: 1 or 3; ``name``: the name of the image in errors. Raises ``UserError`` if the image is
    refused.
    """
    try:
        if isinstance(image, Image.Image):
            return pixels_of_image(image, side, channels, resize)
        if isinstance(image, bytes):
            if len(image) > FILE_LIMIT:
                raise ImageRefusedError(too_large(FILE_LIMIT))
            return read_pixels(image, side, channels, resize=resize)
        if isinstance(image, Path | str):
            name = name or printable(str(image))
            if is_url(str(image)):
                raise ImageRefusedError("URLs are not fetched: download the image and give its path")
            return read_pixels(_read(Path(image)), side, channels, resize=resize)
        return pixels_of_image(_from_array(image), side, channels, resize)
    except ImageRefusedError as error:
        raise UserError(f"{name or 'the image'}: {error}") from error


def read_whole_photograph(image: ImageLike, channels: int, name: str | None = None) -> NDArray[np.uint8]:
    """The ``(H, W, channels)`` uint8 pixels of an image at its own size, upright; arguments as above.

    Raises ``UserError`` if the image is refused.
    """
    try:
        if isinstance(image, Path | str):
            name = name or printable(str(image))
            if is_url(str(image)):
                raise ImageRefusedError("URLs are not fetched: download the image and give its path")
            image = _read(Path(image))
        if isinstance(image, bytes):
            if len(image) > FILE_LIMIT:
                raise ImageRefusedError(too_large(FILE_LIMIT))
            return whole_pixels(decode(image), channels)
        picture = image if isinstance(image, Image.Image) else _from_array(image)
        return whole_pixels(upright_image(picture), channels)
    except ImageRefusedError as error:
        raise UserError(f"{name or 'the image'}: {error}") from error


WORDNET_ID = re.compile(r"n[0-9]{8}(?=[_.])")


def photographs_by_id(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder whose names begin with a WordNet id, ``n01440764_10026.JPEG``, sorted, and these ids.

    Both are empty if the path is no folder or has no such file. Raises ``OSError`` if the folder cannot be read.
    """
    if not folder.is_dir():
        return [], []
    files = sorted(path for path in folder.iterdir() if WORDNET_ID.match(path.name) and path.is_file())
    return files, [path.name[:9] for path in files]


def _from_array(array: Any) -> Image.Image:
    """The array as a PIL image. Raises ``ImageRefusedError`` for any other type and shape than those above."""
    if not isinstance(array, np.ndarray):
        raise ImageRefusedError(
            f"is of type {type(array).__name__}: give a path, bytes, a PIL image, or an (H, W, 3) uint8 array"
        )
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ImageRefusedError(
            f"is an array of shape {array.shape} and type {array.dtype}: give (H, W), (H, W, 1) or (H, W, 3) of uint8"
        )
    if not array.size:
        raise ImageRefusedError("has no pixels")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if reason == NOT_REGULAR:
            raise UserError(
                f"{printable(str(path))}: {reason}: give an image file, or - for one on standard input"
            ) from error
        raise UserError(f"{printable(str(path))}: cannot be read: {reason}") from error
