"""Checks of the bytes of an image file before it is decoded: format, orientation, truncation.

Decoders are lenient: a GIF without its end, or a TIFF whose directory points beyond the file, is decoded with parts
missing or not at all, depending on the version. Here a file is refused by the structure of its format. The checks of
PNG and JPEG files, which are longer, are in ``png.py`` and ``jpeg.py``.

Small files can also ask for much time or memory: millions of empty blocks, which Pillow reads one by one in Python, or
tags of a TIFF that all stand for the same bytes. These are counted here, before Pillow parses the file.
"""

from __future__ import annotations

import contextlib
import re
import struct

from PIL.ImageFile import ImageFile
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
    ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM",
    ".pnm": "PPM", ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM",
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
    b"\0\0\0\x0cjxl ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"p7\n": "PAM",
    b"pf\n": "PFM, floating-point pixels",
}
# ISO base media files name their brands in the first box (ISO/IEC 14496-12; 23008-12, annexes B and E; AVIF 1.1).
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
}
_ANY_CODEC = (b"mif1", b"msf1", b"mif2", b"miaf", b"heif")  # HEIF with one of several codecs
_BOXES = (b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"free", b"skip", b"uuid")

HEAD = 132  # bytes that show the format of a file
RAISE_LIMIT = "set ALEXNET_MAX_PIXELS to raise the limit"  # the end of a refusal that depends on it
MAX_GIF_BLOCKS = 1 << 20  # data blocks of up to 255 bytes
MAX_TIFF_TAGS = 4096  # in the first directory
MAX_TIFF_STRIPS = 500_000  # or tiles
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MAX_RLE_RUNS = 8_000_000  # of a BMP; Pillow decodes about a million a second


NO_IMAGE = "is not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, DICOM, PPM or PGM image"


def kind_of(data: bytes) -> str | None:
    """The format of a file by its first bytes, e.g. "JPEG"; None if it is none of the formats that are read.

    ``HEAD`` bytes are enough. A DICOM file may begin as a file of another format: it is DICOM, because it names a
    person.
    """
    if data[128:HEAD] == b"DICM":  # PS3.10, section 7.1
        return "DICOM"
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"P[1-6][\s#]", data):
        return "PPM"
    return _iso_kind(data)


def _iso_kind(data: bytes) -> str | None:
    """``"AVIF"`` or ``"HEIC"`` by the major brand of an ISO base media file, or by its compatible brands; else None."""
    if data[4:8] != b"ftyp":
        return None
    stop = min(int.from_bytes(data[:4], "big"), 1024)
    compatible = [data[at : at + 4] for at in range(16, stop - 3, 4)]
    brands = [data[8:12], *compatible]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if known:
        return known[0]
    return "HEIC" if any(brand in _ANY_CODEC for brand in brands) else None


def foreign_fault(data: bytes) -> str:
    """Why a file of another format is refused, as the predicate of a sentence: "is empty"."""
    if not data:
        return "is empty"
    if not data.strip(b"\0"):
        return "holds only zero bytes"
    guess = _foreign_kind(data)
    looks_like = f" (it looks like {guess})" if guess else ""
    return f"{NO_IMAGE}{looks_like}"


def _foreign_kind(data: bytes) -> str | None:
    """A likely format of a file that is not read; None if there is no guess."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return "a Canon raw photograph" if data[8:12] == b"crx " else "a video"
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
    """The number of frames of a GIF; None if it is truncated."""
    frames, _, whole = _gif_blocks(data)
    return frames if whole else None


def gif_fault(data: bytes) -> str | None:
    """Why a GIF is refused before Pillow parses it, as the predicate of a sentence; None if it is not."""
    return f"has more than {MAX_GIF_BLOCKS:,} GIF blocks" if _gif_blocks(data)[1] > MAX_GIF_BLOCKS else None


def _gif_blocks(data: bytes) -> tuple[int, int, bool]:
    """Frames, data blocks (and bytes outside of blocks), and whether the trailer was found.

    The walk ends after ``MAX_GIF_BLOCKS``. Blocks: GIF89a specification, sections 17 to 27.
    """

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    frames = blocks = 0
    try:
        at = 13 + colours(data[10])
        while (block := data[at]) != 0x3B and blocks <= MAX_GIF_BLOCKS:  # the trailer
            blocks += 1
            if block not in (0x2C, 0x21):  # neither an image nor an extension: decoders skip it too
                at += 1
                continue
            frames += block == 0x2C
            at += 11 + colours(data[at + 9]) if block == 0x2C else 2
            while data[at] and blocks <= MAX_GIF_BLOCKS:
                at += 1 + data[at]
                blocks += 1
            at += 1
    except IndexError:
        return frames, blocks, False
    return frames, blocks, blocks <= MAX_GIF_BLOCKS


def bmp_fault(data: bytes, image: ImageFile) -> str | None:
    """Why a BMP that Pillow opened is refused, as the predicate of a sentence; None if it is not."""
    runs = min(image.width * image.height, len(data) // 2)
    if image.tile and image.tile[0].codec_name == "bmp_rle" and runs > MAX_RLE_RUNS:
        return (
            f"is a run-length encoded BMP that may hold more than {MAX_RLE_RUNS / 1e6:g} million runs: save it as PNG"
        )
    return None


def iso_fault(data: bytes) -> str | None:
    """Why an AVIF or HEIC file is refused, as the predicate of a sentence; None if its boxes are inside the file.

    Decoders find a missing part of the first image, not one of the images after it.
    """
    at = 0
    while data[at + 4 : at + 8] in _BOXES:
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # up to the end of the file
            return None
        if size < 8 or at + size > len(data):
            return f"is truncated (its box {data[at + 4 : at + 8].decode()} goes beyond its end)"
        at += size
    return None


def tiff_tags_fault(data: bytes) -> str | None:
    """Why a TIFF is refused before Pillow parses it, as the predicate of a sentence; None if it is not.

    Tags may share their bytes, so a few kilobytes of directory can ask for gigabytes. Pillow reads all tags of the
    first directory, and makes an object for each strip or tile.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    entry, width = struct.Struct(order + ("HHQ8x" if big else "HHI4x")), 8 if big else 4
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        first = start + (8 if big else 2)
        if count > MAX_TIFF_TAGS:
            return f"has more than {MAX_TIFF_TAGS:,} TIFF tags"
        total = 0
        for number in range(count):
            tag, kind, values = entry.unpack_from(data, first + number * entry.size)
            if tag in (273, 324) and values > MAX_TIFF_STRIPS:
                return f"has more than {MAX_TIFF_STRIPS:,} TIFF strips or tiles"
            size = values * _TIFF_UNITS.get(kind, 0)
            total += size if size > width else 0
    except (struct.error, OverflowError):
        return None  # damaged: Pillow says how
    return "has TIFF tags of more bytes than the file" if total > len(data) else None


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
        return f"has TIFF tiles of more than {max_pixels / 1e6:g} megapixels: {RAISE_LIMIT}"
    planes = len(image.getbands()) if tags.get(284) == 2 and image.info["compression"] == "raw" else 1
    boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (below - above) for left, above, right, below in boxes)
    if covered < planes * image.width * image.height:
        return "has TIFF strips that do not cover the picture"
    if image.mode.startswith("I;16") and (tags.get(258) != (16,) or tags.get(262) != 1):
        return "has inverted or 12-bit grey pixels: save it with 8 or 16 bits, black as zero"
    return None
