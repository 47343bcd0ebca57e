"""Checks of the bytes of an image file before it is decoded: format, orientation, truncation.

Decoders are lenient: a GIF without its end, or a TIFF whose directory points beyond the file, is decoded with parts
missing or not at all, depending on the version. Here a file is refused by the structure of its format. The checks of
PNG files, which are longer, are in ``png.py``.
"""

from __future__ import annotations

import contextlib
import struct

from PIL.TiffImagePlugin import TiffImageFile

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
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WebP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF",
}  # fmt: skip
"""Suffix in lower case → the format that it stands for. The content of a file can be another one."""

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


def kind_of(data: bytes) -> str | None:
    """The format of a file by its first bytes, e.g. "JPEG"; None if it is none of the formats that are read."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def foreign_fault(data: bytes) -> str:
    """Why a file of another format is refused, as the predicate of a sentence: "is empty"."""
    if not data:
        return "is empty"
    if not data.strip(b"\0"):
        return "holds only zero bytes"
    guess = _foreign_kind(data)
    looks_like = f" (it looks like {guess})" if guess else ""
    return f"is not a JPEG, PNG, WebP, GIF, BMP or TIFF image{looks_like}"


def _foreign_kind(data: bytes) -> str | None:
    """A likely format of a file that is not read; None if there is no guess."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"heic": "HEIC", b"mif1": "HEIC"}.get(data[8:12], "a video")
    for signature, name in _FOREIGN.items():
        if head.startswith(signature):
            return name
    if b"<svg" in head:
        return "SVG"
    text = head.decode("utf-8", "replace").removesuffix("\ufffd")  # a character that the end of the head cuts in two
    return "text" if all(char != "\ufffd" and (char.isprintable() or char.isspace()) for char in text) else None


def orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1, upright, if there is none or it cannot be read.

    Pillow's own reader is not used: it warns or stops at damage elsewhere in the block (CIPA DC-008, tag 0x0112).
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif.startswith(b"II") else ">"
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, at)
            if tag == 0x0112:
                return int(value) if 1 <= value <= 8 else 1
    return 1


def gif_frames(data: bytes) -> int | None:
    """The number of frames of a GIF, from its blocks (GIF89a specification, sections 17 to 27); None if truncated."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    try:
        at, frames = 13 + colours(data[10]), 0
        while (block := data[at]) != 0x3B:  # the trailer
            if block not in (0x2C, 0x21):  # neither an image nor an extension: decoders skip it too
                at += 1
                continue
            frames += block == 0x2C
            at += 11 + colours(data[at + 9]) if block == 0x2C else 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return None
    return frames


def tiff_fault(data: bytes, image: TiffImageFile, max_pixels: int) -> str | None:
    """Why a TIFF that Pillow opened is refused, as the predicate of a sentence; None if it is not.

    Such a file would be decoded with parts missing, with wrong grey levels, or into too much memory. A file that is
    damaged in other ways can raise any exception here. Tag numbers: TIFF 6.0, section 8 and appendix A.
    """
    tags = image.tag_v2
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    offsets, sizes = (tags.get(273) or tags.get(324, ()), tags.get(279) or tags.get(325, ()))
    if len(tags) < count or any(at + size > len(data) for at, size in zip(offsets, sizes, strict=False)):
        return "is truncated (its TIFF directory points beyond its end)"
    if tags.get(322, 0) * tags.get(323, 0) > max_pixels:
        return f"has TIFF tiles of more than {max_pixels / 1e6:g} megapixels"
    planes = len(image.getbands()) if tags.get(284) == 2 and image.info["compression"] == "raw" else 1
    boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (below - above) for left, above, right, below in boxes)
    if covered < planes * image.width * image.height:
        return "has TIFF strips that do not cover the picture"
    if image.mode.startswith("I;16") and (tags.get(258) != (16,) or tags.get(262) != 1):
        return "has inverted or 12-bit grey pixels: save it with 8 or 16 bits, black as zero"
    return None
