"""One image file that a user names, with the same pixels as in a prepared dataset; errors are one line."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.decode import ImageRefusedError, read_pixels


def read_photograph(image: Path | str | bytes, side: int, channels: int, name: str | None = None) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image file, given as its path or its bytes.

    ``channels``: 1 or 3; ``name``: the name of the image in errors. Raises ``UserError`` if it is refused.
    """
    data = image if isinstance(image, bytes) else _read(Path(image))
    name = name or ("the image" if isinstance(image, bytes) else printable(str(image)))
    try:
        return read_pixels(data, side, channels)
    except ImageRefusedError as error:
        raise UserError(f"{name}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # reading a pipe could block for ever
            raise UserError(
                f"{printable(str(path))}: is not a regular file: give an image file, or - for one on standard input"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from error
