"""Files that ask for much time or memory are refused by their structure; large photographs are read."""

import io
import re
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.data import containers, jpeg, png
from alexnet.data.decode import ImageRefusedError, accepted, decode, fit, image_size, max_pixels, readable_now


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width=96, height=64, mode="RGB"):
    corners = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def refusal(data, target=None):
    with pytest.raises(ImageRefusedError) as caught:
        decode(data, target=target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Large photographs


def test_a_jpeg_of_100_megapixels_is_decoded_at_an_eighth():
    data = saved(Image.new("L", (10000, 10000), 77), "JPEG")
    image = decode(data, target=256)
    assert image.size == (1250, 1250)
    assert image.getextrema() == (77, 77)
    assert image_size(data) == (10000, 10000)
    assert "is 10000 × 10000 pixels, more than 64 million: set ALEXNET_MAX_PIXELS" in refusal(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_the_limit_of_other_formats_is_a_setting(kind, monkeypatch):
    data = saved(picture(), kind)
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "6143")
    assert "is 96 × 64 pixels, more than 0.006143 million: set ALEXNET_MAX_PIXELS" in refusal(data, 8)
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "6144")
    assert decode(data).size == (96, 64)


def test_a_jpeg_may_have_16_times_the_pixels_that_are_decoded(monkeypatch):
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "384")
    assert decode(saved(picture(), "JPEG"), target=8).size == (24, 16)
    assert "more than 0.006144 million" in refusal(saved(picture(97, 64), "JPEG"), 8)


@pytest.mark.parametrize("word", ["0", "-1", "64e6", "1_000", "1000000001", "9" * 5000, "many", "٣", "\x1b[2J"])
def test_a_wrong_limit_is_one_line(word, monkeypatch):
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", word)
    for call in (max_pixels, accepted, lambda: decode(saved(picture(), "PNG"))):
        with pytest.raises(UserError, match=r"^ALEXNET_MAX_PIXELS is .{1,60}: give a whole number") as caught:
            call()
        assert "\x1b" not in str(caught.value)


def test_a_resized_image_is_not_larger_than_memory():
    with pytest.raises(ImageRefusedError, match="a short side of 4096 makes it too large"):
        fit(Image.new("L", (10, 500)), 4096, 1)


# JPEG

PROGRESSIVE = saved(picture(), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
BASELINE = saved(picture(), "JPEG")


def with_scans(more):
    return PROGRESSIVE[:-2] + LAST_SCAN * more + b"\xff\xd9"


def segment(marker, contents):
    return bytes([255, marker]) + struct.pack(">H", 2 + len(contents)) + contents


def with_segments(*inserted):
    return BASELINE[:2] + b"".join(inserted) + BASELINE[2:]


def test_the_scans_of_a_jpeg_are_limited():
    assert PROGRESSIVE.count(b"\xff\xda") == 10
    assert decode(with_scans(90)).size == (96, 64)
    assert refusal(with_scans(91)) == "has more than 100 JPEG scans"
    assert refusal(with_scans(5000), 8) == "has more than 100 JPEG scans"


def test_the_segments_between_scans_are_limited():
    start = PROGRESSIVE.rindex(b"\xff\xda")
    more = b"\xff\xfe\0\2" * 9000
    assert decode(PROGRESSIVE[:start] + more[:8000] + PROGRESSIVE[start:]).size == (96, 64)
    assert "JPEG segments between its scans" in refusal(PROGRESSIVE[:start] + more + PROGRESSIVE[start:])


def test_the_work_of_all_scans_is_limited(monkeypatch):
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "6144")
    assert decode(with_scans(20)).size == (96, 64)
    assert "JPEG scans or more, which would take too long at its size" in refusal(with_scans(60))


def test_the_coefficients_of_a_jpeg_of_several_scans_are_limited(monkeypatch):
    data = saved(picture(256, 256), "JPEG", progressive=True, subsampling=0)  # 3 × 1024 blocks of 128 bytes
    for limit, taken in (("49152", True), ("49151", False)):
        monkeypatch.setenv("ALEXNET_MAX_PIXELS", limit)
        if taken:
            assert decode(data, target=8).size == (32, 32)
        else:
            assert "is a JPEG of several scans that needs more than 0 MB of memory" in refusal(data, 8)
    assert decode(saved(picture(256, 256), "JPEG", subsampling=0), target=8).size == (32, 32)


