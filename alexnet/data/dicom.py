"""One frame of a DICOM file as an image, or the reason why the file is refused.

The header is read here and not by pydicom, for one reason: a DICOM file names a person, and pydicom's warnings and
exceptions quote the values that they are about. This reader looks only at the elements that describe the pixels
(:data:`_TAGS`), and no value of the file is part of any message: refusals consist of words of this module and of
numbers. Pydicom (the extra ``medical``) decodes the pixel data, from their bytes and these numbers alone. The format:
PS3.5 (data elements, section 7; sequences, 7.5; encapsulated pixel data, A.4) and PS3.10 (the file, section 7).

What a grey image looks like (PS3.3 C.11.1 and C.11.2):

1. the stored value, of up to 16 bits (32 in some files), signed or not; bits above Bits Stored are not part of it;
2. the modality LUT, or rescale slope and intercept, in float64: Hounsfield units in CT;
3. the window, (x - c + w/2) / w, clipped to 0 … 1. It is the function LINEAR_EXACT of C.11.2.1.3.2. The default of
   the standard, LINEAR (C.11.2.1.2), is (x - (c - 0.5)) / (w - 1) + 0.5, which differs by at most one unit of the
   values and has no meaning for a width of 1 or less; one function for every file keeps images of several vendors
   alike.
   The window is that of the view that is asked for, else the first one of the file, else it spans the 1st to the 99th
   percentile of the frame. VOI LUTs and SIGMOID functions are not applied: the window is used in their place;
4. MONOCHROME1 (0 is white) is inverted.

The result keeps its full depth, as floats of 0 … 255: ``decode.py`` resizes it and only then rounds it to 8 bits.
Colours of more than 8 bits are scaled to 8 bits first. Overlays and shutters are not drawn.

Text that is burned into the pixels cannot be found by a reader: a note says where the file itself declares it (Burned
In Annotation).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile

from alexnet.core.dicom_view import DicomView
from alexnet.data import jpeg
from alexnet.data.containers import RAISE_LIMIT

NEEDS_EXTRA = "is a DICOM image: to read it, run pip install 'alexnet[medical]'"
DAMAGED = "is a damaged DICOM file"
TRUNCATED = "is truncated (a DICOM element goes beyond its end)"
BURNED_IN = "text may be part of the picture (Burned In Annotation): it is not removed"
NO_PATIENT = "without Patient ID: kept together by study"

MAX_ELEMENTS = 1_000_000  # of a header: an enhanced CT has about 100 for each of its frames
MAX_DEPTH = 16  # of sequences in sequences
MAX_INFLATED = 256 << 20  # bytes of a deflated data set
MAX_FRAMES = 1_000_000
PERCENTILES = (1, 99)

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}
_TAGS = {
    "class": 0x00080016, "meta_class": 0x00020002, "syntax": 0x00020010, "patient": 0x00100020, "study": 0x0020000D,
    "series": 0x0020000E,
    "samples": 0x00280002, "photometric": 0x00280004, "planar": 0x00280006, "frames": 0x00280008, "rows": 0x00280010,
    "columns": 0x00280011, "allocated": 0x00280100, "stored": 0x00280101, "high": 0x00280102, "signed": 0x00280103,
    "burned": 0x00280301, "centre": 0x00281050, "width": 0x00281051, "intercept": 0x00281052, "slope": 0x00281053,
    "modality_lut": 0x00283000, "lut_descriptor": 0x00283002, "lut_data": 0x00283006, "shared": 0x52009229,
    "per_frame": 0x52009230, "frame_window": 0x00289132, "frame_values": 0x00289145, "red": 0x00281101,
    "red_data": 0x00281201,
}  # fmt: skip

# Prefixes of SOP classes (PS3.4 annex B, PS3.6 annex A) that are no images, also where they have pixel data.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {
    "1.2.840.10008.1.3.10": "directory of DICOM files", _STORAGE + "66": "segmentation or registration",
    _STORAGE + "67": "real world value mapping", _STORAGE + "68": "surface scan", _STORAGE + "481.2": "dose",
    _STORAGE + "481.3": "structure set", _STORAGE + "481": "treatment plan or record",
    _STORAGE + "88": "structured report", _STORAGE + "9": "waveform", _STORAGE + "11": "presentation state",
    _STORAGE + "104": "document", _STORAGE + "30": "parametric map", _STORAGE + "4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.39": "colour palette", _STORAGE + "90": "content assessment",
}  # fmt: skip
_NOT_THESE = {_STORAGE + "481.1": "RT image"}

_IMPLICIT, _DEFLATED, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_NATIVE = {_IMPLICIT, "1.2.840.10008.1.2.1", _DEFLATED, _BIG}
_JPEG = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
_JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
_RLE = "1.2.840.10008.1.2.5"
_DECODED = _NATIVE | _JPEG | _JPEG_2000 | {_RLE}
_OTHERS = {
    "1.2.840.10008.1.2.4.57": "JPEG Lossless", "1.2.840.10008.1.2.4.70": "JPEG Lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS", "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.92": "JPEG 2000 multi-component", "1.2.840.10008.1.2.4.93": "JPEG 2000 multi-component",
    "1.2.840.10008.1.2.4.94": "JPIP", "1.2.840.10008.1.2.4.95": "JPIP",
    **{f"1.2.840.10008.1.2.4.{number}": "MPEG video" for number in range(100, 109)},
    "1.2.840.10008.1.2.4.110": "JPEG XL", "1.2.840.10008.1.2.4.111": "JPEG XL", "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "HTJ2K", "1.2.840.10008.1.2.4.202": "HTJ2K", "1.2.840.10008.1.2.4.203": "HTJ2K",
}  # fmt: skip
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"

# What numbers from a damaged file can raise here, in NumPy, in Pillow and in pydicom. Their texts are not used.
_ERRORS = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError, EOFError, OSError, MemoryError),
    *(ArithmeticError, RuntimeError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)

Value = TypeVar("Value")


class _RefusedError(Exception):
    """Why a file is refused: the predicate of a sentence."""


class _Element(NamedTuple):
    """Where the value of a data element is. ``stop``: -1 if it ends with a delimiter. ``implicit``: of its items."""

    start: int
    stop: int
    implicit: bool


def is_installed() -> bool:
    """Whether pydicom is there."""
    return importlib.util.find_spec("pydicom") is not None


def decode(data: bytes, view: DicomView, limit: int, notes: list[str]) -> Image.Image | str:
    """The frame of a file that ``view`` asks for, or why the file is refused: the predicate of a sentence.

    The image has the mode "RGB", or "F" with the grey values 0 … 255. ``limit``: the largest number of pixels; it is
    compared with the header. ``notes`` receives remarks.
    """
    return _or_reason(lambda: _decode(data, view, limit, notes))


def size(data: bytes, limit: int) -> tuple[int, int] | str:
    """``(height, width)`` from the header, or why the file is refused."""
    return _or_reason(lambda: _checked(data, limit).size)


def patient(data: bytes) -> tuple[str, str]:
    """A text that is equal for files of one patient, and a note; the text is a sha256 that names nobody.

    It is that of Patient ID; without one, that of the study or series. ("", "") if there is nothing, also for a damaged
    file.
    """

    def find() -> tuple[str, str]:
        header = _Header(data)
        for name in ("patient", "study", "series"):
            if value := header.bytes_of(name).strip(b" \0"):
                note = "" if name == "patient" else NO_PATIENT
                return hashlib.sha256(name.encode() + b"\0" + value).hexdigest(), note
        return "", ""

    found = _or_reason(find)
    return ("", "") if isinstance(found, str) else found


def _or_reason(work: Callable[[], Value]) -> Value | str:
    """The result, or why the file is refused. It catches every exception: a message could hold a value."""
    try:
        return work()
    except _RefusedError as error:
        return str(error)
    except _ERRORS:
        return DAMAGED


class _Header:
    """The data elements of a file. Raises ``_RefusedError``, ``struct.error`` or ``IndexError`` if it is damaged."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order, self.budget = "<", MAX_ELEMENTS
        self.elements, start = self._walk(132, len(data), implicit=False, meta=True)
        self.syntax, kind = self.text("syntax"), self.text("meta_class")
        if not self.syntax:
            raise _RefusedError("states no transfer syntax")
        if self.syntax == _DEFLATED:
            self.data, start = _inflated(data[start:]), 0
        elif self.syntax == _BIG:
            self.order = ">"
        implicit = self.data[start + 4 : start + 6] not in _SHORT | _LONG  # some files are not as their syntax says
        self.elements = self._walk(start, len(self.data), implicit=implicit)[0]
        self.kind = self.text("class") or kind

    def _walk(
        self, at: int, end: int, *, implicit: bool, meta: bool = False, depth: int = 0
    ) -> tuple[dict[int, _Element], int]:
        """Tag → element from ``at`` to ``end``, to the end of an item or behind the pixel data; and where that is.

        ``meta``: to the end of group 2.
        """
        if depth > MAX_DEPTH:
            raise _RefusedError("has too deeply nested sequences")
        found: dict[int, _Element] = {}
        while at + 8 <= end:
            self.budget -= 1
            if self.budget < 0:
                raise _RefusedError(f"has more than {MAX_ELEMENTS:,} DICOM elements")
            group, number = struct.unpack_from(self.order + "HH", self.data, at)
            tag = group << 16 | number
            if tag == _ITEM_END:
                return found, at + 8
            if meta and group != 2:
                return found, at
            length, start, unknown = self._length(at, implicit)
            inner = implicit or unknown  # PS3.5 6.2.2: what has no known type is implicit inside
            if length != _UNDEFINED:
                found[tag] = _Element(start, start + length, inner)
                at = start + length
                if at > end:
                    raise _RefusedError(TRUNCATED)
            else:
                found[tag] = _Element(start, -1, inner)
                at = self._behind_items(start, end, inner, depth, fragments=tag == _PIXELS)
                if tag == _PIXELS:
                    found[tag] = _Element(start, at, inner)
            if tag == _PIXELS and depth == 0:
                break
        return found, at

    def _length(self, at: int, implicit: bool) -> tuple[int, int, bool]:
        """The length of a value, where it starts, and whether its type is unknown."""
        if implicit or self.data[at + 2 : at + 4] == b"\xfe\xff":
            return struct.unpack_from(self.order + "I", self.data, at + 4)[0], at + 8, False
        kind = self.data[at + 4 : at + 6]
        if kind in _SHORT:
            return struct.unpack_from(self.order + "H", self.data, at + 6)[0], at + 8, False
        if not (kind in _LONG or (len(kind) == 2 and kind.isalpha() and kind.isupper())):
            raise _RefusedError(DAMAGED)
        return struct.unpack_from(self.order + "I", self.data, at + 8)[0], at + 12, kind == b"UN"

    def _behind_items(self, at: int, end: int, implicit: bool, depth: int, *, fragments: bool) -> int:
        """The place behind the delimiter of a sequence, or of the fragments of compressed pixels."""
        for _, stop in self._items(at, end, implicit, depth, fragments=fragments):
            at = stop
        return at

    def _items(
        self, at: int, end: int, implicit: bool, depth: int, *, fragments: bool = False
    ) -> Iterator[tuple[int, int]]:
        """(start of an item's content, the place behind it) for each item; last, the place behind the delimiter."""
        while at < end:
            if at + 8 > len(self.data):
                raise _RefusedError(TRUNCATED)
            self.budget -= 1
            group, number, length = struct.unpack_from(self.order + "HHI", self.data, at)
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                yield at + 8, at + 8
                return
            if tag != _ITEM or self.budget < 0:
                raise _RefusedError(DAMAGED)
            start = at + 8
            if length != _UNDEFINED:
                at = start + length
            elif fragments:
                raise _RefusedError(DAMAGED)
            else:
                at = self._walk(start, end, implicit=implicit, depth=depth + 1)[1]
            if at > end:
                raise _RefusedError(TRUNCATED)
            yield start, at

    def item(self, name: str, number: int = 0, inside: Mapping[int, _Element] | None = None) -> dict[int, _Element]:
        """The elements of one item of a sequence; empty if there is none."""
        element = (self.elements if inside is None else inside).get(_TAGS[name])
        if element is None:
            return {}
        end = len(self.data) if element.stop < 0 else element.stop
        for place, (start, stop) in enumerate(self._items(element.start, end, element.implicit, 1)):
            if place == number and start < stop:
                return self._walk(start, stop, implicit=element.implicit, depth=1)[0]
        return {}

    def bytes_of(self, name: str, inside: Mapping[int, _Element] | None = None) -> bytes:
        """The bytes of a value; empty if it is missing."""
        element = (self.elements if inside is None else inside).get(_TAGS[name])
        return b"" if element is None or element.stop < 0 else self.data[element.start : element.stop]

    def text(self, name: str) -> str:
        """A text that is compared with known ones, never shown."""
        return self.bytes_of(name).decode("ascii", "replace").strip(" \0")

    def integer(self, name: str) -> int | None:
        """An unsigned 16-bit value; None if it is missing."""
        value = self.bytes_of(name)
        return int(struct.unpack_from(self.order + "H", value)[0]) if len(value) >= 2 else None

    def number(self, name: str, inside: Mapping[int, _Element] | None = None) -> float | None:
        """The first of decimal numbers in a text; None if it is missing or no finite number."""
        try:
            value = float(self.bytes_of(name, inside)[:256].split(b"\\")[0].decode("ascii").strip(" \0"))
        except ValueError:
            return None
        return value if math.isfinite(value) else None


