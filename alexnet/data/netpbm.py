"""PPM, PGM and PBM files: uncompressed images of 1 to 16 bits, as numbers or as text.

Pillow reads them sample by sample in Python unless the largest value is 255, which takes a minute for a photograph, and
it leaves 16-bit grey levels unscaled. Here numpy reads them. The largest value in the header is white: samples are
scaled to 0 … 255 and rounded. Only the first image of a file is read. Formats: the manual pages ppm(5), pgm(5) and
pbm(5) of Netpbm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = rb"(\d{1,10})"
_BITMAP_HEADER = re.compile(rb"P([14])" + _GAP + _NUMBER + _GAP + _NUMBER + rb"\s")
_HEADER = re.compile(rb"P([2356])" + _GAP + _NUMBER + _GAP + _NUMBER + _GAP + _NUMBER + rb"\s")
_COMMENT = re.compile(rb"#[^\r\n]*")
_SPACE = re.compile(rb"\s")
_DIGITS_AND_SPACES = b"0123456789 \t\r\n\v\f"
_BLOCK = 1 << 20  # bytes of text that are converted at a time


class PpmImageFile(ImageFile):
    """A PPM, PGM or PBM file, with the interface of Pillow's plugins: the header is read first, pixels by ``load``."""

    format = "PPM"

    def _open(self) -> None:
        self._data = self.fp.read()  # type: ignore[union-attr]
        header = _HEADER.match(self._data) or _BITMAP_HEADER.match(self._data)
        if header is None:
            raise SyntaxError("unreadable header")
        kind, width, height, *largest = (int(number) for number in header.groups())
        self._kind, self._largest, self._start = kind, *(largest or [1]), header.end()
        if not 0 < self._largest < 65536:
            raise SyntaxError("the largest value is not 1 to 65535")
        self._size = width, height
        self._mode = "RGB" if kind in (3, 6) else "L"

    def load(self) -> Any:
        """Decode the pixels. Raises ``ValueError`` for a truncated file and for text that is not numbers."""
        if self._im is None:
            self.im = Image.fromarray(self._pixels()).im
        return Image.Image.load(self)

    def _pixels(self) -> NDArray[np.uint8]:
        width, height = self.size
        shape = (height, width, 3) if self.mode == "RGB" else (height, width)
        count = int(np.prod(shape))
        if self._kind == 4:
            rows = self._raw(np.dtype(np.uint8), height * (-(-width // 8))).reshape(height, -1)
            return np.where(np.unpackbits(rows, axis=1)[:, :width], 0, 255).astype(np.uint8)
        if self._kind in (5, 6):
            values = self._raw(np.dtype(np.uint8 if self._largest < 256 else ">u2"), count)
        else:
            values = _numbers(self._text(), count, separate=self._kind != 1)
        if self._kind == 1:
            if values.max() > 1:
                raise ValueError("its pixels are not zeros and ones")
            values = 1 - values  # 1 is black
        if self._largest == 255 and values.dtype == np.uint8:
            return values.reshape(shape)
        levels = np.arange(self._largest + 1, dtype=np.int64)
        scaled = ((levels * 255 + self._largest // 2) // self._largest).astype(np.uint8)
        pixels: NDArray[np.uint8] = np.take(scaled, np.minimum(values, self._largest))
        return pixels.reshape(shape)

    def _raw(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        if len(self._data) - self._start < count * kind.itemsize:
            raise ValueError("image file is truncated")
        return np.frombuffer(self._data, kind, count, self._start)

    def _text(self) -> bytes:
        text = self._data[self._start :]
        return _COMMENT.sub(b"", text) if b"#" in text else text


def _numbers(text: bytes, count: int, *, separate: bool) -> NDArray[np.uint16]:
    """The first ``count`` numbers of a text, at most 65535 each; not ``separate``: every digit is a number."""
    values = np.empty(count, np.uint16)
    some: NDArray[Any]
    done = 0
    for block in _text_blocks(text):
        if block.translate(None, _DIGITS_AND_SPACES):
            raise ValueError("its pixels are not numbers")
        if separate:
            some = np.fromstring(block, np.int64, sep=" ") if block.strip() else np.empty(0, np.int64)
        else:
            some = np.frombuffer(block.translate(None, b" \t\r\n\v\f"), np.uint8).astype(np.int64) - ord("0")
        some = some[: count - done]
        values[done : done + len(some)] = np.minimum(some, 65535)
        done += len(some)
        if done == count:
            return values
    raise ValueError("image file is truncated")


def _text_blocks(text: bytes) -> Iterator[bytes]:
    """The text in blocks that end at a space, so that no number is cut in two."""
    at = 0
    while at < len(text):
        space = _SPACE.search(text, at + _BLOCK)
        stop = space.end() if space else len(text)
        yield text[at:stop]
        at = stop