@pytest.mark.parametrize(
    ("inserted", "reason"),
    [
        ([segment(0xE1, b"Exif\0\0" + bytes(30))] * 65, "has more than 64 JPEG segments of Exif"),
        ([segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 9)] * 65, "has more than 64 JPEG segments"),
        ([segment(0xDB, (b"\0" + bytes([1] * 64)) * 9)] * 65, "has more than 64 JPEG segments of"),
        ([segment(0xFE, b"")] * 4200, "has more than 4,096 JPEG segments"),
        ([b"\xff\xd0"] * 4200, "has more than 4,096 JPEG segments"),
        ([b"\xff"] * 70000, "has more than 64 KiB between its JPEG segments"),
        ([segment(0xFE, b""), bytes(70000)], "has more than 64 KiB between its JPEG segments"),
        ([segment(0xF0, b"\xff" * 60000), segment(0xF0, b"\xff" * 60000)], "has more than 64 KiB between"),
    ],
)
def test_the_segments_of_a_jpeg_are_limited(inserted, reason):
    assert reason in refusal(with_segments(*inserted))
    assert reason in refusal(with_segments(*inserted)[: -len(BASELINE) + 2])  # no scan follows
    with pytest.raises(ImageRefusedError, match=re.escape(reason)):
        image_size(with_segments(*inserted))


def test_ordinary_segments_are_read():
    colour_profile = [segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60000))] * 255
    extended_xmp = [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60000))] * 100
    data = with_segments(*colour_profile, *extended_xmp, b"\xff" * 50, segment(0xE1, b"Exif\0\0" + bytes(60000)))
    assert np.array_equal(decode(data), decode(BASELINE))


def lossless_jpeg(width, height):
    """A lossless JPEG whose differences are all zero: grey 128, predictor 1 (T.81, annex H)."""
    frame = segment(0xC3, struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0))
    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + table + scan + bytes(width * height // 8) + b"\xff\xd9"


def test_a_lossless_jpeg_is_decoded_at_its_own_size():
    image = decode(lossless_jpeg(96, 64), target=8)
    assert image.size == (96, 64)
    assert image.getextrema() == (128, 128)


def test_a_scan_is_found_behind_restart_marks_and_fill_bytes():
    data = saved(picture(), "JPEG", progressive=True, restart_marker_blocks=1)
    assert data.count(b"\xff\xd0") > 10
    padded = data.replace(b"\xff\xda", b"\xff\xff\xff\xda")
    assert np.array_equal(decode(padded), decode(data))
    start = padded.index(b"\xff\xff\xff\xda", len(padded) // 2)
    last = padded[padded.rindex(b"\xff\xff\xff\xda") : -2]
    assert start > 0
    assert refusal(padded[:-2] + last * 95 + b"\xff\xd9") == "has more than 100 JPEG scans"


# Blocks, chunks and tags of other formats


def test_the_blocks_of_a_gif_are_limited(monkeypatch):
    data = saved(picture(), "GIF")
    at = data.index(b",\0\0\0\0")
    monkeypatch.setattr(containers, "MAX_GIF_BLOCKS", 1000)
    comments = {
        "blocks of one byte": b"!\xfe" + b"\1a" * 1000 + b"\0",
        "comments": b"!\xfe\1a\0" * 1000,
        "bytes between blocks": b"a" * 1001,
    }
    for more in comments.values():
        assert refusal(data[:at] + more + data[at:]) == "has more than 1,000 GIF blocks"
    assert decode(data[:at] + b"!\xfe" + (b"\xff" + b"a" * 255) * 500 + b"\0" + data[at:]).size == (96, 64)


@pytest.mark.parametrize("name", [b"tEXt", b"abCd", b"IDAT"])
def test_the_chunks_of_a_png_are_limited(name, monkeypatch):
    data = saved(picture(), "PNG")
    empty = struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name))
    monkeypatch.setattr(png, "MAX_CHUNKS", 1000)
    assert refusal(data[:33] + empty * 1000 + data[33:]) == "has more than 1,000 PNG chunks"


