"""From the bytes of an image file to pixels: the only preprocessing of image files, and every reason to refuse one.

``prepare``, ``train``, ``evaluate``, ``predict`` and ``serve`` all call ``read_pixels``, so a network gets the same
pixels from each of them. The steps are: Pillow's decoder; the EXIF orientation; a white background behind transparent
pixels; the short side resized with an antialiased bilinear filter; the centre square. Krizhevsky, Sutskever and Hinton
(2012, section 2) prepared ILSVRC this way. The filter is torch's for bytes, which is three times as fast as Pillow's
and differs from it by at most one grey level. ``preprocessing`` gives the settings as JSON; prepared datasets and
models contain them.

Caffe's models were trained on other pixels: ``convert_imageset`` resizes both sides to 256, which changes the aspect
ratio, with OpenCV's bilinear filter, which is not antialiased. ``resize="warp"`` does the same, within one grey level
of OpenCV 4. No JPEG is then decoded at a smaller size, because that is an antialiasing filter too. For detection,
``resize="stretch"`` resizes both sides with the antialiased filter: no object may be cut off.

A file is read completely or refused. The limits on size are checked in the header, before any pixel is decoded: at
most 64 megapixels are decoded, or ``ALEXNET_MAX_PIXELS``. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that
is large enough, so it may have 16 times as many. What a file costs is bounded too: scans of a JPEG (``jpeg.py``),
blocks, chunks and tags of other formats. A truncated file is refused in every format, even if Pillow decodes it
(``containers.py``, ``png.py``). Damage that leaves a valid file cannot be found: **a flipped bit or missing bytes
inside a JPEG, a lossy WebP, an AVIF, a HEIC, a BMP, a GIF, a TIFF or a PPM give wrong pixels and no error.** Only a
list of checksums finds that. Of a JPEG with several images (MPO) only the first is used. Colour profiles are not
applied. Medical images are read by ``dicom.py``; their grey levels are resized as floats and then rounded to 8 bits.

``Image.open`` of Pillow is not used. It warns about images between 89 and 179 megapixels and about unusual metadata,
and the effect of a warning is a setting of the whole process, which one thread cannot change for itself. Instead
Pillow's format plugins are called directly, after an allow-list of signatures. If a plugin still warns (unusual TIFF
tags) and the process turns warnings into errors, the file is refused. All functions here are safe in several threads.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from alexnet.config import Resize
from alexnet.core.dicom_view import AS_STATED, DicomView
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data import containers, dicom, jpeg, png
from alexnet.data.netpbm import PpmImageFile

MAX_PIXELS = 64_000_000  # that are decoded: 256 MB in Pillow's memory
MOST_PIXELS = 1_000_000_000  # that ALEXNET_MAX_PIXELS may allow
MOST_RESIZED_PIXELS = 100_000_000  # of an image whose short side has been resized, before it is cropped
MAX_REDUCTION = 16  # a JPEG may have this many times the pixels that are decoded
MAX_ASPECT = 50
BACKGROUND = (255, 255, 255)
# As Pillow's thumbnails do. Measured on scikit-learn's two photographs, enlarged to 10 megapixels: drafts of 1 × the
# target change the result by 3 and 7 grey levels of 255 on average, drafts of 2 × by 0.6 and 1.5, and decoding is still
# 3.5 times as fast.
_DRAFT_GAP = 2
_VERSION = 2  # increased when the same file can give other pixels than before

_FIRST_ACCEPTED: dict[str, Any] = {"formats": ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"], "max_pixels": 40_000_000}

Found = TypeVar("Found")
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
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImageFile,
}


def read_pixels(
    data: bytes,
    side: int,
    channels: int,
    notes: list[str] | None = None,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image file: ``decode``, then ``fit``.

    Raises ``ImageRefusedError``; ``notes`` and ``view`` as in :func:`decode`, ``resize`` as in :func:`fit`.
    """
    target = side if resize == "short-side" else None
    return fit(decode(data, target=target, notes=notes, view=view), side, channels, resize)


def max_pixels() -> int:
    """The largest number of pixels that are decoded: ``ALEXNET_MAX_PIXELS`` if it is set, else ``MAX_PIXELS``.

    Raises ``UserError`` if the variable is not a whole number from 1 to a billion.
    """
    word = os.environ.get("ALEXNET_MAX_PIXELS", "").strip()
    if not word:
        return MAX_PIXELS
    if not (word.isascii() and word.isdigit() and len(word) <= 10 and 0 < int(word) <= MOST_PIXELS):
        raise UserError(
            f"ALEXNET_MAX_PIXELS is {printable(word[:40])!r}: give a whole number of pixels from 1 to {MOST_PIXELS}"
        )
    return int(word)


