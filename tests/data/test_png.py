"""PNG files, good and bad, built by hand: Pillow writes neither interlaced ones nor broken ones."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data import png
from alexnet.data.decode import ImageRefusedError, decode, image_size

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name, contents=b""):
    return struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))


def header(width, height, depth=8, colour=RGB, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def file(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def build(width, height, raw, depth=8, colour=RGB, interlace=0, extra=b""):
    """A PNG from its unfiltered rows, filter bytes included."""
    idat = chunk(b"IDAT", zlib.compress(raw))
    return file(header(width, height, depth, colour, interlace), extra, idat, chunk(b"IEND"))


def rows(pixels):
    """The rows of ``(H, W, C)`` uint8 pixels, each behind a filter byte of zero."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def adam7_rows(pixels):
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    return b"".join(rows(part) for part in passes if part.size)


def picture(width=13, height=11):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def refusal(data):
    with pytest.raises(ImageRefusedError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Whole files


@pytest.mark.parametrize(("width", "height"), [(13, 11), (1, 1), (1, 9), (8, 8), (3, 2), (5, 1), (64, 33)])
def test_interlaced_and_plain_files_give_the_same_pixels(width, height):
    pixels = picture(width, height)
    for data in (
        build(width, height, rows(pixels)),
        build(width, height, adam7_rows(pixels), interlace=1),
    ):
        assert png.fault(data) is None
        assert np.array_equal(decode(data), pixels)


LAYOUTS = {  # colour type: samples per pixel, lawful bits per sample
    GREY: (1, (1, 2, 4, 8, 16)),
    PALETTE: (1, (1, 2, 4, 8)),
    GREY_ALPHA: (2, (8, 16)),
    RGB: (3, (8, 16)),
    RGBA: (4, (8, 16)),
}


@pytest.mark.parametrize(("colour", "depth"), [(colour, depth) for colour in LAYOUTS for depth in LAYOUTS[colour][1]])
@pytest.mark.parametrize("interlace", [0, 1])
def test_every_lawful_pixel_layout_is_measured_to_the_byte(depth, colour, interlace):
    bits = depth * LAYOUTS[colour][0]
    passes = ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [(len(range(x, 13, dx)), len(range(y, 11, dy))) for x, y, dx, dy in passes]
    raw = b"".join((b"\0" + b"\0" * ((columns * bits + 7) // 8)) * lines for columns, lines in sizes if columns)
    palette = chunk(b"PLTE", bytes(3)) if colour == PALETTE else b""
    assert png.fault(build(13, 11, raw, depth, colour, interlace, palette)) is None
    assert decode(build(13, 11, raw, depth, colour, interlace, palette)).size == (13, 11)
    assert png.fault(build(13, 11, raw[:-1], depth, colour, interlace, palette)) is not None
    assert png.fault(build(13, 11, raw + b"\0", depth, colour, interlace, palette)) is not None


def test_files_that_pillow_writes_are_whole():
    image = Image.fromarray(picture(300, 200))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert png.fault(saved(image.convert(mode))) is None


def test_pixel_data_in_many_small_chunks():
    pixels = picture()
    packed = zlib.compress(rows(pixels))
    parts = [chunk(b"IDAT", packed[at : at + 3]) for at in range(0, len(packed), 3)]
    data = file(header(13, 11), *parts, chunk(b"IDAT"), chunk(b"IEND"))
    assert np.array_equal(decode(data), pixels)


def test_what_follows_the_end_mark_does_not_matter():
    assert decode(build(13, 11, rows(picture())) + b"trailing garbage").size == (13, 11)


def test_a_wrong_chunk_checksum_over_sound_pixels_is_let_through():
    data = bytearray(build(13, 11, rows(picture())))
    data[-len(chunk(b"IEND")) - 1] ^= 1  # the last byte of the checksum of IDAT
    assert np.array_equal(decode(bytes(data)), picture())


# Broken files


def test_a_picture_with_rows_missing_is_refused_although_pillow_takes_it():
    short = build(13, 11, rows(picture()[:6]))
    with Image.open(io.BytesIO(short)) as image:
        image.load()  # no error: the rows that are missing come out black
    assert refusal(short) == "has less pixel data than its PNG header says"


def test_a_shortened_interlaced_picture_is_refused():
    raw = adam7_rows(picture())
    assert "less pixel data" in refusal(build(13, 11, raw[:-20], interlace=1))
    assert "less pixel data" in refusal(build(13, 11, rows(picture()), interlace=1))


@pytest.mark.parametrize(("width", "height"), [(13, 12), (14, 11), (130, 110), (5000, 5000)])
def test_a_header_that_promises_more_is_refused(width, height):
    data = file(header(width, height), chunk(b"IDAT", zlib.compress(rows(picture()))), chunk(b"IEND"))
    assert "less pixel data" in refusal(data)


@pytest.mark.parametrize(("width", "height"), [(13, 10), (12, 11), (1, 1)])
def test_a_header_that_promises_less_is_refused(width, height):
    assert "more pixel data" in refusal(build(width, height, rows(picture())))


def test_no_file_makes_more_than_its_header_promises_be_inflated():
    bomb = build(13, 11, bytes(200_000_000))
    assert len(bomb) < 250_000
    assert "more pixel data" in refusal(bomb)


def test_truncation_anywhere_is_refused():
    data = build(13, 11, rows(picture()))
    for stop in range(8, len(data)):
        assert refusal(data[:stop])


def test_pixel_data_that_stop_early_are_refused_inside_whole_chunks():
    packed = zlib.compress(rows(picture()))
    for part in (packed[: len(packed) // 2], packed[:-1], packed[:-4], b""):
        assert "stop early" in refusal(file(header(13, 11), chunk(b"IDAT", part), chunk(b"IEND")))


def test_pixel_data_behind_another_chunk_do_not_count():
    packed = zlib.compress(rows(picture()))
    halves = chunk(b"IDAT", packed[:40]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", packed[40:])
    assert "stop early" in refusal(file(header(13, 11), *halves, chunk(b"IEND")))


def test_a_flipped_bit_among_the_pixels_is_found():
    resize_size = zlib.compress(rows(picture()), 0)  # stored, not packed: every flipped bit still inflates
    whole = file(header(13, 11), chunk(b"IDAT", resize_size), chunk(b"IEND"))
    for at in range(whole.index(resize_size) + 7, whole.index(resize_size) + len(resize_size)):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        assert "corrupt PNG pixel data" in refusal(bytes(damaged))


@pytest.mark.parametrize("layout", [{"depth": 3}, {"colour": 1}, {"depth": 16, "colour": PALETTE}, {"interlace": 2}])
def test_unlawful_headers_are_refused(layout):
    assert refusal(build(13, 11, rows(picture()), **layout))


def test_no_size_no_palette_no_pixels_no_header():
    assert refusal(build(0, 11, b"")) == refusal(build(11, 0, b""))
    assert "without a palette" in refusal(build(2, 1, b"\0\0\1", colour=PALETTE))
    refusal(file(header(13, 11), chunk(b"IEND")))
    refusal(file(chunk(b"IEND")))
    refusal(file())


# Animation


def frame_control(width, height, sequence=0):
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, 1, 10, 0, 0))


def test_the_first_frame_of_an_animation_is_taken_and_noted():
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    notes = []
    image = decode(saved(frames[0], save_all=True, append_images=frames[1:]), notes=notes)
    assert np.array_equal(image, picture())
    assert notes == ["first frame of 2"]


def test_an_animation_that_is_cut_off_behind_its_first_frame_is_refused():
    frames = [Image.fromarray(picture(64, 64)), Image.fromarray(255 - picture(64, 64))]
    data = saved(frames[0], save_all=True, append_images=frames[1:])
    assert "truncated" in refusal(data[: len(data) * 9 // 10])


def test_an_animation_whose_first_frame_is_a_part_is_refused():
    control = chunk(b"acTL", struct.pack(">II", 2, 0)) + frame_control(6, 6)
    assert "only a part of the image" in refusal(build(13, 11, rows(picture()), extra=control))


# Transparency and orientation


@pytest.mark.parametrize(
    ("depth", "colour", "raw", "key", "expected"),
    [
        (1, GREY, b"\0\x50", b"\0\0", [255, 255, 255, 255]),
        (1, GREY, b"\0\x50", b"\0\1", [0, 255, 0, 255]),
        (2, GREY, b"\0\x1b", b"\0\2", [0, 85, 255, 255]),
        (4, GREY, b"\0\x0f\x37", b"\0\x0f", [0, 255, 51, 119]),
        (4, GREY, b"\0\x0f\x37", b"\0\x03", [0, 255, 255, 119]),
        (8, GREY, b"\0\0\1\2\3", b"\0\2", [0, 1, 255, 3]),
        (16, GREY, b"\0\0\0\x01\x01\x80\x80\xff\xff", b"\x01\x01", [0, 255, 128, 255]),
    ],
)
def test_a_transparent_grey_is_white_at_every_depth(depth, colour, raw, key, expected):
    image = decode(build(4, 1, raw, depth, colour, extra=chunk(b"tRNS", key)))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [expected]


def test_a_transparent_colour_is_white_with_16_bits_too():
    raw = b"\0" + struct.pack(">6H", 0x1234, 0, 0, 0x3412, 0, 0)
    image = decode(build(2, 1, raw, 16, RGB, extra=chunk(b"tRNS", struct.pack(">3H", 0x1234, 0, 0))))
    assert np.asarray(image).tolist() == [[[255, 255, 255], [0x34, 0, 0]]]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_orientation_is_found_before_and_behind_the_pixels(place):
    turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4))
    idat = chunk(b"IDAT", zlib.compress(rows(picture())))
    data = file(header(13, 11), *((turned, idat) if place == "before" else (idat, turned)), chunk(b"IEND"))
    assert image_size(data) == (13, 11)
    assert np.array_equal(decode(data), np.rot90(picture(), -1))


# Memory

PROBE = """
import sys
from pathlib import Path
from alexnet.data.decode import ImageRefusedError, decode
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
data = Path(sys.argv[1]).read_bytes()
before = peak()
try:
    decode(data)
except ImageRefusedError as error:
    print((peak() - before) / 1024, error)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("which", ["60000 × 60000", "20000 × 10000", "9100 × 9100"])
def test_a_picture_that_is_too_large_costs_no_memory(tmp_path, which):
    if which == "60000 × 60000":  # a header that lies
        data = file(header(60000, 60000), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND"))
    else:  # a whole file: 200 million pixels in 24 KB, and a size of which Pillow would merely warn
        width, height = (int(part) for part in which.split(" × "))
        engine = zlib.compressobj(9)
        packed = b"".join(engine.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + engine.flush()
        data = file(header(width, height, 1, GREY), chunk(b"IDAT", packed), chunk(b"IEND"))
        assert len(data) < 30_000
    path = tmp_path / "large.png"
    path.write_bytes(data)
    command = [sys.executable, "-W", "error", "-c", PROBE, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    megabytes, reason = output.strip().split(" ", 1)
    assert reason == f"is {which} pixels, more than 64 million: set ALEXNET_MAX_PIXELS to raise the limit"
    assert float(megabytes) < 50
