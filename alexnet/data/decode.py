"""Bytes to pixels: the one path by which every photograph enters, and every reason why one may not.

``prepare``, ``train``, ``evaluate``, ``predict`` and ``serve`` all call ``read_pixels``: what a network is shown never
depends on who asks. The path is Pillow's decoder, the EXIF orientation, a white background behind transparent pixels,
the short side resized by Pillow's antialiased bilinear filter, and the centre square: the way in which Krizhevsky,
Sutskever and Hinton (2012, section 2) prepared ILSVRC. ``preprocessing`` says so in JSON; stores and models carry it.

A file is refused, never half read. The limits on size are applied to the header, before any pixel is decoded; a
truncated file is refused in every format; PNG is inflated first to see that it is whole (``png.py``). What no decoder
sees is damage that leaves a valid file: **a flipped bit or a stretch missing from within a JPEG, a lossy WebP, a BMP,
a GIF or a TIFF gives wrong pixels and no error.** Only a list of checksums finds that. Of a JPEG with several pictures
(MPO) only the first is looked at. Colour profiles are not applied.

Pillow's own front door, ``Image.open``, is not used. It warns of pictures between 89 and 179 megapixels and of odd
metadata, and what a warning does is decided for the whole process: one thread cannot change it for itself. Its format
plugins are called directly instead, after an allow-list of signatures. Where one still warns (odd TIFF tags) and the
process has made warnings errors, that is a refusal. Every function here may run in several threads at once.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from alexnet.data import png

MAX_PIXELS = 40_000_000
MAX_ASPECT = 50
BACKGROUND = (255, 255, 255)
# As Pillow's thumbnails do. scikit-learn's two photographs, enlarged to 10 megapixels: drafts of 1 × the target move
# the result by 3 and 7 grey levels of 255 on average, drafts of 2 × by 0.6 and 1.5, and still decode 3.5 times as fast.
_DRAFT_GAP = 2
_VERSION = 1  # raised whenever the same file may come out as other pixels

_MODES = {1: "L", 3: "RGB"}
_WRONG_MODES = {"I": "32-bit or signed integer", "F": "floating-point"}

# Orientation of the EXIF standard (CIPA DC-008, tag 0x0112): what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's plugins raise on damaged files. Half a million mutated files raised the first five and the last two; the
# others are what Python code raises that unpacks, indexes, divides and asserts on a file's own numbers, as theirs does.
# Slips of our own (NameError, ImportError) are not among them.
_PILLOW_ERRORS = (
    OSError,  # truncated, broken
    SyntaxError,  # not a file of this format
    ValueError,
    IndexError,
    struct.error,
    zlib.error,
    EOFError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    ArithmeticError,  # overflow, division by zero
    RuntimeError,  # also RecursionError and NotImplementedError
    MemoryError,
    Image.DecompressionBombError,
    Warning,  # only where the process has made warnings errors
)


class ImageRefusedError(ValueError):
    """Why an image is not taken: the predicate of a sentence about it, in one line, without its name."""


class _Jpeg(JpegImageFile):
    """Pillow's JPEG without its search for a resolution, which warns of damage to EXIF that nobody here reads."""

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
_SIGNATURES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_FOREIGN = {
    b"<!doctype html": "HTML",
    b"<html": "HTML",
    b"<svg": "SVG",
    b"%pdf": "PDF",
    b"pk\x03\x04": "a ZIP archive",
    b"8bps": "Photoshop",
    b"\x1f\x8b": "gzip",
    b"\0\0\0\x0cjp  ": "JPEG 2000",
}


