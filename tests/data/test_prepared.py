"""Stores: built whole from arrays and files, the same whatever the workers, refused when damaged, never stale."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.core.files import sha256_file, sha256_json
from alexnet.data import writer
from alexnet.data.containers import NO_IMAGE
from alexnet.data.decode import preprocessing, read_pixels
from alexnet.data.prepared import natural_side, open_or_prepare, open_prepared, prepared_path, verify_prepared
from alexnet.data.sources import open_source
from alexnet.data.splits import content_hash
from alexnet.data.writer import array_header, principal_components, read_array, statistics, write_array

pytestmark = pytest.mark.usefixtures("home")  # nothing is written to the user's cache folder

FILES = ("hashes.npy", "images.npy", "labels.npy", "mean.npy", "names.txt", "splits.npy", "store.json")


def noise(count, height=8, width=None, channels=3, seed=0):
    shape = (count, height, width or height, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def save(path, pixels, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, kind))


def photographs(root, per_class=10, classes=("cat", "dog"), side=12, kind="PNG"):
    """A folder of class folders of made pictures, no two alike."""
    for number, name in enumerate(classes):
        for image, pixels in enumerate(noise(per_class, side, seed=number)):
            save(root / name / f"{image:03d}.{kind.lower()}", pixels, kind)
    return root


def datasets(home):
    return sorted((home / "stores").iterdir()) if (home / "stores").exists() else []


def complaint(call, *arguments, **keywords):
    """The first line and the details of the user error that a call must raise."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in caught.value.line
    return caught.value.line, caught.value.details


# What is built


def test_arrays_are_kept_as_they_are(array_source, home):
    pixels, targets = noise(40), np.arange(40) % 4
    splits = ["train"] * 30 + ["val"] * 4 + ["test"] * 6
    counted = []
    made = open_or_prepare(
        array_source(pixels, targets, splits), progress=lambda done, total: counted.append((done, total))
    )
    assert np.array_equal(made.images, pixels)
    assert made.images.dtype == np.uint8
    assert made.targets.tolist() == targets.tolist()
    assert made.hashes.tolist() == [content_hash(image) for image in pixels]
    assert made.subset("train").tolist() == list(range(30))
    assert made.subset("val").tolist() == list(range(30, 34))
    assert made.subset("test").tolist() == list(range(34, 40))
    assert (made.name, made.side, made.channels, made.auto_split) == ("made", 8, 3, False)
    assert made.classes == made.labels == [f"class {label}" for label in range(4)]
    assert counted == [(done, 40) for done in range(1, 41)]
    assert made.path.parent == home / "stores"
    assert sorted(path.name for path in made.path.iterdir()) == sorted([*FILES, "runs"])


def test_files_are_kept_as_the_decoder_gives_them(tmp_path):
    root = photographs(tmp_path / "photographs", side=200, kind="JPEG", per_class=3)
    made = open_or_prepare(open_source(str(root)))
    names = sorted(root.glob("*/*.jpeg"))
    assert made.images.shape == (6, 256, 256, 3)
    for image, path in zip(made.images, names, strict=True):
        assert np.array_equal(image, read_pixels(path.read_bytes(), 256, 3))
    assert made.hashes.tolist() == [content_hash(path.read_bytes()) for path in names]
    assert made.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert made.classes == ["cat", "dog"]


def test_another_side_and_other_channels_can_be_asked_for(array_source):
    pixels = noise(6, channels=1)
    source = array_source(pixels, [0, 1] * 3, ["train"] * 6)
    wide = open_or_prepare(source, 16, 3)
    assert wide.images.shape == (6, 16, 16, 3)
    expected = Image.fromarray(pixels[2, ..., 0]).resize((16, 16), Image.Resampling.BILINEAR)
    assert all(np.array_equal(wide.images[2, ..., channel], expected) for channel in range(3))
    assert open_or_prepare(source).images.shape == (6, 8, 8, 1)
    line, _ = complaint(open_or_prepare, source, 0)
    assert "a side of 1 to 4096" in line
    assert "not 8 and 2" in complaint(open_or_prepare, source, channels=2)[0]