def accepted() -> dict[str, Any]:
    """Which files are read, as JSON: the formats, and the largest number of pixels that are decoded.

    A prepared dataset holds them, so that a file that was refused is tried again once it can be read. Raises
    ``UserError`` as :func:`max_pixels`.
    """
    extras = ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    extras += ["DICOM"] if dicom.is_installed() else []
    avif = {"AVIF"} if not AvifImagePlugin.SUPPORTED else set()
    return {"formats": [name for name in _PLUGINS if name not in avif] + extras, "max_pixels": max_pixels()}


def readable_now(name: str, reason: str, before: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    """Whether a file that was refused for ``reason`` may be read now: larger images are, or another format.

    ``before``, ``now``: what :func:`accepted` gave then and gives now; None for the first version.
    """
    limit_words = (containers.RAISE_LIMIT,) if before else ("more than 40 million", "more than 40 megapixels")
    before = before or _FIRST_ACCEPTED
    if now["max_pixels"] > before["max_pixels"] and any(words in reason for words in limit_words):
        return True
    formats = set(now["formats"]) - set(before["formats"])
    by_name = containers.SUFFIXES.get(PurePath(name).suffix.lower())
    return by_name in formats or any(f"looks like {kind})" in reason or f" {kind} image" in reason for kind in formats)


def preprocessing(
    side: int, channels: int, resize: Resize = "short-side", view: DicomView = AS_STATED
) -> dict[str, Any]:
    """The settings of ``read_pixels`` as JSON: with the same Pillow and torch, equal settings give equal pixels.

    They are a part of a prepared dataset's name. ``formats`` and ``max_pixels`` do not change the pixels of a file, so
    they keep the values of the first version; :func:`accepted` gives the current values. Of images that are warped,
    ``short_side`` is the length of both sides.
    """
    settings = {
        "version": _VERSION,
        **_FIRST_ACCEPTED,
        "short_side": side,
        "crop": "centre",
        "channels": channels,
        "filter": "torch bilinear, antialiased",
        "draft": f"JPEG decoded at 1/2, 1/4 or 1/8 where that leaves {_DRAFT_GAP} short sides or more",
        "orientation": "EXIF",
        "background": list(BACKGROUND),
        "max_aspect": MAX_ASPECT,
    }
    if resize == "warp":
        settings |= {"resize": "warp", "crop": "none", "filter": "torch bilinear, not antialiased", "draft": "none"}
    elif resize == "stretch":
        settings |= {"resize": "stretch", "crop": "none", "draft": "none"}
    return settings if view == AS_STATED else settings | view._asdict()


def decode(
    data: bytes, *, target: int | None = None, notes: list[str] | None = None, view: DicomView = AS_STATED
) -> Image.Image:
    """The image in a file: upright, opaque, of mode "RGB", or "L" if the file is grey.

    A grey DICOM image has the mode "F" and levels of 0 … 255: :func:`fit` rounds them. ``view``: its window and frame.

    ``target``: the short side, in pixels, to which the image will be resized. A JPEG may then be decoded at 1/2, 1/4 or
    1/8 of its size, which is several times faster, but never below twice ``target``. Remarks about the file, such as
    "first frame of 3", are appended to ``notes``. Raises ``ImageRefusedError``.
    """
    notes = [] if notes is None else notes
    limit = max_pixels()
    if containers.kind_of(data) == "DICOM":
        _check_aspect(*_or_refused(dicom.size(data, limit)))
        return _or_refused(dicom.decode(data, view, limit, notes))
    kind, image = _open(data, limit)
    with _refusing(kind):
        _check_contents(data, kind, image, limit)
        _note_frames(data, kind, image, notes)
        if target is not None and kind == "JPEG" and not jpeg.is_lossless(data):
            gap = _DRAFT_GAP * target
            image.draft(None, (gap, gap))
        _check_size(image, limit)
        turn = _UPRIGHT.get(_orientation(data, kind, image))
        image.load()
        _check_size(image, limit)  # HEIC: the size can change
        flat = _flatten(data, kind, image, notes)
        return flat if turn is None else flat.transpose(turn)


def raw_png(data: bytes) -> Image.Image:
    """A PNG image as it is stored: the places in its palette are not replaced by colours.

    Raises ``ImageRefusedError`` for a file that is no PNG, is damaged, or is too large.
    """
    limit = max_pixels()
    kind, image = _open(data, limit)
    if kind != "PNG":
        raise ImageRefusedError(f"is a {kind} file: a mask is a PNG, whose values are not changed by compression")
    with _refusing(kind):
        _check_contents(data, kind, image, limit)
        image.load()
    return image


def upright_image(image: Image.Image) -> Image.Image:
    """An image in memory as :func:`decode` returns it, with its EXIF orientation applied if it has one.

    Raises ``ImageRefusedError``.
    """
    limit = max_pixels()
    with _refusing(image.format or "image"):
        _check_header(image, limit)
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _flatten(b"", "", upright, [])


def whole_pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """The ``(H, W, channels)`` uint8 pixels of a decoded image, without resizing. ``channels``: 1 or 3."""
    if image.mode == "F":
        image = Image.fromarray(_rounded(np.array(image)))
    converted = image if image.mode == _MODES[channels] else image.convert(_MODES[channels])
    return np.array(converted).reshape(image.height, image.width, channels)


def image_size(data: bytes) -> tuple[int, int]:
    """``(height, width)`` of the upright image, from the header only.

    Raises ``ImageRefusedError``. Without an error, decoding the pixels can still fail.
    """
    if containers.kind_of(data) == "DICOM":
        return _or_refused(dicom.size(data, max_pixels()))
    kind, image = _open(data, max_pixels())
    width, height = image.size
    return (width, height) if _orientation(data, kind, image) >= 5 else (height, width)


def fit(image: Image.Image, side: int, channels: int, resize: Resize = "short-side") -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` uint8 pixels of an image: short side resized to ``side``, then the centre square.

    ``resize="warp"``: both sides resized to ``side``, see above; ``"stretch"``: the same with antialiasing.
    ``channels``: 1 or 3. With ``"short-side"``, the result equals that of torchvision's ``Resize(side)`` and
    ``CenterCrop(side)`` (v2, of a uint8 tensor, on a processor with AVX2), including rounding, so weights trained with
    those get the same pixels here. Of a Pillow image, torchvision's result differs by one grey level in some pixels.
    Raises ``ImageRefusedError`` if the resized image would need too much memory.
    """
    pixels = np.array(image)
    if resize != "short-side":
        square = pixels if image.size == (side, side) else _resize(pixels, side, side, antialias=resize == "stretch")
    else:
        square = _centre_square(pixels, side)
    square, mode = (_rounded(square), "L") if image.mode == "F" else (square, image.mode)
    if mode != _MODES[channels]:
        square = np.array(Image.fromarray(square).convert(_MODES[channels]))
    return np.ascontiguousarray(square).reshape(side, side, channels)


def _rounded(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats of 0 … 255 as bytes."""
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)


def _centre_square(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """The centre square of ``(H, W)`` or ``(H, W, 3)`` pixels whose short side has been resized to ``side``."""
    height, width = pixels.shape[:2]
    if min(width, height) != side:
        long = int(side * max(width, height) / min(width, height))
        if side * long > MOST_RESIZED_PIXELS:
            raise ImageRefusedError(f"is {width} × {height} pixels: a short side of {side} makes it too large")
        width, height = (side, long) if width <= height else (long, side)
        pixels = _resize(pixels, height, width)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return pixels[top : top + side, left : left + side]


def _resize(pixels: NDArray[Any], height: int, width: int, *, antialias: bool = True) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)`` pixels, uint8 or floats, resized."""
    images = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)
    resized = F.interpolate(images, (height, width), mode="bilinear", antialias=antialias)
    return resized.permute(0, 2, 3, 1).reshape(height, width, *pixels.shape[2:]).numpy()


def _or_refused(found: Found | str) -> Found:
    """What was found in a DICOM file. Raises ``ImageRefusedError`` for the reason of a refusal."""
    if isinstance(found, str):
        raise ImageRefusedError(found)
    return found


@contextlib.contextmanager
def _refusing(kind: str) -> Iterator[None]:
    """Turn an exception of Pillow into ``ImageRefusedError``."""
    try:
        yield
    except ImageRefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefusedError("has more pixels than Pillow decodes in this format") from error
    except _PILLOW_ERRORS as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageRefusedError(f"is not a readable {kind} file ({detail})") from error


def _open(data: bytes, limit: int) -> tuple[str, ImageFile]:
    """The format of a file and its header, read by Pillow. No pixel is decoded.

    ``limit``: the largest number of pixels that are decoded. Raises ``ImageRefusedError`` for a format, a size or a
    pixel type that is not accepted.
    """
    kind = containers.kind_of(data)
    if kind is None:
        raise ImageRefusedError(containers.foreign_fault(data))
    if kind in _CHECKS_BEFORE and (fault := _CHECKS_BEFORE[kind](data)):
        raise ImageRefusedError(fault)
    plugin = _plugin(kind)
    with _refusing(kind):
        image = plugin(io.BytesIO(data))
    _check_header(image, limit * MAX_REDUCTION if kind == "JPEG" else limit)
    return kind, image


_CHECKS_BEFORE: dict[str, Callable[[bytes], str | None]] = {
    "JPEG": jpeg.segments_fault,
    "PNG": png.chunks_fault,
    "GIF": containers.gif_fault,
    "TIFF": containers.tiff_tags_fault,
    "AVIF": containers.iso_fault,
    "HEIC": containers.iso_fault,
}
"""What Pillow would parse in Python, or with more memory than the file has, is counted first."""


def _plugin(kind: str) -> type[ImageFile]:
    """The class of Pillow that reads a format. Raises ``ImageRefusedError`` if a package for it is not installed."""
    if kind == "AVIF" and not AvifImagePlugin.SUPPORTED:
        raise ImageRefusedError(
            "is an AVIF image, and the installed Pillow was built without AVIF: install another one"
        )
    if kind != "HEIC":
        return _PLUGINS[kind]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageRefusedError("is a HEIC image: to read it, run pip install 'alexnet[heic]'") from error
    return cast("type[ImageFile]", HeifImageFile)


def _check_contents(data: bytes, kind: str, image: ImageFile, limit: int) -> None:
    """Raise ``ImageRefusedError`` for a file that is truncated or costs too much, as far as its structure tells."""
    fault = None
    if kind == "PNG":
        fault = png.fault(data)
    elif kind == "JPEG":
        fault = jpeg.scans_fault(data, limit)
    elif kind == "BMP":
        fault = containers.bmp_fault(data, image)
    elif isinstance(image, TiffImageFile):
        fault = containers.tiff_fault(data, image, limit)
    if fault:
        raise ImageRefusedError(fault)


def _check_size(image: Image.Image, limit: int) -> None:
    """Raise ``ImageRefusedError`` for an image of more pixels than ``limit``."""
    width, height = image.size
    if width * height > limit:
        raise ImageRefusedError(
            f"is {width} × {height} pixels, more than {limit / 1e6:g} million: {containers.RAISE_LIMIT}"
        )


def _check_aspect(height: int, width: int) -> None:
    """Raise ``ImageRefusedError`` for a strip."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageRefusedError(f"is {width} × {height} pixels, one side more than {MAX_ASPECT} times the other")


def _check_header(image: Image.Image, limit: int) -> None:
    """Raise ``ImageRefusedError`` for a size or a pixel type that is not accepted."""
    width, height = image.size
    if not width * height:
        raise ImageRefusedError("has no pixels")
    _check_size(image, limit)
    _check_aspect(height, width)
    if image.mode in _WRONG_MODES:
        raise ImageRefusedError(
            f"has {_WRONG_MODES[image.mode]} pixels, whose range is unknown: scale it to 0…255 and save it with 8 bits"
        )


def _orientation(data: bytes, kind: str, image: ImageFile) -> int:
    """The EXIF orientation, 1 to 8; always 1, upright, for a TIFF and a HEIC, which their decoders rotate."""
    exif = png.exif(data) if kind == "PNG" else b"" if kind in ("TIFF", "HEIC") else image.info.get("exif") or b""
    return containers.orientation(exif)


def _note_frames(data: bytes, kind: str, image: ImageFile, notes: list[str]) -> None:
    """Add a note if only the first of several frames is used. Raises ``ImageRefusedError`` for a truncated GIF."""
    count: int | None = getattr(image, "n_frames", 1) if kind in ("PNG", "WebP", "AVIF", "HEIC") else 1
    frames = containers.gif_frames(data) if kind == "GIF" else count
    if frames is None:
        raise ImageRefusedError("is truncated (no GIF trailer)")
    if frames > 1:
        notes.append(f"main image of {frames}" if kind == "HEIC" else f"first frame of {frames}")
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