def read_pixels(data: bytes, side: int, channels: int) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` pixels of an image file: ``decode``, then ``fit``."""
    return fit(decode(data, target=side), side, channels)


def preprocessing(side: int, channels: int) -> dict[str, Any]:
    """The settings of ``read_pixels`` as JSON: under one version of Pillow, equal settings give equal pixels."""
    return {
        "version": _VERSION,
        "formats": list(_PLUGINS),
        "short_side": side,
        "crop": "centre",
        "channels": channels,
        "filter": "Pillow bilinear, antialiased",
        "draft": f"JPEG decoded at 1/2, 1/4 or 1/8 where that leaves {_DRAFT_GAP} short sides or more",
        "orientation": "EXIF",
        "background": list(BACKGROUND),
        "max_pixels": MAX_PIXELS,
        "max_aspect": MAX_ASPECT,
    }


def decode(data: bytes, *, target: int | None = None, notes: list[str] | None = None) -> Image.Image:
    """The picture in an image file: upright, opaque, of mode "RGB", or "L" if the file is grey.

    ``target``: the short side that will be asked for later. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size,
    which is several times faster, but never below twice ``target``. ``notes`` receives what a report should say of the
    file. Raises ``ImageRefusedError``.
    """
    notes = [] if notes is None else notes
    kind = _kind(data)
    image = _open(data, kind)
    if kind == "PNG" and (fault := png.fault(data)):
        raise ImageRefusedError(fault)
    _note_frames(data, kind, image, notes)
    with _refusing(kind):
        if isinstance(image, TiffImageFile):
            _check_tiff(data, image)
        if target is not None:
            gap = _DRAFT_GAP * target
            image.draft(None, (gap, gap))  # does nothing unless the file is a JPEG
        turn = _UPRIGHT.get(_orientation(data, kind, image))
        image.load()
        flat = _flatten(data, kind, image, notes)
        return flat if turn is None else flat.transpose(turn)


def image_size(data: bytes) -> tuple[int, int]:
    """``(height, width)`` of the picture, upright, from the header alone.

    Raises ``ImageRefusedError``; that it does not is no promise that the pixels can be decoded.
    """
    kind = _kind(data)
    image = _open(data, kind)
    width, height = image.size
    return (width, height) if _orientation(data, kind, image) >= 5 else (height, width)


def fit(image: Image.Image, side: int, channels: int) -> NDArray[np.uint8]:
    """The ``(side, side, channels)`` pixels of a picture: short side resized to ``side``, centre square cut out.

    ``channels``: 1 or 3. Equal to torchvision's ``Resize(side)`` and ``CenterCrop(side)`` byte for byte, roundings
    included, so that weights trained through those see here what they saw there.
    """
    width, height = image.size
    if min(width, height) != side:
        long = int(side * max(width, height) / min(width, height))
        width, height = (side, long) if width <= height else (long, side)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    square = image.crop((left, top, left + side, top + side)).convert(_MODES[channels])
    return np.array(square, dtype=np.uint8).reshape(side, side, channels)


@contextlib.contextmanager
def _refusing(kind: str) -> Iterator[None]:
    """Turn what Pillow raises into a refusal."""
    try:
        yield
    except ImageRefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefusedError(f"has more than {MAX_PIXELS / 1e6:g} megapixels") from error
    except _PILLOW_ERRORS as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageRefusedError(f"is not a readable {kind} file ({detail})") from error


def _kind(data: bytes) -> str:
    """The format of a file by its first bytes; its name does not matter."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if not data:
        raise ImageRefusedError("is empty")
    if not data.strip(b"\0"):
        raise ImageRefusedError("holds nothing but zero bytes")
    guess = _foreign_kind(data)
    seems = f" (it looks like {guess})" if guess else ""
    raise ImageRefusedError(f"is not a JPEG, PNG, WebP, GIF, BMP or TIFF image{seems}")


def _foreign_kind(data: bytes) -> str | None:
    """What a file that is no image of ours seems to be."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"heic": "HEIC", b"mif1": "HEIC"}.get(data[8:12], "a video")
    for signature, name in _FOREIGN.items():
        if head.startswith(signature):
            return name
    if b"<svg" in head:
        return "SVG"
    text = head.decode("utf-8", "replace").removesuffix("\ufffd")  # a character cut in two by the end of the head
    return "text" if all(sign != "\ufffd" and (sign.isprintable() or sign.isspace()) for sign in text) else None


def _open(data: bytes, kind: str) -> ImageFile:
    """The file's header as Pillow reads it, of a size and a kind of pixel that we take; no pixel is decoded."""
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
    return image


def _orientation(data: bytes, kind: str, image: ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none or it cannot be read.

    Read here because Pillow's reader warns of, or stops at, damage elsewhere in the EXIF block. TIFF it turns itself.
    """
    exif = png.exif(data) if kind == "PNG" else b"" if kind == "TIFF" else image.info.get("exif", b"")
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif.startswith(b"II") else ">"
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, at)
            if tag == 0x0112:
                return int(value) if value in _UPRIGHT else 1
    return 1


def _note_frames(data: bytes, kind: str, image: ImageFile, notes: list[str]) -> None:
    """Note that only the first of several frames is taken; refuse a GIF that is cut off behind it."""
    frames = _gif_frames(data) if kind == "GIF" else getattr(image, "n_frames", 1) if kind in ("PNG", "WebP") else 1
    if frames > 1:
        notes.append(f"first frame of {frames}")
    elif kind == "TIFF" and getattr(image, "is_animated", False):
        notes.append("first of several pages")


def _gif_frames(data: bytes) -> int:
    """The number of frames of a GIF, from its blocks (GIF89a specification, sections 17 to 27)."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    try:
        at, frames = 13 + colours(data[10]), 0
        while (block := data[at]) != 0x3B:  # the trailer
            if block not in (0x2C, 0x21):  # decoders, too, skip what is neither picture nor extension
                at += 1
                continue
            frames += block == 0x2C
            at += 11 + colours(data[at + 9]) if block == 0x2C else 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError as error:
        raise ImageRefusedError("is truncated (no GIF trailer)") from error
    return frames


def _check_tiff(data: bytes, image: TiffImageFile) -> None:
    """Refuse a TIFF that Pillow would show with parts missing, blow up in memory, or with other greys than meant.

    Tag numbers: TIFF 6.0, section 8 and appendix A.
    """
    tags = image.tag_v2
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    offsets, sizes = (tags.get(273) or tags.get(324, ()), tags.get(279) or tags.get(325, ()))
    if len(tags) < count or any(at + size > len(data) for at, size in zip(offsets, sizes, strict=False)):
        raise ImageRefusedError("is truncated (its TIFF directory points beyond its end)")
    if tags.get(322, 0) * tags.get(323, 0) > MAX_PIXELS:
        raise ImageRefusedError(f"has TIFF tiles of more than {MAX_PIXELS / 1e6:g} megapixels")
    planes = len(image.getbands()) if tags.get(284) == 2 and image.info["compression"] == "raw" else 1
    boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (below - above) for left, above, right, below in boxes)
    if covered < planes * image.width * image.height:
        raise ImageRefusedError("has TIFF strips that do not cover the picture")
    if image.mode.startswith("I;16") and (tags.get(258) != (16,) or tags.get(262) != 1):
        raise ImageRefusedError("has inverted or 12-bit grey pixels: save it with 8 or 16 bits, black as zero")


def _flatten(data: bytes, kind: str, image: Image.Image, notes: list[str]) -> Image.Image:
    """A decoded picture of any mode as "RGB", or "L" if it is grey, composited over ``BACKGROUND``."""
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
    """Mode "I;16" as "L", or "LA" if one grey is transparent: 65535 becomes 255. (Pillow's conversion clips at 255.)"""
    wide = np.asarray(image)
    grey = Image.fromarray(((wide.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8))))
