"""Bad images of every kind before ``prepare``, ``evaluate`` and ``predict``: stated pixels, or a line that names them.

No command ends for one of them, and the good images beside it count as ever.
"""

import contextlib
import io
import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alexnet import train
from alexnet.cli.main import main as cli
from alexnet.data.decode import ImageRefusedError, read_pixels

SIDE = 24
NONE_OF_US = "is not a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, DICOM, PPM or PGM image"


def picture(seed=0, width=40, height=32):
    """Smooth enough that JPEG keeps it, no two alike."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, data):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(kind):
    return saved(picture(), kind, save_all=True, append_images=[picture(1), picture(2)], duration=50)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), "PNG", exif=exif)


JPEG, PNG = saved(picture(), "JPEG", quality=95), saved(picture(), "PNG")
AVIF = saved(picture(), "AVIF", quality=100, subsampling="4:4:4")
GREY = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE)
FLIPPED = JPEG[:-60] + bytes([JPEG[-60] ^ 4]) + JPEG[-59:]
LEVELS = np.arange(SIDE * SIDE * 3).reshape(SIDE, SIDE * 3) % 256
RGB8 = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in LEVELS)
RGB16 = b"".join(b"\0" + (row * 257).astype(">u2").tobytes() for row in LEVELS)
REFUSED = {
    "half a JPEG": (JPEG[: len(JPEG) // 2], "runcated"),
    "99 % of a JPEG": (JPEG[: len(JPEG) * 99 // 100], "runcated"),
    "start of a JPEG": (JPEG[:2], "is"),
    "PNG with a wrong checksum": (PNG[:-20] + bytes([PNG[-20] ^ 1]) + PNG[-19:], "has corrupt PNG pixel data"),
    "PNG that lacks rows": (
        png(40, 32, 8, 2, zlib.compress(bytes(16 * 121))),
        "has less pixel data than",
    ),
    "PNG of 60000 × 60000": (png(60000, 60000, 8, 2, zlib.compress(b"")), "more than 64 million"),
    "PNG of 200 million 1-bit pixels": (
        png(20000, 10000, 1, 0, zlib.compress(bytes(2501 * 10000), 9)),
        "more than 64 million",
    ),
    "PNG of 1 × 6500": (saved(picture(width=1, height=6500), "PNG"), "times"),
    "no byte": (b"", "is empty"),
    "text": (b"a cat, sitting\n" * 9, f"{NONE_OF_US} (it looks like text)"),
    "HTML": (b"<!doctype html><title>404</title>", NONE_OF_US),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NONE_OF_US),
    "TIFF of floating-point numbers": (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
    "icon": (saved(picture(), "ICO"), NONE_OF_US),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"),
    "half an AVIF": (AVIF[: len(AVIF) // 2], "is truncated"),
    "half a PPM": (saved(picture(), "PPM")[:1000], "truncated"),
    "12-bit JPEG": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "is"),
    "arithmetic JPEG cut to its header": (
        JPEG[: JPEG.index(b"\xff\xc0")] + b"\xff\xc9" + JPEG[JPEG.index(b"\xff\xc0") + 2 :][:40],
        "is",
    ),
}
SHOWN = {  # the file, and a whole one of the same pixels
    "JPEG with garbage behind it": (JPEG + b"garbage" * 9, JPEG),
    "progressive JPEG": (saved(picture(), "JPEG", quality=95, progressive=True), JPEG),
    "16-bit grey": (
        saved(Image.fromarray(np.round(GREY).astype(np.uint16)), "PNG"),
        saved(Image.fromarray(np.round(GREY / 257).astype(np.uint8)), "PNG"),
    ),
    "palette": (saved(picture().quantize(16), "PNG"), saved(picture().quantize(16).convert("RGB"), "PNG")),
    "nothing but transparent": (saved(Image.new("RGBA", (40, 32), (9, 9, 9, 0)), "PNG"),
                                saved(Image.new("RGB", (40, 32), "white"), "PNG")),
    "1 bit": (saved(picture().convert("1"), "PNG"), saved(picture().convert("1").convert("L"), "PNG")),
    "orientation 6": (turned(6), saved(picture().transpose(Image.Transpose.ROTATE_270), "PNG")),
    "animated GIF": (frames("GIF"), saved(Image.open(io.BytesIO(frames("GIF"))).convert("RGB"), "PNG")),
    "animated PNG": (frames("PNG"), PNG),
    "CMYK JPEG": (saved(picture().convert("CMYK"), "JPEG", quality=95), JPEG),
    "YCCK JPEG of Adobe's": (
        saved(picture().convert("CMYK"), "JPEG", quality=95, keep_rgb=False),
        saved(picture().convert("CMYK"), "JPEG", quality=95),
    ),
    "JPEG with a colour profile": (saved(picture(), "JPEG", quality=95, icc_profile=bytes(200)), JPEG),
    "animated WebP": (frames("WEBP"), saved(Image.open(io.BytesIO(frames("WEBP"))).convert("RGB"), "PNG")),
    "16-bit colour": (png(SIDE, SIDE, 16, 2, zlib.compress(RGB16)), png(SIDE, SIDE, 8, 2, zlib.compress(RGB8))),
    "grey with alpha": (saved(picture().convert("L").convert("LA"), "PNG"), saved(picture().convert("L"), "PNG")),
    "palette with a transparent entry": (
        saved(Image.new("P", (40, 32), 0), "PNG", transparency=0),
        saved(Image.new("RGB", (40, 32), "white"), "PNG"),
    ),
    "JPEG with a flipped bit": (FLIPPED, saved(Image.open(io.BytesIO(FLIPPED)), "PNG")),  # no decoder notices
    "BMP": (saved(picture(), "BMP"), PNG),
    "TIFF": (saved(picture(), "TIFF"), PNG),
    "PPM": (saved(picture(), "PPM"), PNG),
    "AVIF": (AVIF, PNG),
    "one pixel": (saved(picture(width=1, height=1), "PNG"), saved(picture(width=1, height=1), "BMP")),
}  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Good pictures of two classes, a run trained on them, and among others to count all that is bad."""
    root = tmp_path_factory.mktemp("album")
    for split, count in (("train", 20), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = saved(picture(100 * label + number + 7 * len(split)), "PNG")
                (root / split / name / f"{number}.png").write_bytes(image)
    changes = ["train.epochs=1", "train.batch_size=8", "data.image_size=16", "train.precision=fp32"]
    run = train(
        "photos-small", data=root, out=root / "run", overrides=["data.resize_size=24", "augment.crop=none", *changes]
    )
    bad = root / "bad"
    for name in ("cat", "dog"):
        (bad / name).mkdir(parents=True)
        (bad / name / "good.png").write_bytes(saved(picture(len(name) + ord(name[0])), "PNG"))
    for name, (data, _) in {**REFUSED, **SHOWN}.items():
        (bad / "cat" / f"{name}.jpg").write_bytes(data)
    return root, run


@pytest.fixture
def odd_files(tmp_path):
    """What is in a folder and is no file with an image in it."""
    folder = tmp_path / "odd" / "cat"
    folder.mkdir(parents=True)
    (tmp_path / "odd" / "dog").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "odd" / name / "good.png").write_bytes(saved(picture(ord(name[0])), "PNG"))
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "absent.jpg")
    with contextlib.suppress(OSError):  # a file system may refuse such names
        (folder / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"")
    return tmp_path / "odd"