def bmp_of_runs(width, height):
    """A run-length encoded BMP in which each pixel is a run."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    body = (b"\1\5" * width + b"\0\0") * height + b"\0\1"
    start = 54 + len(palette)
    return (
        b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0) + palette + body
    )  # fmt: skip


def test_the_runs_of_a_bmp_are_limited(monkeypatch):
    assert decode(bmp_of_runs(40, 30)).size == (40, 30)
    monkeypatch.setattr(containers, "MAX_RLE_RUNS", 1000)
    assert "is a run-length encoded BMP" in refusal(bmp_of_runs(40, 30))
    assert decode(saved(picture(mode="L"), "BMP")).size == (96, 64)


def tiff_of_tags(entries, order="<", big=False, tail=bytes(4000)):
    """A grey TIFF of 4 × 4 pixels with further entries (tag, type, count, value or offset)."""
    start = 16 if big else 8
    own = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (277, 4, 1, 1)]
    own += [(273, 4, 1, 16), (279, 4, 1, 16)]
    tags = sorted([*own, *entries])
    body = b"".join(struct.pack(order + ("HHQQ" if big else "HHII"), *tag) for tag in tags)
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HI", 42, start)
    return mark + head + struct.pack(order + ("Q" if big else "H"), len(tags)) + body + bytes(8) + tail


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_tags_of_a_tiff_are_counted(order, big):
    same_bytes = [(40000 + number, 7, 3000, 100) for number in range(2)]
    if order == "<":
        assert decode(tiff_of_tags(same_bytes[:1], order, big)).size == (4, 4)
    assert refusal(tiff_of_tags(same_bytes, order, big)) == "has TIFF tags of more bytes than the file"
    assert (
        refusal(tiff_of_tags([(40000, 7, 2**32 - 1, 100)], order, big)) == "has TIFF tags of more bytes than the file"
    )
    many = [(40000 + number % 9000, 4, 1, 0) for number in range(4100)]
    assert refusal(tiff_of_tags(many, order, big)) == "has more than 4,096 TIFF tags"
    strips = [(324, 4, 500_001, 100)]
    assert refusal(tiff_of_tags(strips, order, big)) == "has more than 500,000 TIFF strips or tiles"


# PPM, PGM, PBM

LEVELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def netpbm(kind, values, largest=255, comment=b""):
    height, width = values.shape[:2]
    head = b"P%d\n%s%d %d\n" % (kind, comment, width, height) + (b"" if kind in (1, 4) else b"%d\n" % largest)
    if kind <= 3:
        return head + "\n".join(" ".join(map(str, row.ravel())) for row in values).encode() + b"\n"
    if kind == 4:
        return head + np.packbits(values, axis=1).tobytes()
    return head + values.astype(np.uint8 if largest < 256 else ">u2").tobytes()


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("largest", [255, 15, 1023, 65535])
def test_grey_and_colour_are_scaled_to_8_bits(kind, largest):
    values = (LEVELS if kind in (3, 6) else LEVELS[..., 0]).astype(int) * largest // 255
    expected = np.floor(values * 255 / largest + 0.5).astype(np.uint8)
    for comment in (b"", b"# 9 9\n#\n"):
        image = decode(netpbm(kind, values, largest, comment))
        assert image.mode == ("RGB" if kind in (3, 6) else "L")
        assert np.array_equal(image, expected)


def test_they_are_what_pillow_writes():
    for mode in ("RGB", "L", "1"):
        assert np.array_equal(
            decode(saved(picture(mode=mode), "PPM")), picture(mode=mode).convert("L" if mode == "1" else mode)
        )


@pytest.mark.parametrize("kind", [1, 4])
def test_one_is_black_in_a_bitmap(kind):
    bits = np.array([[1, 0, 1, 1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 1]])
    assert np.array_equal(decode(netpbm(kind, bits)), np.where(bits, 0, 255))
    if kind == 1:
        assert np.array_equal(
            decode(netpbm(kind, bits).replace(b" ", b"").replace(b"92", b"9 2")), np.where(bits, 0, 255)
        )


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("largest", [255, 65535])
def test_a_truncated_file_is_refused(kind, largest):
    values = LEVELS if kind in (3, 6) else LEVELS[..., 0] // 128 if kind in (1, 4) else LEVELS[..., 0]
    data = netpbm(kind, np.ascontiguousarray(values), largest)
    decode(data)
    digits = 3 if kind <= 3 else 0  # text: nothing marks the end of the last number
    for stop in range(len(data) - digits):
        assert refusal(data[:stop])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5 4 4 65536\n" + bytes(99), "the largest value"),
        (b"P5 0 4 255\n" + bytes(99), "is not a readable PPM file"),
        (b"P5 -4 4 255\n" + bytes(99), "unreadable header"),
        (b"P5 99999999999 4 255\n" + bytes(99), "unreadable header"),
        (b"P6 30000 30000 255\n", "more than 64 million"),
        (b"P2 2 1 255\n1 x\n", "not numbers"),
        (b"P2 2 1 255\n1 -1\n", "not numbers"),
        (b"P1 2 1\n12\n", "not zeros and ones"),
        (b"P5 #" + b"#" * 100_000, "unreadable header"),
    ],
)
def test_odd_files_are_refused(data, reason):
    assert reason in refusal(data)


def test_a_number_above_the_largest_is_white():
    assert np.asarray(decode(b"P2 3 1 15\n15 16 99999999999999999999\n")).tolist() == [[255, 255, 255]]


# AVIF and HEIC


def test_an_avif_is_turned_upright_and_shows_its_first_frame():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(), "AVIF", exif=exif)
    assert decode(data).size == (64, 96)
    assert image_size(data) == (96, 64)
    notes = []
    animated = saved(picture(), "AVIF", save_all=True, append_images=[picture().rotate(90), picture()])
    decode(animated, notes=notes)
    assert notes == ["first frame of 3"]
    assert "is truncated" in refusal(animated[:-1])


def test_brands_decide_between_avif_heic_and_video():
    def kind(*brands):
        return containers.kind_of(
            struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
        )

    assert kind(b"avif") == kind(b"avis", b"msf1") == kind(b"mif1", b"miaf", b"avif") == "AVIF"
    for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        assert kind(brand) == "HEIC"
    assert kind(b"mif1", b"mif1", b"heic") == kind(b"msf1", b"hevc", b"mif1") == "HEIC"
    assert kind(b"isom", b"iso2", b"avc1", b"mp41") is None


def test_without_the_extra_a_heic_gets_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic"
    assert refusal(data) == "is a HEIC image: to read it, run pip install 'alexnet[heic]'"
    assert "HEIC" not in accepted()["formats"]


def test_without_avif_in_pillow_an_avif_gets_a_hint(monkeypatch):
    data = saved(picture(), "AVIF")
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    assert "the installed Pillow was built without AVIF" in refusal(data)
    assert "AVIF" not in accepted()["formats"]


def test_a_heic_is_read_upright_and_refused_if_truncated():
    heif = pytest.importorskip("pillow_heif", reason="pip install 'alexnet[heic]'")

    def heic(orientation=1, more=()):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = heif.from_pillow(picture())
        for image in more:
            file.add_from_pillow(image)
        buffer = io.BytesIO()
        file.save(buffer, quality=95, exif=exif.tobytes())
        return buffer.getvalue()

    data = heic()
    assert containers.kind_of(data) == "HEIC"
    assert np.abs(np.asarray(decode(data), float) - np.asarray(picture())).mean() < 10
    assert decode(data, target=8).size == (96, 64)
    turned = heic(6)
    assert decode(turned).size == image_size(turned)[::-1]
    two, notes = heic(more=[picture().rotate(90)]), []
    decode(two, notes=notes)
    assert notes == ["main image of 2"]
    for file in (data, two):
        for stop in range(0, len(file), 7):
            refusal(file[:stop])
        assert np.array_equal(decode(file + b"garbage"), decode(file))
    assert "HEIC" in accepted()["formats"]


# Which files are tried again


@pytest.mark.parametrize(
    ("name", "reason", "again"),
    [
        ("a/photo.jpg", "is 8192 × 5464 pixels, more than 40 million", True),
        ("a/anim.gif", "has more than 40 megapixels", True),
        ("a/web.jpg", "is not a JPEG, PNG, WebP, GIF, BMP or TIFF image (it looks like AVIF)", True),
        ("a/face.pgm", "is not a JPEG, PNG, WebP, GIF, BMP or TIFF image", True),
        ("a/notes.txt", "is not a JPEG, PNG, WebP, GIF, BMP or TIFF image (it looks like text)", False),
        ("a/torn.png", "is truncated (no PNG end mark)", False),
        ("a/torn.jpg", "is not a readable JPEG file (image file is truncated)", False),
    ],
)
def test_a_refused_file_is_tried_again_if_it_can_be_read_now(name, reason, again):
    assert readable_now(name, reason, None, accepted()) is again
    assert not readable_now(name, reason, accepted(), accepted())


def test_a_higher_limit_and_a_new_format_are_reasons_to_try_again(monkeypatch):
    before = {"formats": ["PNG"], "max_pixels": 100}
    reason = refusal(saved(Image.new("1", (9000, 8000)), "PNG"))
    assert readable_now("a.png", reason, before, {**before, "max_pixels": 101})
    assert not readable_now("a.png", reason, before, {**before, "max_pixels": 99})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    hint = refusal(struct.pack(">I", 16) + b"ftypheic" + bytes(4))
    assert readable_now("photo", hint, before, {**before, "formats": ["PNG", "HEIC"]})
    assert jpeg.MAX_SCANS == 100  # as the documentation says