def _inflated(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = unpacker.decompress(data, MAX_INFLATED)
    if unpacker.unconsumed_tail:
        raise _RefusedError(f"is deflated and has more than {MAX_INFLATED >> 20} MiB inflated")
    if not unpacker.eof:
        raise _RefusedError(TRUNCATED)
    return inflated


@dataclass(frozen=True)
class _Pixels:
    """What a header says about the pixels, checked."""

    header: _Header
    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    photometric: str

    @property
    def size(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def are_bytes(self) -> bool:
        """Whether the values are of type OB; those of OW are swapped in pairs in files of the other byte order."""
        start = self.header.elements[_PIXELS].start
        return self.header.data[start - 8 : start - 6] == b"OB"

    @property
    def data(self) -> memoryview:
        element = self.header.elements[_PIXELS]
        return memoryview(self.header.data)[element.start : element.stop]


def _checked(data: bytes, limit: int) -> _Pixels:
    """The description of the pixels. Raises ``_RefusedError`` for what is no image, too large or cannot be decoded."""
    header = _Header(data)
    kind = header.kind
    if kind not in _NOT_THESE:
        for prefix, what in _NO_IMAGES.items():
            if kind == prefix or kind.startswith(prefix + "."):
                raise _RefusedError(f"is a DICOM {what}, not an image")
    if _FLOAT_PIXELS in header.elements or _DOUBLE_PIXELS in header.elements:
        raise _RefusedError("has floating-point pixels")
    if _PIXELS not in header.elements:
        raise _RefusedError("is a DICOM file without pixels")
    rows, columns = header.integer("rows"), header.integer("columns")
    allocated, stored = header.integer("allocated"), header.integer("stored")
    if not (rows and columns and allocated):
        raise _RefusedError("is a DICOM file that does not state the size of its pixels")
    if rows * columns > limit:
        raise _RefusedError(f"is {columns} × {rows} pixels, more than {limit / 1e6:g} million: {RAISE_LIMIT}")
    if allocated not in (8, 16, 32):
        raise _RefusedError(f"has pixels of {allocated} bits: 8, 16 and 32 are read")
    stored = stored or allocated
    samples, photometric = header.integer("samples") or 1, header.text("photometric")
    if photometric not in (*_GREY, *_COLOURS, _PALETTE):
        raise _RefusedError("has an unknown photometric interpretation")
    if samples != (3 if photometric in _COLOURS else 1) or stored > allocated:
        raise _RefusedError(DAMAGED)
    words = header.text("frames")
    if words and not (words.isdigit() and 1 <= int(words[:10]) <= MAX_FRAMES):
        raise _RefusedError("states no usable number of frames")
    if header.syntax not in _DECODED:
        name = _OTHERS.get(header.syntax)
        raise _RefusedError(
            f"is compressed as {name}, which is not read: decompress it first" if name
            else "has an unknown transfer syntax, which is not read"
        )  # fmt: skip
    signed = header.integer("signed") == 1
    return _Pixels(header, rows, columns, samples, int(words or 1), allocated, stored, signed, photometric)


def _decode(data: bytes, view: DicomView, limit: int, notes: list[str]) -> Image.Image:
    pixels = _checked(data, limit)
    header = pixels.header
    if view.frame > pixels.frames:
        raise _RefusedError(f"has {pixels.frames:,} frame(s), so there is no frame {view.frame:,}")
    if not is_installed():
        raise _RefusedError(NEEDS_EXTRA)
    values, is_rgb = _frame(pixels, view.frame - 1)
    if pixels.frames > 1:
        notes.append(f"frame {view.frame:,} of {pixels.frames:,}" if view.frame > 1 else f"first of {pixels.frames:,}")
    if header.text("burned") == "YES":
        notes.append(BURNED_IN)
    if is_rgb:
        return Image.fromarray(_eight_bits(values, pixels.stored))
    values = _without_unused_bits(values, pixels)
    if pixels.photometric == _PALETTE:
        return Image.fromarray(_palette(values, header))
    grey = _windowed(_modality(values, header, view.frame - 1), header, view)
    return Image.fromarray((255 * (1 - grey if pixels.photometric == "MONOCHROME1" else grey)).astype(np.float32))


def _frame(pixels: _Pixels, index: int) -> tuple[NDArray[Any], bool]:
    """The stored values ``(H, W)`` or ``(H, W, 3)`` of a frame, and whether they are RGB."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax, is_colour, data = pixels.header.syntax, pixels.samples == 3, pixels.data
    if syntax in _NATIVE:
        area = pixels.rows * pixels.columns
        values = 2 * area if pixels.photometric == "YBR_FULL_422" else area * pixels.samples
        expected = values * pixels.allocated // 8 * pixels.frames
        if len(data) < expected:
            raise _RefusedError("is truncated (it has fewer pixels than its header says)")
        data = data[: expected + expected % 2]
    else:
        _check_codestream(pixels, index)
    options: dict[str, Any] = {
        "rows": pixels.rows, "columns": pixels.columns, "samples_per_pixel": pixels.samples,
        "number_of_frames": pixels.frames, "bits_allocated": pixels.allocated, "bits_stored": pixels.stored,
        "pixel_representation": int(pixels.signed), "photometric_interpretation": pixels.photometric,
        "pixel_keyword": "PixelData", "pixel_vr": "OB" if pixels.are_bytes else "OW",
        "planar_configuration": (pixels.header.integer("planar") or 0) if is_colour else 0,
    }  # fmt: skip
    array, described = get_decoder(syntax).as_array(bytes(data), index=index, **options)
    if array.shape != (pixels.rows, pixels.columns, *([3] if is_colour else [])):
        raise _RefusedError(DAMAGED)
    if is_colour and described["photometric_interpretation"] != "RGB":
        raise _RefusedError(DAMAGED)
    return array, is_colour


def _check_codestream(pixels: _Pixels, index: int) -> None:
    """Raise ``_RefusedError`` for compressed pixels of another size than the header says, or that cost too much."""
    from pydicom.encaps import get_frame

    stream = get_frame(bytes(pixels.data), index, number_of_frames=pixels.frames)
    if pixels.header.syntax == _RLE:
        return
    if pixels.header.syntax in _JPEG:
        limit = pixels.rows * pixels.columns
        if fault := jpeg.segments_fault(stream) or jpeg.scans_fault(stream, limit):
            raise _RefusedError(fault)
        if pixels.stored > 8:
            raise _RefusedError(
                f"is compressed as JPEG of {pixels.stored} bits, which is not read: decompress it first"
            )
    plugin = JpegImageFile if pixels.header.syntax in _JPEG else Jpeg2KImageFile
    with plugin(io.BytesIO(stream)) as image:
        if image.size != (pixels.columns, pixels.rows):
            raise _RefusedError("has compressed pixels of another size than its header says")


def _eight_bits(values: NDArray[Any], stored: int) -> NDArray[np.uint8]:
    """Unsigned colours of ``stored`` bits with 8 bits."""
    if stored == 8 and values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    scaled = np.rint(values.astype(np.float64) * (255 / (2**stored - 1)))
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


def _without_unused_bits(values: NDArray[Any], pixels: _Pixels) -> NDArray[np.int64]:
    """The values ``(H, W)`` of the lowest Bits Stored bits, with their sign: old files keep overlays above them."""
    wide: NDArray[np.int64] = values.astype(np.int64) & (2**pixels.stored - 1)
    if pixels.signed:
        wide -= (wide >> (pixels.stored - 1)) << pixels.stored
    return wide


def _table(header: _Header, descriptor: bytes, table: bytes, signed: bool) -> tuple[int, NDArray[np.int64], int]:
    """A look-up table: the value of its first entry, its entries, and their bits (PS3.3 C.7.6.3.1.5 and C.11.1.1)."""
    count, first, bits = struct.unpack_from(header.order + ("HhH" if signed else "HHH"), descriptor)
    count = count or 65536
    if len(table) == count and bits <= 8:
        entries = np.frombuffer(table, np.uint8)
    elif len(table) >= 2 * count:
        entries = np.frombuffer(table, np.dtype(header.order + "u2"), count)
    else:
        raise _RefusedError("has a look-up table that is too short")
    if not 8 <= bits <= 16:
        raise _RefusedError(DAMAGED)
    return first, entries.astype(np.int64), bits


def _looked_up(values: NDArray[np.int64], first: int, entries: NDArray[np.int64]) -> NDArray[np.int64]:
    return entries[np.clip(values - first, 0, len(entries) - 1)]


def _palette(values: NDArray[np.int64], header: _Header) -> NDArray[np.uint8]:
    """Palette entries ``(H, W)`` as RGB ``(H, W, 3)``."""
    channels = []
    for number in range(3):
        descriptor, table = (
            b"" if (element := header.elements.get(_TAGS[name] + number)) is None
            else header.data[element.start : element.stop]
            for name in ("red", "red_data")
        )  # fmt: skip
        if not (descriptor and table):
            raise _RefusedError("has no palette that can be read")
        first, entries, bits = _table(header, descriptor, table, signed=header.integer("signed") == 1)
        channels.append(_looked_up(values, first, entries) >> (bits - 8) & 255)
    return np.stack(channels, axis=-1).astype(np.uint8)


def _modality(values: NDArray[np.int64], header: _Header, frame: int) -> NDArray[np.float64]:
    """Stored values in the units of the modality, by its look-up table or by slope and intercept (PS3.3 C.11.1)."""
    lut = header.item("modality_lut")
    if lut:
        descriptor, table = header.bytes_of("lut_descriptor", lut), header.bytes_of("lut_data", lut)
        first, entries, _ = _table(header, descriptor, table, signed=header.integer("signed") == 1)
        return _looked_up(values, first, entries).astype(np.float64)
    inside = _of_frame(header, "frame_values", frame)
    slope, intercept = header.number("slope", inside), header.number("intercept", inside)
    return np.asarray(values * (1.0 if slope is None else slope) + (intercept or 0.0), np.float64)


def _of_frame(header: _Header, name: str, frame: int) -> Mapping[int, _Element]:
    """The elements that hold for a frame: those of its own functional group, of the shared one, or of the file."""
    for groups, number in (("per_frame", frame), ("shared", 0)):
        if found := header.item(name, 0, header.item(groups, number)):
            return found
    return header.elements


def _windowed(values: NDArray[np.float64], header: _Header, view: DicomView) -> NDArray[np.float64]:
    """Grey levels 0 … 1 of values in the units of the modality; see the head of this file."""
    if (asked := view.window_values) is not None:
        centre, width = asked
    else:
        inside = _of_frame(header, "frame_window", view.frame - 1)
        stated = header.number("centre", inside), header.number("width", inside)
        if stated[0] is not None and stated[1] is not None and stated[1] > 0:
            centre, width = stated[0], stated[1]
        else:
            low, high = np.percentile(values, PERCENTILES)
            centre, width = (low + high) / 2, high - low
    if not width > 0:
        return np.where(values > centre, 1.0, 0.0) if np.ptp(values) > 0 else np.full(values.shape, 0.5)
    return np.asarray(np.clip((values - centre + width / 2) / width, 0.0, 1.0), np.float64)
