"""From the bytes of an image file to pixels: the only preprocessing of image files, and every reason to refuse one.

``prepare``, ``train``, ``evaluate``, ``predict`` and ``serve`` all call ``read_pixels``, so a network gets the same
pixels from each of them. The steps are: Pillow's decoder; the EXIF orientation; a white background behind transparent
pixels; the short side resized with an antialiased bilinear filter; the centre square. Krizhevsky, Sutskever and Hinton
(2012, section 2) prepared ILSVRC this way. The filter is torch's for bytes, which is three times as fast as Pillow's
and differs from it by at most one grey level. ``preprocessing`` gives the settings as JSON; prepared datasets and
models contain them.

A file is read completely or refused. The limits on size are checked in the header, before any pixel is decoded. A
truncated file is refused in every format, even if Pillow decodes it (``containers.py``, ``png.py``). Damage that leaves
a valid file cannot be found: **a flipped bit or missing bytes inside a JPEG, a lossy WebP, a BMP, a GIF or a TIFF give
wrong pixels and no error.** Only a list of checksums finds that. Of a JPEG with several images (MPO) only the first is
used. Colour profiles are not applied.

``Image.open`` of Pillow is not used. It warns about images between 89 and 179 megapixels and about unusual metadata,
and the effect of a warning is a setting of the whole process, which one thread cannot change for itself. Instead
Pillow's format plugins are called directly, after an allow-list of signatures. If a plugin still warns (unusual TIFF
tags) and the process turns warnings into errors, the file is refused. All functions here are safe in several threads.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from alexnet.data import containers, png

MAX_PIXELS = 40_000_000
MAX_ASPECT = 50
BACKGROUND = (255, 255, 255)
# As Pillow's thumbnails do. Measured on scikit-learn's two photographs, enlarged to 10 megapixels: drafts of 1 × the
# target change the result by 3 and 7 grey levels of 255 on average, drafts of 2 × by 0.6 and 1.5, and decoding is still
# 3.5 times as fast.
_DRAFT_GAP = 2
_VERSION = 2  # increased when the same file can give other pixels than before

_MODES = {1: "L", 3: "RGB"}
_WRONG_MODES = {"I": "32-bit or signed integer", "F": "floating-point"}

# EXIF orientation → the transposition that makes the image upright; with 1 it is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# The exceptions of Pillow's plugins for damaged files. Half a million mutated files raised the first five and the last
# two; the others can occur in Python code that unpacks, indexes, divides and asserts with numbers from a file, as the
# plugins do. Programming errors (NameError, ImportError) are not among them.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, IndexError, struct.error),  # truncated, broken, not of this format
    *(zlib.error, EOFError, TypeError, KeyError, AttributeError, AssertionError, MemoryError),
    *(ArithmeticError, RuntimeError),  # overflow, division by zero; RecursionError, NotImplementedError
    Image.DecompressionBombError,
    Warning,  # only if the process turns warnings into errors
)


class ImageRefusedError(ValueError):
    """Why an image file is refused: the predicate of a sentence, in one line, without the name of the file."""


class _Jpeg(JpegImageFile):
    """Pillow's JPEG plugin without the search for a resolution, which warns about damage in unused EXIF data."""

    def _read_dpi_from_exif(self) -> None:
        pass


_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}


def read_pixels(data: bytes, side: int, channels: int, notes: list[str] | None = None) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image file: ``decode``, then ``fit``.

    Raises ``ImageRefusedError``; ``notes`` as in :func:`decode`.
    """
    return fit(decode(data, target=side, notes=notes), side, channels)


def preprocessing(side: int, channels: int) -> dict[str, Any]:
    """The settings of ``read_pixels`` as JSON: with the same Pillow and torch, equal settings give equal pixels."""
    return {
        "version": _VERSION,
        "formats": list(_PLUGINS),
        "short_side": side,
        "crop": "centre",
        "channels": channels,
        "filter": "torch bilinear, antialiased",
        "draft": f"JPEG decoded at 1/2, 1/4 or 1/8 where that leaves {_DRAFT_GAP} short sides or more",
        "orientation": "EXIF",
        "background": list(BACKGROUND),
        "max_pixels": MAX_PIXELS,
        "max_aspect": MAX_ASPECT,
    }


def decode(data: bytes, *, target: int | None = None, notes: list[str] | None = None) -> Image.Image:
    """The image in a file: upright, opaque, of mode "RGB", or "L" if the file is grey.

    ``target``: the short side, in pixels, to which the image will be resized. A JPEG may then be decoded at 1/2, 1/4 or
    1/8 of its size, which is several times faster, but never below twice ``target``. Remarks about the file, such as
    "first frame of 3", are appended to ``notes``. Raises ``ImageRefusedError``.
    """
    notes = [] if notes is None else notes
    kind, image = _open(data)
    if kind == "PNG" and (fault := png.fault(data)):
        raise ImageRefusedError(fault)
    _note_frames(data, kind, image, notes)
    with _refusing(kind):
        if isinstance(image, TiffImageFile) and (fault := containers.tiff_fault(data, image, MAX_PIXELS)):
            raise ImageRefusedError(fault)
        if target is not None:
            gap = _DRAFT_GAP * target
            image.draft(None, (gap, gap))  # does nothing unless the file is a JPEG
        turn = _UPRIGHT.get(_orientation(data, kind, image))
        image.load()
        flat = _flatten(data, kind, image, notes)
        return flat if turn is None else flat.transpose(turn)


def image_size(data: bytes) -> tuple[int, int]:
    """``(height, width)`` of the upright image, from the header only.

    Raises ``ImageRefusedError``. Without an error, decoding the pixels can still fail.
    """
    kind, image = _open(data)
    width, height = image.size
    return (width, height) if _orientation(data, kind, image) >= 5 else (height, width)


def fit(image: Image.Image, side: int, channels: int) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image: short side resized to ``side``, then the centre square.

    ``channels``: 1 or 3. The result equals that of torchvision's ``Resize(side)`` and ``CenterCrop(side)`` (v2, of a
    uint8 tensor, on a processor with AVX2), including rounding, so weights trained with those get the same pixels here.
    Of a Pillow image, torchvision's result differs by one grey level in some pixels.
    """
    width, height = image.size
    pixels = np.array(image)
    if min(width, height) != side:
        long = int(side * max(width, height) / min(width, height))
        width, height = (side, long) if width <= height else (long, side)
        pixels = _resize(pixels, height, width)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = pixels[top : top + side, left : left + side]
    if image.mode != _MODES[channels]:
        square = np.array(Image.fromarray(square).convert(_MODES[channels]))
    return np.ascontiguousarray(square).reshape(side, side, channels)