def run_command(capsys, *words):
    """The exit status, standard output and standard error of a command."""
    status = cli(list(map(str, words)))
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return status, shown.out, shown.err


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_why(name):
    data, reason = REFUSED[name]
    with pytest.raises(ImageRefusedError, match=re.escape(reason)):
        read_pixels(data, SIDE, 3)


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_has_its_stated_pixels(name):
    data, same = (read_pixels(file, SIDE, 3).astype(int) for file in SHOWN[name])
    assert np.abs(data - same).max() <= (
        12 if "CMYK" in name else 4 if name == "AVIF" else 1
    )  # rounding; CMYK is another set of colours


def test_prepare_names_what_it_refuses_and_keeps_the_rest(figures, capsys):
    root, _ = figures
    status, out, _ = run_command(capsys, "prepare", root / "bad", "--size", SIDE, "--json")
    assert status == 0
    value = json.loads(out)
    assert {item["name"] for item in value["refused"]} == {f"cat/{name}.jpg" for name in REFUSED}
    assert value["images"] == 2 + len(SHOWN)


def test_evaluate_counts_the_rest(figures, capsys):
    root, run = figures
    status, out, _ = run_command(capsys, "evaluate", run.folder, "--data", root / "bad", "--json")
    assert status == 0
    expected = 2 + len(SHOWN)  # none of them is an image that the run was trained on
    assert json.loads(out)["images"] == expected


def test_predict_answers_for_each(figures, capsys):
    root, run = figures
    files = sorted((root / "bad" / "cat").iterdir())
    status, out, _ = run_command(capsys, "predict", run.folder, *files, "--json")
    answers = {entry["image"]: entry for entry in json.loads(out)}
    assert len(answers) == len(files)
    assert status == 2
    for name, (_, reason) in REFUSED.items():
        path = str(root / "bad" / "cat" / f"{name}.jpg")
        assert answers[path]["error"].startswith(f"{path}: ")
        assert reason in answers[path]["error"]
    for name in SHOWN:
        assert "predictions" in answers[str(root / "bad" / "cat" / f"{name}.jpg")]


def test_what_is_no_file_stops_nobody(odd_files, figures, capsys):
    _, run = figures
    status, out, _ = run_command(capsys, "prepare", odd_files, "--size", SIDE, "--json")
    assert status == 0
    assert json.loads(out)["images"] == 2
    if os.geteuid():  # root may read everything
        (odd_files / "cat" / "secret.png").write_bytes(PNG)
        (odd_files / "cat" / "secret.png").chmod(0)
        status, _, err = run_command(capsys, "predict", run.folder, odd_files / "cat" / "secret.png")
        assert (status, "Permission denied" in err) == (2, True)
    for name in ("pipe.jpg", "loop.jpg", "nowhere.jpg", "folder.jpg"):
        status, _, err = run_command(capsys, "predict", run.folder, odd_files / "cat" / name)
        assert status == 2
        assert name in err
    assert (
        run_command(capsys, "predict", run.folder, odd_files / "cat" / "pipe.jpg")[2].count("not a regular file") == 1
    )
