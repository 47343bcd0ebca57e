"""Bytes to pixels: what every kind of image file, whole, odd or broken, becomes. PNG has tests of its own."""

import io
import json
import random
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from alexnet.core.files import sha256_json
from alexnet.data.decode import (
    BACKGROUND,
    MAX_ASPECT,
    ImageRefusedError,
    decode,
    fit,
    image_size,
    preprocessing,
    read_pixels,
)

PHOTOGRAPHS = [Path(sklearn.datasets.__file__).parent / "images" / name for name in ("china.jpg", "flower.jpg")]


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(width=96, height=64):
    with Image.open(PHOTOGRAPHS[1]) as image:
        return image.convert("RGB").resize((width, height))


def frames():
    return [photograph().rotate(angle) for angle in (0, 30, 60)]


def animated(kind):
    return saved(frames()[0], kind, save_all=True, append_images=frames()[1:])


def orientation_block(orientation, order=">"):
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + mark + struct.pack(order + "IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0) + bytes(4)


def refusal(data):
    with pytest.raises(ImageRefusedError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def distance(image, other):
    return np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean()


# Every format, whole and truncated

TIFF_PACKINGS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg")


def whole_files():
    image, palette = photograph(), photograph().quantize(64)
    files = {
        "avif": saved(image, "AVIF", quality=95),
        "avif animated": animated("AVIF"),
        "ppm": saved(image, "PPM"),
        "pgm": saved(image.convert("L"), "PPM"),
        "pbm": saved(image.convert("1"), "PPM"),
        "jpeg": saved(image, "JPEG"),
        "jpeg progressive": saved(image, "JPEG", progressive=True),
        "jpeg cmyk": saved(image.convert("CMYK"), "JPEG"),
        "jpeg grey": saved(image.convert("L"), "JPEG"),
        "png": saved(image, "PNG"),
        "png palette": saved(palette, "PNG"),
        "apng": animated("PNG"),
        "webp": saved(image, "WEBP"),
        "webp lossless": saved(image.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": animated("WEBP"),
        "gif": saved(palette, "GIF"),
        "gif animated": animated("GIF"),
        "bmp": saved(image, "BMP"),
        "bmp palette": saved(palette, "BMP"),
        "bmp 1 bit": saved(image.convert("1"), "BMP"),
        "tiff fax": saved(image.convert("1"), "TIFF", compression="group4"),
    }
    return files | {f"tiff {packing}": saved(image, "TIFF", compression=packing) for packing in TIFF_PACKINGS}


FILES = whole_files()


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_taken(name):
    image = decode(FILES[name])
    grey = name in ("jpeg grey", "bmp 1 bit", "tiff fax", "pgm", "pbm")
    assert image.mode == ("L" if grey else "RGB")
    assert image_size(FILES[name]) == (64, 96)
    assert distance(image.convert("L"), photograph().convert("L")) < (
        80 if "1 bit" in name or "fax" in name or name == "pbm" else 10
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(name, kept):
    assert refusal(FILES[name][: int(len(FILES[name]) * kept)])


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_its_last_bytes_is_refused_or_complete(name):
    # the end mark of a JPEG may be missing where every pixel has come before it; all other formats are strict
    for lost in range(1, 40):
        data = FILES[name][:-lost]
        if not name.startswith("jpeg"):
            refusal(data)
            continue
        try:
            image = decode(data)
        except ImageRefusedError:
            continue
        assert np.array_equal(image, decode(FILES[name]))
        assert lost < 4


def test_lossless_formats_keep_every_pixel():
    for kind, options in [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ]:
        assert np.array_equal(decode(saved(photograph(), kind, **options)), photograph())


def test_trailing_garbage_is_not_looked_at():
    for data in FILES.values():
        assert np.array_equal(decode(data + b"garbage"), decode(data))


def test_a_jpeg_of_several_pictures_gives_the_first_even_without_the_others():
    data = animated("MPO")
    assert distance(decode(data), photograph()) < 10
    assert np.array_equal(decode(data[: len(data) * 2 // 3]), decode(data))


# What is no image


def iso_file(major, *compatible):
    brands = b"".join(compatible)
    return struct.pack(">I", 16 + len(brands)) + b"ftyp" + major + bytes(4) + brands + bytes(40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (bytes(5000), "holds only zero bytes"),
        (b"hello, world\n", "it looks like text"),
        ("grün " * 500, "it looks like text"),
        (b"\n<!DOCTYPE html><p>404", "it looks like HTML"),
        (b"<HTML><body>", "it looks like HTML"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it looks like SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', "it looks like SVG"),
        (b"%PDF-1.7\n", "it looks like PDF"),
        (iso_file(b"avif"), "is not a readable AVIF file"),
        (iso_file(b"mif1", b"mif1", b"avif"), "is not a readable AVIF file"),
        (iso_file(b"isom", b"isom", b"mp41"), "it looks like a video"),
        (iso_file(b"qt  "), "it looks like a video"),
        (iso_file(b"crx "), "it looks like a Canon raw photograph"),
        (bytes(range(128, 256)), "is not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, DICOM, PPM or PGM image"),
        (b"\xff\x0a" + bytes(20), "it looks like JPEG XL"),
        (b"P5", "it looks like text"),
        (b"P5 is a camera", "is not a readable PPM file"),
        (b"P5 4 4 0\n" + bytes(16), "is not a readable PPM file (the largest value is not 1 to 65535)"),
        (b"P7\nWIDTH 4\n", "it looks like PAM"),
        (b"Pf\n4 4\n-1.0\n", "it looks like PFM, floating-point pixels"),
        (b"\xff\xd8", "is not a readable JPEG file"),
        (b"\xff\xd8\xff", "is not a readable JPEG file"),
        (b"BMW is a car", "is not a readable BMP file"),
        (b"GIF89a", "is not a readable GIF file"),
        (b"RIFF\4\0\0\0WEBP", "is not a readable WebP file"),
        (b"II*\0", "is not a readable TIFF file"),
    ],
)
def test_what_is_no_image_is_named(data, reason):
    data = data.encode() if isinstance(data, str) else data
    assert reason in refusal(data)
    with pytest.raises(ImageRefusedError):
        image_size(data)


# Size


def test_the_aspect_ratio_is_limited():
    assert decode(saved(Image.new("L", (1, 1)), "PNG")).size == (1, 1)
    assert decode(saved(Image.new("L", (1, MAX_ASPECT)), "PNG")).size == (1, MAX_ASPECT)
    assert (
        refusal(saved(Image.new("L", (1, 65000)), "PNG"))
        == "is 1 × 65000 pixels, one side more than 50 times the other"
    )
    assert "51 × 1" in refusal(saved(Image.new("L", (51, 1)), "BMP"))


def resized_header(data, width, height):
    """A file of ``FILES`` whose header claims another size."""
    old = struct.pack(">HH", 64, 96)  # JPEG: height, then width
    return data.replace(old, struct.pack(">HH", height, width), 1)


@pytest.mark.parametrize(("width", "height"), [(8500, 8000), (10000, 10000), (60000, 60000)])
def test_large_headers_are_refused_with_and_without_warnings_as_errors(width, height):
    # Pillow says nothing of the first, warns of the second and raises for the third
    jpeg = resized_header(FILES["jpeg"], width, height)
    gif = FILES["gif"][:6] + struct.pack("<HH", width, height) + FILES["gif"][10:]
    bmp = FILES["bmp"][:18] + struct.pack("<ii", width, height) + FILES["bmp"][26:]
    tiff = tiff_file(width, height, bytes(8))
    for data in (jpeg, gif, bmp, tiff):
        for action in ("error", "always"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter(action)
                limit = 1024 if width == 60000 and data is jpeg else 64
                raise_limit = "set ALEXNET_MAX_PIXELS to raise the limit"
                assert refusal(data) == f"is {width} × {height} pixels, more than {limit} million: {raise_limit}"
            assert not caught


def test_a_gif_whose_frame_outgrows_its_screen_is_refused():
    at = FILES["gif"].index(b",\0\0\0\0" + struct.pack("<HH", 96, 64))
    data = FILES["gif"][: at + 5] + struct.pack("<HH", 60000, 60000) + FILES["gif"][at + 9 :]
    assert refusal(data) == "has more pixels than Pillow decodes in this format"


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
except ImageRefusedError:
    print((peak() - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_webp_that_is_too_large_costs_no_memory(tmp_path):
    payload = b"\x2f" + struct.pack("<I", 16382 | 10000 << 14) + bytes(2000)  # lossless, 16383 × 10001
    body = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)
    path = tmp_path / "large.webp"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    command = [sys.executable, "-W", "error", "-c", PROBE, str(path)]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 50


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright_as_pillow_does(kind, orientation):
    if kind == "TIFF":
        data = saved(photograph(), kind, tiffinfo={0x0112: orientation})
    else:
        data = saved(photograph(), kind, exif=orientation_block(orientation, "<" if orientation % 2 else ">"))
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(decode(data), upright)
    assert image_size(data) == (upright.height, upright.width)


def test_a_draft_is_turned_upright_too():
    data = saved(photograph(1200, 800), "JPEG", exif=orientation_block(6))
    draft = decode(data, target=100)
    assert draft.size == (200, 300)
    assert distance(fit(draft, 100, 3), fit(decode(data), 100, 3)) < 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert decode(saved(photograph(), "JPEG", exif=orientation_block(orientation))).size == (96, 64)


def test_damage_to_exif_is_no_damage_to_the_picture():
    # an orientation, then a resolution that lies beyond the end: Pillow warns of it as it opens the file
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHII", 0x011A, 5, 1, 9999)
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    jpeg = FILES["jpeg"]
    (jfif,) = struct.unpack_from(">H", jpeg, 4)
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[4 + jfif :]
    with pytest.warns(UserWarning, match="Truncated File Read|Corrupt EXIF"):
        Image.open(io.BytesIO(data))
    assert decode(data).size == (64, 96)
    for end in range(6, len(block)):
        cut = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", end + 2) + block[:end] + jpeg[4 + jfif :]
        assert decode(cut).size in ((96, 64), (64, 96))


# Colour


def test_cmyk_jpeg_is_about_the_same_picture():
    assert distance(decode(FILES["jpeg cmyk"]), photograph()) < 10


def test_grey_stays_grey_and_black_and_white_spans_the_range():
    assert decode(saved(photograph().convert("L"), "PNG")).mode == "L"
    for kind in ("PNG", "BMP", "TIFF"):
        image = decode(saved(photograph().convert("1"), kind))
        assert image.mode == "L"
        assert image.getextrema() == (0, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize(("alpha", "shade"), [(0, 255), (255, 0), (51, 204)])
def test_transparent_pixels_show_the_background(mode, alpha, shade):
    notes = []
    kind = "TIFF" if mode == "PA" else "PNG"
    image = decode(saved(Image.new("RGBA", (5, 4), (0, 0, 0, alpha)).convert(mode), kind), notes=notes)
    assert image.mode == ("L" if mode == "LA" else "RGB")
    assert np.unique(np.asarray(image)).tolist() == [shade]
    assert notes == ([] if alpha == 255 else ["transparent pixels composited over (255, 255, 255)"])


def test_the_colour_below_transparent_pixels_does_not_show():
    for kind in ("PNG", "WEBP", "TIFF"):
        image = decode(
            saved(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), kind, **({"lossless": True} if kind == "WEBP" else {}))
        )
        assert image.getpixel((0, 0)) == BACKGROUND


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_the_background(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(saved(image, kind, transparency=1))).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_half_transparent_palette_entries_are_blended():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(saved(image, "PNG", transparency=b"\x33\xff"))).tolist() == [[[204] * 3, [40, 50, 60]]]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_16_bit_grey_is_scaled_not_clipped(kind, options):
    wide = np.array([[0, 128, 129, 257, 32768, 65535 - 129, 65535]], dtype=np.uint16)
    notes = []
    image = decode(saved(Image.fromarray(wide), kind, **options), notes=notes)
    assert np.asarray(image).tolist() == [[0, 0, 1, 1, 128, 254, 255]]
    assert notes == ["16-bit grey scaled to 8 bits"]


@pytest.mark.parametrize(("dtype", "word"), [(np.int32, "integer"), (np.float32, "floating-point")])
def test_greys_of_unknown_range_are_refused_with_advice(dtype, word):
    data = saved(Image.fromarray(np.zeros((4, 4), dtype=dtype)), "TIFF")
    assert word in refusal(data)
    assert "save it with 8 bits" in refusal(data)


# Animation


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_the_first_frame_is_taken_and_noted(kind):
    notes = []
    assert distance(decode(animated(kind), notes=notes), photograph()) < 10
    assert notes == ["first frame of 3"]


def test_the_first_page_is_taken_and_noted():
    notes = []
    assert np.array_equal(decode(animated("TIFF"), notes=notes), photograph())
    assert notes == ["first of several pages"]


# TIFF, built by hand: its directory before its pixels, as cameras write it


def tiff_file(width, height, pixels, **changes):
    """An 8-bit grey TIFF. ``changes``: tag numbers, ``t258=...``, and their values; ``None`` leaves one out."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: None, 277: 1, 278: height, 279: len(pixels)}
    tags |= {int(name[1:]): value for name, value in changes.items()}
    tags = {tag: value for tag, value in tags.items() if value is not None or (tag == 273 and "t273" not in changes)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags = {tag: start if value is None else value for tag, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_a_tiff_that_ends_within_its_pixels_is_refused():
    data = tiff_file(4, 4, bytes(range(16)))
    assert np.asarray(decode(data)).ravel().tolist() == list(range(16))
    for stop in range(len(data)):
        refusal(data[:stop])


def test_a_tiff_whose_strips_do_not_cover_it_is_refused():
    assert "do not cover" in refusal(tiff_file(4, 4, bytes(16), t278=2))


def test_a_tiff_whose_tiles_are_huge_is_refused():
    tiled = {"t273": None, "t278": None, "t279": None, "t322": 65536, "t323": 65536, "t324": 200, "t325": 16}
    assert "TIFF tiles" in refusal(tiff_file(4, 4, bytes(200), **tiled, t259=5))


@pytest.mark.parametrize("changes", [{"t258": 12}, {"t258": 16, "t262": 0}])
def test_16_bit_grey_of_another_meaning_is_refused(changes):
    assert "black as zero" in refusal(tiff_file(4, 4, bytes(32), **changes))


def test_inverted_8_bit_grey_is_turned_back():
    assert np.unique(np.asarray(decode(tiff_file(4, 4, bytes(16), t262=0)))).tolist() == [255]


# Draft


def test_a_draft_is_never_below_twice_the_target():
    data = saved(photograph(1200, 800), "JPEG")
    for target in (1, 50, 99, 100, 101, 199, 200, 201, 399, 400, 401, 5000):
        short = min(decode(data, target=target).size)
        assert min(800, 2 * target) <= short <= 800
    assert decode(data, target=200).size == (600, 400)
    assert decode(FILES["png"], target=2).size == (96, 64)


# Resize and crop


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_fit_is_torchvisions_resize_and_centre_crop_of_tensors_to_the_byte_and_of_pictures_to_a_level(mode):
    generator = random.Random(0)
    sizes = [(256, 256), (256, 300), (300, 256), (257, 256), (1, 1), (1, 50), (50, 1), (500, 375), (375, 500), (32, 32)]
    sizes += [(generator.randrange(20, 700), generator.randrange(20, 700)) for _ in range(40)]
    for number, (width, height) in enumerate(sizes):
        side = (256, 224, 227, 32, 63)[number % 5] if number >= 10 else 256
        image = photograph(width, height).convert(mode)
        cut = v2.Compose([v2.Resize(side), v2.CenterCrop(side)])
        reference = cut(torch.from_numpy(np.array(image).reshape(height, width, -1)).permute(2, 0, 1))
        pixels = fit(image, side, len(mode))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (side, side, len(mode))
        assert np.array_equal(pixels, reference.permute(1, 2, 0).numpy()), (width, height, side)
        by_pillow = np.asarray(cut(image)).reshape(pixels.shape).astype(int)
        assert np.abs(pixels - by_pillow).max() <= 1, (width, height, side)


def test_an_image_that_fits_is_not_resampled():
    assert np.array_equal(fit(photograph(64, 64), 64, 3), photograph(64, 64))
    assert np.array_equal(fit(photograph(96, 64), 64, 3), np.asarray(photograph(96, 64))[:, 16:80])


def test_grey_and_colour_change_into_each_other():
    grey = photograph(64, 64).convert("L")
    assert np.array_equal(fit(grey, 64, 3), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert np.array_equal(fit(photograph(64, 64), 64, 1)[..., 0], grey)


def test_pixels_may_be_written_to():
    assert read_pixels(FILES["jpeg"], 32, 3).flags.writeable


def test_photographs_come_out_as_themselves():
    for path in PHOTOGRAPHS:
        with Image.open(path) as image:
            expected = fit(image.convert("RGB"), 256, 3)
        assert np.array_equal(read_pixels(path.read_bytes(), 256, 3), expected)


def test_the_settings_are_json_and_tell_paths_apart():
    settings = preprocessing(256, 3)
    assert json.loads(json.dumps(settings)) == settings
    assert settings == preprocessing(256, 3)
    assert len({json.dumps(preprocessing(*case)) for case in [(256, 3), (256, 1), (224, 3)]}) == 3


# Threads and damage


def test_threads_give_the_same_pixels_and_leave_the_warning_filters_alone():
    filters = list(warnings.filters)
    work = [data for data in FILES.values() for _ in range(10)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda data: read_pixels(data, 32, 3), work))
    assert all(np.array_equal(pixels, read_pixels(data, 32, 3)) for pixels, data in zip(results, work, strict=True))
    assert warnings.filters == filters


def mutated(data, generator):
    """``data`` with a few bytes changed, numbers overwritten, stretches lost, inserted or cut off."""
    result = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        reach = len(result) if generator.random() < 0.4 else min(len(result), 200)  # headers are where the harm is
        at = generator.randrange(max(reach, 1))
        kind = generator.randrange(5)
        if kind == 0:
            result[at : at + 1] = bytes([generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))])
        elif kind == 1:
            number = generator.choice((0, 1, 65536, 2**31, 2**32 - 1, generator.randrange(2**32)))
            result[at : at + 4] = struct.pack(generator.choice("<>") + "I", number)
        elif kind == 2:
            del result[at : at + generator.randrange(1, 40)]
        elif kind == 3:
            result[at:at] = generator.randbytes(generator.randrange(1, 20))
        else:
            del result[max(at, 1) :]
    return bytes(result)


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_nothing_but_a_refusal_escapes_from_mutated_files(action):
    generator = random.Random(2012)
    names = sorted(FILES)
    taken = 0
    for number in range(1500):
        data = mutated(FILES[names[number % len(names)]], generator)
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            try:
                pixels = read_pixels(data, 16, 3)
                assert image_size(data) == decode(data).size[::-1]
            except ImageRefusedError:
                continue
        assert pixels.shape == (16, 16, 3)
        taken += 1
    assert 150 < taken < 1350  # a fuzz that always or never breaks a file would test nothing


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("shape", [(427, 640), (101, 77), (256, 256), (300, 20)])
def test_warped_pixels_are_opencvs(path, shape):
    """Caffe's convert_imageset calls cv::resize with its default filter; the rounding differs by one grey level."""
    cv2 = pytest.importorskip("cv2", reason="needs pip install '.[dev]'")
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))[: shape[0], : shape[1]]
    theirs = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_LINEAR)
    ours = fit(Image.fromarray(pixels), 256, 3, "warp")
    assert ours.shape == (256, 256, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.array_equal(ours, read_pixels(saved(Image.fromarray(pixels), "PNG"), 256, 3, resize="warp"))


def test_a_warped_image_is_whole_and_no_jpeg_is_decoded_at_a_smaller_size():
    data = PHOTOGRAPHS[0].read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        full = np.array(image.convert("RGB"))
    assert np.array_equal(read_pixels(data, 64, 3, resize="warp"), fit(Image.fromarray(full), 64, 3, "warp"))
    tall = np.zeros((400, 40, 3), np.uint8)
    tall[:200] = 255
    assert np.unique(fit(Image.fromarray(tall), 100, 3, "warp")[:49]).tolist() == [255]
    assert fit(Image.fromarray(tall), 100, 1, "warp").shape == (100, 100, 1)


def test_the_settings_of_images_that_are_not_warped_are_those_of_earlier_versions():
    """Their hash is in the names of prepared datasets."""
    first = "b6f29e8a241bc2cf5067e68e815691d12828fe80a70bb52689442c5d829f9693"
    assert sha256_json(preprocessing(256, 3)) == first
    assert preprocessing(256, 3, "warp")["short_side"] == 256
    assert sha256_json(preprocessing(256, 3, "warp")) != first
