"""One image that a user gives, with the same pixels as in a prepared dataset; errors are one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.config import Resize
from alexnet.core.dicom_view import AS_STATED, DicomView
from alexnet.core.errors import UserError
from alexnet.core.files import FILE_LIMIT, NOT_REGULAR, read_bytes, too_large
from alexnet.core.names import is_url, printable
from alexnet.data.decode import (
    ImageRefusedError,
    decode,
    fit,
    upright_image,
    whole_pixels,
)
from alexnet.data.identity import names_person

ImageLike = Path | str | bytes | Image.Image | NDArray[np.uint8]
"""The path of an image file; its bytes; a PIL image; an array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``
of uint8, 0 … 255 (grey, RGB or RGBA)."""


def read_photograph(
    image: ImageLike,
    side: int,
    channels: int,
    name: str | None = None,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image.

    The short side is resized to ``side`` and the centre square is cut out; with ``resize="warp"`` both sides are
    resized. ``channels``: 1 or 3; ``name``: the name of the image in errors; ``view``: of a medical image. Raises
    ``UserError`` if the image is refused.
    """
    with _refused_by_name(image, name):
        target = side if resize == "short-side" else None
        return fit(_decoded(image, target, view), side, channels, resize)


def read_whole_photograph(image: ImageLike, channels: int, name: str | None = None) -> NDArray[np.uint8]:
    """The ``(H, W, channels)`` uint8 pixels of an image at its own size, upright; arguments as above.

    Raises ``UserError`` if the image is refused.
    """
    with _refused_by_name(image, name):
        return whole_pixels(_decoded(image), channels)


def _decoded(image: ImageLike, target: int | None = None, view: DicomView = AS_STATED) -> Image.Image:
    """The upright image in whatever a user gives; ``target`` and ``view`` as in ``decode``.

    Raises ``ImageRefusedError``, and ``UserError`` for a file that cannot be read.
    """
    if isinstance(image, Image.Image):
        return upright_image(image)
    if isinstance(image, bytes):
        if len(image) > FILE_LIMIT:
            raise ImageRefusedError(too_large(FILE_LIMIT))
        return decode(image, target=target, view=view)
    if isinstance(image, Path | str):
        if is_url(str(image)):
            raise ImageRefusedError("URLs are not fetched: download the image and give its path")
        return decode(read_bytes(Path(image)), target=target, view=view)
    return upright_image(_from_array(image))


@contextlib.contextmanager
def _refused_by_name(image: ImageLike, name: str | None) -> Iterator[None]:
    """Turn ``ImageRefusedError`` into a ``UserError`` that names the image."""
    try:
        yield
    except ImageRefusedError as error:
        name = name or (shown_name(image) if isinstance(image, Path | str) else "the image")
        raise UserError(f"{name}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        path = Path(str(image))
        shown = name or shown_name(path)
        irregular = reason == NOT_REGULAR
        why = (
            f"{reason}: give an image file, or - for one on standard input"
            if irregular
            else f"cannot be read: {reason}"
        )
        raise UserError(f"{shown}: {why}") from (None if names_person(path) else error)


def shown_name(path: Path | str) -> str:
    """The name of an image file for people: its path, but of a DICOM file, whose name may be a person's, none."""
    return "the DICOM image" if names_person(path) else printable(str(path))


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