def _resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """``(H, W)`` or ``(H, W, 3)`` uint8 pixels, resized."""
    images = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)
    resized = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).reshape(height, width, *pixels.shape[2:]).numpy()


@contextlib.contextmanager
def _refusing(kind: str) -> Iterator[None]:
    """Turn an exception of Pillow into ``ImageRefusedError``."""
    try:
        yield
    except ImageRefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefusedError(f"has more than {MAX_PIXELS / 1e6:g} megapixels") from error
    except _PILLOW_ERRORS as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageRefusedError(f"is not a readable {kind} file ({detail})") from error


def _open(data: bytes) -> tuple[str, ImageFile]:
    """The format of a file and its header, read by Pillow. No pixel is decoded.

    Raises ``ImageRefusedError`` for a format, a size or a pixel type that is not accepted.
    """
    kind = containers.kind_of(data)
    if kind is None:
        raise ImageRefusedError(containers.foreign_fault(data))
    with _refusing(kind):
        image = _PLUGINS[kind](io.BytesIO(data))
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageRefusedError(f"is {width} × {height} pixels, more than {MAX_PIXELS / 1e6:g} million")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageRefusedError(f"is {width} × {height} pixels, one side more than {MAX_ASPECT} times the other")
    if image.mode in _WRONG_MODES:
        raise ImageRefusedError(
            f"has {_WRONG_MODES[image.mode]} pixels, whose range is unknown: scale it to 0…255 and save it with 8 bits"
        )
    return kind, image


def _orientation(data: bytes, kind: str, image: ImageFile) -> int:
    """The EXIF orientation, 1 to 8; always 1, upright, for a TIFF, which Pillow rotates itself."""
    exif = png.exif(data) if kind == "PNG" else b"" if kind == "TIFF" else image.info.get("exif", b"")
    return containers.orientation(exif)


def _note_frames(data: bytes, kind: str, image: ImageFile, notes: list[str]) -> None:
    """Add a note if only the first of several frames is used. Raises ``ImageRefusedError`` for a truncated GIF."""
    count: int | None = getattr(image, "n_frames", 1) if kind in ("PNG", "WebP") else 1
    frames = containers.gif_frames(data) if kind == "GIF" else count
    if frames is None:
        raise ImageRefusedError("is truncated (no GIF trailer)")
    if frames > 1:
        notes.append(f"first frame of {frames}")
    elif kind == "TIFF" and getattr(image, "is_animated", False):
        notes.append("first of several pages")


def _flatten(data: bytes, kind: str, image: Image.Image, notes: list[str]) -> Image.Image:
    """A decoded image of any mode as "RGB", or "L" if it is grey, composited over ``BACKGROUND``."""
    if kind == "PNG" and "transparency" in image.info and image.mode != "P":
        image.info["transparency"] = png.scaled_key(data, image.info["transparency"])
    if image.mode.startswith("I;16"):
        notes.append("16-bit grey scaled to 8 bits")
        image = _grey_from_16_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append(f"transparent pixels composited over {BACKGROUND}")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return image if image.mode == mode else image.convert(mode)


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    """Mode "I;16" as "L", or "LA" if one grey level is transparent: 65535 becomes 255. (Pillow would clip at 255.)"""
    wide = np.asarray(image)
    grey = Image.fromarray(((wide.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8))))