def test_store_json_says_what_is_there(array_source):
    made = open_or_prepare(array_source(noise(20), [0, 1] * 10, ["train"] * 20, descriptions=("a cat", "a dog")))
    meta = json.loads((made.path / "store.json").read_text())
    assert meta["schema"] == writer.SCHEMA
    assert meta["classes"] == ["class 0", "class 1"]
    assert made.labels == ["a cat", "a dog"]
    assert meta["images"] == 20
    assert meta["splits"] == {"train": 20, "val": 0, "test": 0}
    assert meta["preprocessing"] == preprocessing(8, 3)
    assert meta["preprocessing_sha256"] == sha256_json(preprocessing(8, 3))
    assert meta["pillow"] == PIL.__version__
    assert (meta["refused"], meta["warnings"], meta["notes"]) == ([], [], {})
    for name, item in meta["files"].items():
        assert item == {"bytes": (made.path / name).stat().st_size, "sha256": sha256_file(made.path / name)}
    assert sorted([*meta["files"], "store.json"]) == sorted(FILES)
    assert meta.pop("sha256") == sha256_json(meta)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_workers_do_not_show(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(writer, "CHUNK", chunk)
    root = photographs(tmp_path / "photographs", per_class=30)
    (root / "cat" / "005.png").write_bytes(b"no image")
    found = []
    for workers in (1, 4):
        made = open_or_prepare(open_source(str(root)), home=tmp_path / f"{workers}", workers=workers)
        found.append({name: (made.path / name).read_bytes() for name in FILES})
    assert found[0] == found[1]


def test_the_digest_is_of_what_is_held_not_of_where(tmp_path):
    root = photographs(tmp_path / "one")
    shutil.copytree(root, tmp_path / "two")
    one, two = (open_or_prepare(open_source(str(tmp_path / name))) for name in ("one", "two"))
    assert one.path != two.path
    assert one.digest == two.digest
    save(tmp_path / "two" / "dog" / "000.png", noise(1, 12, seed=9)[0])
    assert open_or_prepare(open_source(str(tmp_path / "two"))).digest != one.digest


# Refusals and remarks


def test_what_is_refused_is_named_and_the_rest_is_kept(tmp_path):
    root = photographs(tmp_path / "photographs")
    whole = (root / "cat" / "001.png").read_bytes()
    (root / "cat" / "001.png").write_bytes(whole[:-20])
    (root / "dog" / "000.png").write_bytes(b"")
    (root / "dog" / "readme.txt").write_text("these are dogs")
    made = open_or_prepare(open_source(str(root)))
    assert len(made.images) == len(made.targets) == 18
    assert made.meta["refused"] == [
        {"name": "cat/001.png", "reason": "is truncated (no PNG end mark)"},
        {"name": "dog/000.png", "reason": "is empty"},
        {
            "name": "dog/readme.txt",
            "reason": f"{NO_IMAGE} (it looks like text)",
        },
    ]
    refused = [root / item["name"] for item in made.meta["refused"]]
    kept = [path for path in sorted(root.glob("*/*.png")) if path not in refused]
    assert made.hashes.tolist() == [content_hash(path.read_bytes()) for path in kept]


def test_a_file_that_vanishes_is_refused_by_name(tmp_path):
    source = open_source(str(photographs(tmp_path / "photographs")))
    (tmp_path / "photographs" / "dog" / "003.png").unlink()
    made = open_or_prepare(source)
    assert made.meta["refused"] == [{"name": "dog/003.png", "reason": "cannot be read: No such file or directory"}]
    assert len(made.images) == 19


def test_strict_stops_at_the_first_and_leaves_nothing(tmp_path, home):
    root = photographs(tmp_path / "photographs", per_class=100)
    for name in ("cat/050.png", "dog/001.png"):
        (root / name).write_bytes(b"")
    counted = []
    line, _ = complaint(
        open_or_prepare, open_source(str(root)), strict=True, progress=lambda done, total: counted.append(done)
    )
    assert line == "cat/050.png: is empty; leave out --strict to go on without it"
    assert counted[-1] == 50
    assert datasets(home) == []
    # a store that was made without --strict does not hide what it refused
    open_or_prepare(open_source(str(root)))
    assert complaint(open_or_prepare, open_source(str(root)), strict=True)[0] == line


def test_when_nothing_is_left_the_reasons_are_given(tmp_path, home):
    for name in ("a", "b"):
        for number in range(15):
            path = tmp_path / "texts" / name / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
    line, details = complaint(open_or_prepare, open_source(str(tmp_path / "texts")))
    assert line == f"{tmp_path / 'texts'}: none of its images can be used"
    assert details[0].startswith("a/00.jpg: is not a JPEG")
    assert len(details) == 21
    assert details[-1] == "and 10 more"
    assert datasets(home) == []


def test_a_source_without_training_images_is_refused(array_source, home):
    line, _ = complaint(open_or_prepare, array_source(noise(4), [0, 1] * 2, ["test"] * 4))
    assert "none of its training images" in line
    assert datasets(home) == []


def test_remarks_on_files_are_counted(tmp_path):
    root = photographs(tmp_path / "photographs")
    frames = [Image.fromarray(pixels) for pixels in noise(3, 12)]
    for number in range(2):
        frames[number].save(root / "cat" / f"moving{number}.gif", save_all=True, append_images=frames[number + 1 :])
    wide = np.arange(144, dtype=np.uint16).reshape(12, 12) * 400
    Image.fromarray(wide).save(root / "dog" / "wide.png")
    for number in range(3):
        Image.new("RGBA", (12, 12), (9, 9, number, 100)).save(root / "dog" / f"clear{number}.png")
    made = open_or_prepare(open_source(str(root)))
    assert made.meta["refused"] == []
    assert made.meta["notes"] == {
        "16-bit grey scaled to 8 bits": 1,
        "first frame of 2": 1,
        "first frame of 3": 1,
        "transparent pixels composited over (255, 255, 255)": 3,
    }


# Splits that are dealt here


def test_a_source_without_splits_is_dealt_80_10_10_in_every_class(array_source):
    targets = np.repeat([0, 1, 2], [100, 50, 30])
    made = open_or_prepare(array_source(noise(180), targets))
    assert made.auto_split
    for label, counts in enumerate([(80, 10, 10), (40, 5, 5), (24, 3, 3)]):
        assert np.bincount(made.splits[targets == label], minlength=3).tolist() == list(counts)
    assert made.meta["splits"] == {"train": 144, "val": 18, "test": 18}
    assert made.meta["warnings"] == []


def test_the_deal_does_not_depend_on_the_order_of_the_images(array_source):
    pixels, targets = noise(90), np.arange(90) % 3
    order = np.random.default_rng(1).permutation(90)
    one = open_or_prepare(array_source(pixels, targets))
    other = open_or_prepare(array_source(pixels[order], targets[order]))
    assert np.array_equal(other.splits, one.splits[order])


def test_duplicates_never_straddle(tmp_path):
    root = photographs(tmp_path / "photographs", per_class=30)
    for number in range(30):
        for copy in range(number % 3):
            shutil.copy(root / "cat" / f"{number:03d}.png", root / "cat" / f"copy{copy}-{number:03d}.png")
    made = open_or_prepare(open_source(str(root)))
    assert len(made.targets) == 90
    assert {split: int((made.splits == code).sum()) > 0 for code, split in enumerate("rvt")} == dict.fromkeys(
        "rvt", True
    )
    homes = {}
    for digest, split in zip(made.hashes.tolist(), made.splits.tolist(), strict=True):
        assert homes.setdefault(digest, split) == split
    assert len(homes) == 60


def test_small_classes_only_train_and_are_named(array_source):
    targets = np.repeat([0, 1, 2, 3], [40, 2, 1, 3])
    classes = ("many", "two", "one", "three")
    made = open_or_prepare(array_source(noise(46), targets, classes=classes))
    assert set(made.splits[(targets == 1) | (targets == 2)].tolist()) == {0}
    assert made.meta["warnings"] == ["classes with too few images for val and test, all in train: two, one"]
    # with splits of its own a source says itself what is tested
    splits = ["train"] * 45 + ["test"]
    made = open_or_prepare(array_source(noise(46), targets, splits, classes))
    assert made.meta["warnings"] == []
    missing = open_or_prepare(array_source(noise(4), [0, 0, 0, 1], ["train"] * 3 + ["test"], ("a", "b", "c")))
    assert missing.classes == ["a", "b"]
    assert missing.meta["warnings"] == [
        "classes without a usable image, ignored: c",
        "classes without training images: b",
    ]


# Statistics


def test_statistics_are_numpys_on_the_training_pixels(array_source):
    pixels = noise(50)
    pixels[..., 1] = pixels[..., 0] // 2 + 20  # two channels that go together
    pixels[40:] = 255  # not train
    made = open_or_prepare(array_source(pixels, [0, 1] * 25, ["train"] * 40 + ["test"] * 10))
    flat = pixels[:40].reshape(-1, 3).astype(np.float64)
    assert made.mean == pytest.approx(flat.mean(axis=0), rel=1e-14)
    assert made.std == pytest.approx(flat.std(axis=0), rel=1e-13)
    covariance = np.cov(flat.T, bias=True)
    assert np.allclose(made.meta["covariance"], covariance, rtol=1e-12)
    assert np.allclose(made.mean_image, pixels[:40].mean(axis=0), rtol=1e-7)
    assert made.mean_image.dtype == np.float32
    values = np.linalg.eigvalsh(covariance)[::-1]
    assert np.allclose(made.colours.deviations, np.sqrt(values), rtol=1e-9)
    for value, vector in zip(values, made.colours.components, strict=True):
        assert np.allclose(covariance @ vector, value * vector, atol=1e-8)


def test_statistics_do_not_depend_on_chunks_or_order(monkeypatch):
    pixels = noise(100)
    index = np.arange(0, 100, 3)
    expected = statistics(pixels, index)
    shuffled = np.random.default_rng(0).permutation(index)
    for values in (1, 200, 5000, 1 << 24):
        monkeypatch.setattr(writer, "STATISTICS_VALUES", values)
        for found in (statistics(pixels, index), statistics(pixels, shuffled)):
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_statistics_are_exact_where_floating_point_is_not():
    # E[x²] − E[x]² is lost in rounding here: even in float64 the covariances would not be zero
    pixels = np.full((20, 256, 256, 3), 255, np.uint8)
    pixels[0, 0, 0] = (254, 255, 255)
    count = 20 * 65536
    _, mean, covariance = statistics(pixels, np.arange(20))
    assert mean.tolist() == [(255 * count - 1) / count, 255.0, 255.0]
    assert covariance[0, 0] == (count - 1) / count**2  # the variance of one in so many, correctly rounded
    assert np.count_nonzero(covariance) == 1


def test_a_channel_that_never_varies_does_not_divide_by_zero(array_source):
    pixels = noise(10)
    pixels[..., 2] = 77
    made = open_or_prepare(array_source(pixels, [0, 1] * 5, ["train"] * 10))
    assert made.std[2] == 1.0
    assert made.mean[2] == 77.0
    assert np.isfinite(made.colours.deviations).all()


def test_the_largest_entry_of_each_principal_component_is_positive():
    generator = np.random.default_rng(0)
    for _ in range(50):
        factor = generator.normal(size=(3, 3))
        values, rows = principal_components(factor @ factor.T)
        assert (np.diff(values) <= 0).all()
        assert np.allclose(rows @ rows.T, np.eye(3))
        assert np.allclose(rows.T @ np.diag(values) @ rows, factor @ factor.T)
        assert (rows[np.arange(3), np.abs(rows).argmax(axis=1)] > 0).all()
    # where two are as large up to rounding, the first decides
    for a, b in generator.uniform(1, 100, (200, 2)):
        matrix = np.array([[a + b, -b, 0], [-b, a + b, 0], [0, 0, 1e-3]])
        _, rows = principal_components(matrix + 1e-14 * generator.normal(size=(3, 3)))
        assert rows[0] == pytest.approx([0.5**0.5, -(0.5**0.5), 0], abs=1e-9)


# The side


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(32, 32)], 32),
        ([(40, 30)], 30),
        ([(30, 40)], 30),
        ([(128, 128)], 128),
        ([(128, 5)], 5),
        ([(129, 129)], 256),
        ([(129, 40)], 256),
        ([(32, 32), (32, 33)], 256),
        ([(40, 30), (30, 40)], 256),
        ([(500, 375), (20, 20)], 256),
    ],
)
def test_one_size_up_to_128_is_kept_and_anything_else_becomes_256(tmp_path, sizes, side):
    for number in range(8):
        height, width = sizes[number % len(sizes)]
        save(tmp_path / "set" / "ab"[number // 4] / f"{number}.png", noise(1, height, width, seed=number)[0])
    source = open_source(str(tmp_path / "set"))
    assert natural_side(source) == side
    assert open_or_prepare(source).side == side


def test_the_side_is_that_of_the_upright_picture_and_bad_files_have_no_say(tmp_path):
    root = photographs(tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1, 12)[0]).save(root / "cat" / "turned.jpg", exif=exif)
    (root / "cat" / "000.png").write_bytes(b"no image")
    (root / "dog" / "zzz.png").write_bytes((root / "dog" / "001.png").read_bytes()[:20])
    source = open_source(str(root))
    (root / "dog" / "005.png").unlink()
    assert natural_side(source) == 12


def test_arrays_keep_their_side_up_to_128(array_source):
    for side, kept in ((28, 28), (128, 128), (129, 256)):
        assert natural_side(array_source(noise(1, side), [0])) == kept


# Reuse and change


def test_a_store_is_used_again_without_decoding(tmp_path, monkeypatch):
    root = photographs(tmp_path / "photographs")
    first = open_or_prepare(open_source(str(root)))
    decoded = []
    monkeypatch.setattr(writer, "decode_record", lambda *arguments: decoded.append(arguments))
    again = open_or_prepare(open_source(str(root)), progress=lambda *arguments: decoded.append(arguments))
    assert again.path == first.path
    assert again.digest == first.digest
    assert decoded == []


def touch(root):
    os.utime(root / "cat" / "000.png", ns=(1, 1))


def grow(root):
    path = root / "cat" / "000.png"
    before = path.stat()
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def add(root):
    shutil.copy(root / "cat" / "000.png", root / "cat" / "zzz.png")


def move(root):
    (root / "cat" / "000.png").rename(root / "dog" / "zzz.png")


@pytest.mark.parametrize("change", [touch, grow, add, move])
def test_a_changed_source_is_prepared_again_and_the_stale_store_removed(tmp_path, home, change):
    root = photographs(tmp_path / "photographs")
    first = open_or_prepare(open_source(str(root)))
    other = open_or_prepare(open_source(str(root)), 9)
    change(root)
    again = open_or_prepare(open_source(str(root)))
    assert again.path != first.path
    assert first.path.exists()  # it is still open
    assert first.images[0].size
    names = sorted(root.glob("*/*.png"))
    assert again.hashes.tolist() == [content_hash(path.read_bytes()) for path in names]
    stale = again.path
    del first, again
    shutil.copy(root / "cat" / "001.png", root / "dog" / "last.png")
    last = open_or_prepare(open_source(str(root)))
    assert not stale.exists()
    assert datasets(home) == sorted([last.path, other.path])  # that of another side is renewed when it is asked for


# Failures while building


def test_a_failure_while_building_leaves_nothing(tmp_path, home):
    root = photographs(tmp_path / "photographs")

    def interrupt(done, total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_prepare(open_source(str(root)), progress=interrupt)
    assert datasets(home) == []
    assert len(open_or_prepare(open_source(str(root))).images) == 20


@pytest.mark.parametrize("place", ["array", "json", "rename"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, home, monkeypatch, place):
    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    target = {"array": (writer, "write_array"), "json": (writer, "write_json"), "rename": (Path, "rename")}[place]
    source = open_source(str(photographs(tmp_path / "photographs")))
    with monkeypatch.context() as patch:
        patch.setattr(*target, refuse)
        line, _ = complaint(open_or_prepare, source)
    assert line.startswith(f"cannot write the prepared dataset {home / 'stores'}")
    assert line.endswith("No space left on device; set ALEXNET_HOME to another folder")
    assert datasets(home) == []
    assert len(open_or_prepare(source).images) == 20


FULL_DEVICE = Path("/dev/full")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full, a disk that is always full")
def test_a_disk_that_fills_up_amid_the_images_is_said(tmp_path, home, monkeypatch):
    source = open_source(str(photographs(tmp_path / "photographs")))
    opened = Path.open

    def full(self, mode="r", *rest, **options):
        return opened(FULL_DEVICE if self.name == "images.npy" else self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    line, _ = complaint(open_or_prepare, source)
    assert "No space left on device" in line
    assert datasets(home) == []


def test_a_disk_too_small_is_noticed_before_anything_is_decoded(array_source, home, monkeypatch):
    usage = shutil.disk_usage(Path.home())
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    monkeypatch.setattr(writer, "decode_record", None)
    line, _ = complaint(open_or_prepare, array_source(noise(100), [0, 1] * 50))
    assert "needs 19.2 kB, 9.20 kB more than are free in" in line  # never "needs 0 MB and has 0 MB"
    assert "ALEXNET_HOME" in line
    assert datasets(home) == []


def test_a_home_that_cannot_be_written_is_said(array_source, home):
    home.write_text("a file, not a folder")
    line, _ = complaint(open_or_prepare, array_source(noise(4), [0, 1] * 2))
    assert line.startswith(f"cannot write the prepared dataset {home}")


# Damage


@pytest.fixture
def prepared(array_source):
    return open_or_prepare(array_source(noise(30), np.arange(30) % 3, ["train"] * 20 + ["test"] * 10)).path


def rewrite(path, change):
    """Change store.json as somebody would who makes its hash fit, too."""
    meta = json.loads((path / "store.json").read_text())
    meta.pop("sha256")
    change(meta)
    (path / "store.json").write_text(json.dumps({**meta, "sha256": sha256_json(meta)}))


def cut(name, by=1):
    return lambda path: os.truncate(path / name, (path / name).stat().st_size - by)


def replace_array(name, array):
    return lambda path: np.save(path / name, array)


DAMAGE = {
    "images cut": (cut("images.npy"), "images.npy has 5887 bytes instead of 5888"),
    "images cut to the header": (cut("images.npy", 5760), "images.npy has 128 bytes instead of 5888"),
    "images emptied": (cut("images.npy", 5888), "images.npy has 0 bytes"),
    "labels cut": (cut("labels.npy"), "labels.npy has 367 bytes instead of 368"),
    "mean cut": (cut("mean.npy", 4), "mean.npy has 892 bytes instead of 896"),
    "images of another kind": (
        replace_array("images.npy", np.zeros((30, 8, 8, 3), np.int8)),
        "images.npy does not begin with the header of a uint8 array (30, 8, 8, 3)",
    ),
    "images of another shape": (
        replace_array("images.npy", np.zeros((15, 16, 8, 3), np.uint8)),
        "images.npy does not begin with the header",
    ),
    "labels of another kind": (
        replace_array("labels.npy", np.zeros(30, np.float64)),
        "labels.npy does not begin with the header of a int64 array (30,)",
    ),
    "a label too large": (
        lambda path: write_array(path / "labels.npy", np.full(30, 3)),
        "labels.npy holds a label outside 0 … 2",
    ),
    "a class that is missing": (
        lambda path: write_array(path / "labels.npy", np.arange(30) % 2),
        "labels.npy was changed: its sha256 differs",
    ),
    "a split that is empty": (
        lambda path: write_array(path / "splits.npy", np.zeros(30, np.int8)),
        "splits.npy was changed: its sha256 differs",
    ),
    "names of another set": (
        lambda path: (path / "names.txt").write_text("a\n" * 30),
        "names.txt was changed: its sha256 differs",
    ),
    "a negative label": (lambda path: write_array(path / "labels.npy", np.full(30, -1)), "outside 0 … 2"),
    "a split that is none": (
        lambda path: write_array(path / "splits.npy", np.full(30, 3, np.int8)),
        "splits.npy holds a number that is no split",
    ),
    "no images": (lambda path: (path / "images.npy").unlink(), "No such file or directory"),
    "no hashes": (lambda path: (path / "hashes.npy").unlink(), "No such file or directory"),
    "no store.json": (lambda path: (path / "store.json").unlink(), "No such file or directory"),
    "nothing": (lambda path: shutil.rmtree(path), "No such file or directory"),
    "store.json cut": (cut("store.json", 2), "delimiter"),
    "store.json of zeros": (lambda path: (path / "store.json").write_bytes(bytes(99)), "Expecting value"),
    "store.json of noise": (lambda path: (path / "store.json").write_bytes(b"\xff\xfe\x80"), "codec"),
    "store.json a list": (lambda path: (path / "store.json").write_text("[1]"), "does not have schema"),
    "another schema": (
        lambda path: rewrite(path, lambda meta: meta.update(schema=99)),
        f"does not have schema {writer.SCHEMA}",
    ),
    "one digit of store.json": (
        lambda path: (path / "store.json").write_text(
            (path / "store.json").read_text().replace('"images": 30', '"images": 31')
        ),
        "store.json was changed",
    ),
    "other classes": (lambda path: rewrite(path, lambda meta: meta.update(classes=["a"])), "outside 0 … 0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_good_line(prepared, name):
    damage, detail = DAMAGE[name]
    assert len(open_prepared(prepared).images) == 30
    damage(prepared)
    for call in (open_prepared, verify_prepared):
        line, details = complaint(call, prepared)
        assert line == f"the prepared dataset {prepared} is damaged: remove that folder and run the command again"
        assert len(details) == 1
        assert detail in details[0]


def test_a_damaged_store_stops_the_command_and_is_not_silently_built_again(array_source):
    source = array_source(noise(10), [0, 1] * 5, ["train"] * 10)
    path = open_or_prepare(source).path
    cut("images.npy")(path)
    assert "is damaged" in complaint(open_or_prepare, source)[0]
    shutil.rmtree(path)
    assert len(open_or_prepare(source).images) == 10


@pytest.mark.parametrize("name", [name for name in FILES if name != "store.json"])
def test_one_flipped_bit_is_found_by_verification(prepared, name):
    assert verify_prepared(prepared) == []
    data = bytearray((prepared / name).read_bytes())
    data[-8] ^= 2  # the low byte of the last label, which becomes 0; a split that goes from test to train
    (prepared / name).write_bytes(data)  # sizes, headers and ranges are as they should be
    if name != "images.npy":
        assert list(complaint(open_prepared, prepared)[1]) == [f"{name} was changed: its sha256 differs"]
        return
    assert open_prepared(prepared) is not None  # nobody reads gigabytes to open a store
    (sentence,) = verify_prepared(prepared)
    advice = f"remove {prepared} and prepare the source again"
    assert sentence == f"{prepared / name}: its sha256 is not the one in store.json: {advice}"


def test_no_mutation_of_a_header_raises_anything_but_a_user_error(prepared):
    generator = np.random.default_rng(0)
    for name in ("images.npy", "labels.npy", "mean.npy"):
        whole = (prepared / name).read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            data[generator.integers(writer.HEADER_BYTES)] ^= 1 << generator.integers(8)
            (prepared / name).write_bytes(data)
            assert name in complaint(open_prepared, prepared)[1][0]
        (prepared / name).write_bytes(whole)
    assert open_prepared(prepared) is not None


# The format


@pytest.mark.parametrize("count", [1, 30, 10**7, 10**12])
def test_the_header_is_numpys_whatever_the_number_of_images(count):
    header = array_header(np.uint8, (count, 256, 256, 3))
    assert len(header) == writer.HEADER_BYTES
    file = io.BytesIO(header)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == ((count, 256, 256, 3), False, np.dtype(np.uint8))
    assert file.tell() == writer.HEADER_BYTES


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.uint64, np.float32])
def test_numpy_reads_every_array_of_a_store(tmp_path, kind):
    for shape in ((5,), (2, 3, 3, 1), (1,)):
        array = (np.random.default_rng(0).random(shape) * 100).astype(kind)
        write_array(tmp_path / "array.npy", array)
        found = np.load(tmp_path / "array.npy", allow_pickle=False)
        assert found.dtype == kind
        assert np.array_equal(found, array)
        for mapped in (False, True):
            assert np.array_equal(read_array(tmp_path / "array.npy", kind, shape, mapped=mapped), array)


def test_numpy_maps_10_million_images(tmp_path):
    path = tmp_path / "images.npy"
    shape = (10**7, 2, 2, 1)
    path.write_bytes(array_header(np.uint8, shape))
    os.truncate(path, writer.HEADER_BYTES + 4 * 10**7)  # sparse
    assert np.load(path, mmap_mode="r", allow_pickle=False).shape == shape


LARGE = ("images.npy", "store.json")
PROBE = """
import sys
from pathlib import Path
from alexnet.data.loader import Loader
from alexnet.data.prepared import open_prepared
from alexnet.data.sampler import Sampler
import numpy as np
import torch
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
before = resident()
dataset = open_prepared(Path(sys.argv[1]))
sampler = Sampler(np.arange(len(dataset.images)), 64, seed=0)
total, most = 0, 0
with Loader(dataset.read, dataset.targets, sampler, torch.device("cpu"), 0, 100) as batches:  # 1.2 GB
    for batch in batches:
        total += int(batch.pixels[:, 0].sum())
        most = max(most, resident())
print(len(dataset.images), total, (most - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_training_from_a_store_of_64_gib_takes_no_memory(array_source):
    count, side = 349_526, 256
    path = open_or_prepare(array_source(noise(2, side), [0, 1], ["train"] * 2), side).path
    (path / "images.npy").write_bytes(array_header(np.uint8, (count, side, side, 3)))
    os.truncate(path / "images.npy", writer.HEADER_BYTES + count * side * side * 3)  # sparse: zeros, no disk
    for name, kind in (("labels", np.int64), ("hashes", np.uint64), ("splits", np.int8)):
        write_array(path / f"{name}.npy", np.zeros(count, kind))
    files = {"images.npy": {}}
    files |= {file.name: {"sha256": sha256_file(file)} for file in path.glob("*.*") if file.name not in LARGE}
    rewrite(path, lambda meta: meta.update(images=count, files=files))
    output = subprocess.run([sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True).stdout
    images, total, megabytes = output.split()
    assert (int(images), int(total)) == (count, 0)
    assert float(megabytes) < 200
    assert open_prepared(path).images.nbytes > 64 << 30


def test_reading_is_the_mapping_s_pixels_whatever_becomes_of_the_folder(array_source):
    made = open_or_prepare(array_source(noise(9, 8), [0, 1, 1] * 3, ["train"] * 9), 8)
    index = np.array([7, 0, 0, 3])
    expected = np.array(made.images[index])
    shutil.rmtree(made.path)
    found = made.read(index)
    assert np.array_equal(found, expected)
    assert found.flags.writeable


def test_a_store_that_is_cut_off_while_it_is_read_is_said(array_source):
    made = open_or_prepare(array_source(noise(9, 8), [0, 1, 1] * 3, ["train"] * 9), 8)
    os.truncate(made.path / "images.npy", writer.HEADER_BYTES + 8 * 8 * 8 * 3 + 1)
    assert made.read(np.array([7])).shape == (1, 8, 8, 3)
    with pytest.raises(UserError, match="has become shorter"):
        made.read(np.array([8]))


def test_a_store_that_is_let_go_closes_its_file(array_source):
    made = open_or_prepare(array_source(noise(9, 8), [0, 1, 1] * 3, ["train"] * 9), 8)
    descriptor = made.descriptor
    assert os.fstat(descriptor).st_size
    del made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# Files that a setting decides about


def test_a_dataset_is_prepared_again_only_if_a_refused_image_can_be_read_now(home, tmp_path, monkeypatch):
    root = photographs(tmp_path / "pictures")
    save(root / "cat" / "large.png", noise(1, 40)[0])
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "1000")
    first = open_or_prepare(open_source(str(root)), 8)
    assert [item["name"] for item in first.meta["refused"]] == ["cat/large.png"]
    assert first.meta["accepts"]["max_pixels"] == 1000
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "900")
    assert open_or_prepare(open_source(str(root)), 8).path == first.path
    monkeypatch.delenv("ALEXNET_MAX_PIXELS")
    second = open_or_prepare(open_source(str(root)), 8)
    assert second.meta["refused"] == []
    assert second.path.name.startswith(first.path.name)
    assert datasets(home) == [first.path, second.path]  # a training that began with the first one can go on
    for limit in ("1000", "64000000"):
        monkeypatch.setenv("ALEXNET_MAX_PIXELS", limit)
        assert open_or_prepare(open_source(str(root)), 8).path == (first.path if limit == "1000" else second.path)
    save(root / "cat" / "new.png", noise(1, 12, seed=9)[0])
    earlier = {first.path, second.path}
    third = open_or_prepare(open_source(str(root)), 8)
    assert set(datasets(home)) == {*earlier, third.path}  # this process has the earlier ones open
    del first, second
    save(root / "cat" / "newer.png", noise(1, 12, seed=10)[0])
    fourth = open_or_prepare(open_source(str(root)), 8)
    assert set(datasets(home)) == {third.path, fourth.path}


def test_a_damaged_image_is_no_reason_to_prepare_again(home, tmp_path, monkeypatch):
    root = photographs(tmp_path / "pictures")
    (root / "cat" / "torn.png").write_bytes(encode(noise(1)[0])[:-5])
    first = open_or_prepare(open_source(str(root)), 8)
    monkeypatch.setenv("ALEXNET_MAX_PIXELS", "999000000")
    assert open_or_prepare(open_source(str(root)), 8).path == first.path


@pytest.mark.parametrize("side", [0, 4097, 10**12])
def test_the_side_of_prepared_images_is_limited(side, home, tmp_path):
    line, _ = complaint(open_or_prepare, open_source(str(photographs(tmp_path / "pictures"))), side)
    assert f"a side of 1 to 4096 and 1 or 3 channels, not {side} and 3" in line


def test_duplicates_are_named_on_both_sides(tmp_path):
    pixels = noise(12)
    for split, name, number in [
        *(("train", "cat", n) for n in range(4)), *(("train", "dog", n) for n in range(4, 8)),
        ("test", "cat", 8), ("test", "cat", 1), ("test", "dog", 9), ("train", "dog", 2), ("test", "dog", 6),
    ]:  # fmt: skip
        save(tmp_path / split / name / f"{split}{number}.png", pixels[number])
    meta = open_or_prepare(open_source(str(tmp_path))).meta
    assert meta["duplicates"] == [
        {"kind": "image in two classes", "name": "train/dog/train2.png", "equals": "train/cat/train2.png"},
        {"kind": "test image in train", "name": "test/cat/test1.png", "equals": "train/cat/train1.png"},
        {"kind": "test image in train", "name": "test/dog/test6.png", "equals": "train/dog/train6.png"},
    ]
    assert meta["warnings"][-2:] == [
        "2 test images are also in train, byte for byte: test accuracy will be too high: test/cat/test1.png equals "
        "train/cat/train1.png, test/dog/test6.png equals train/dog/train6.png",
        "1 image is in more than one class: train/dog/train2.png equals train/cat/train2.png",
    ]


def test_a_prepared_dataset_that_may_not_be_read_is_not_called_damaged(array_source, public_folder, as_user):
    source = array_source(noise(10), [0, 1] * 5, ["train"] * 10)
    path = open_or_prepare(source, home=public_folder).path
    for each in (path.parent, path, *path.iterdir()):
        each.chmod(0o755)
    (path / "labels.npy").chmod(0)
    with as_user():
        line, _ = complaint(open_prepared, path)
    assert line.startswith(f"cannot read {path / 'labels.npy'}: Permission denied")
    assert "remove" not in line


def test_warped_images_have_a_dataset_of_their_own(tmp_path, home):
    pixels = noise(1, 20, 30)[0]
    for number in range(4):
        save(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", np.roll(pixels, number, 0))
    source = open_source(str(tmp_path / "images"))
    cropped, warped = (open_or_prepare(source, 16, 3, resize=resize) for resize in ("short-side", "warp"))
    assert len(datasets(home)) == 2
    assert np.array_equal(warped.hashes, cropped.hashes)
    data = (tmp_path / "images" / "a" / "0.png").read_bytes()
    assert np.array_equal(warped.images[0], read_pixels(data, 16, 3, resize="warp"))
    assert np.array_equal(cropped.images[0], read_pixels(data, 16, 3))
    assert not np.array_equal(warped.images[0], cropped.images[0])
    assert open_or_prepare(source, 16, 3, resize="warp").path == warped.path
    assert verify_prepared(warped.path) == []


def test_a_dataset_of_an_earlier_version_is_found():
    """The name for scikit-learn's digits, as earlier versions made it."""
    assert prepared_path(open_source("digits")).name.startswith("digits-ee12d4bc9188-")
