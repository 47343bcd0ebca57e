"""Built-in sets of arrays: the digits, idx files, CIFAR's pickles, and where each is looked for."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import warnings
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from sklearn.datasets import load_digits

from alexnet.core.errors import UserError
from alexnet.data.sources import BUILTIN_SOURCES, file_sets, open_source
from alexnet.data.sources.cifar import CIFAR10, CIFAR100
from alexnet.data.sources.file_sets import file_set_opener, find_in
from alexnet.data.sources.mnist import FASHION_MNIST, FASHION_NAMES, MNIST, open_idx_files
from alexnet.runtime.progress import BarReporter, LineReporter

IDX = MNIST.files
REAL_DOWNLOAD = torchvision.datasets.utils.download_and_extract_archive


class QuietHandler(SimpleHTTPRequestHandler):
    """Files over HTTP, without a line for each on stderr."""

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache folder, no system packages and no network."""
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", offline)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", offline)
    return tmp_path / "home"


@pytest.fixture
def no_packages(monkeypatch, tmp_path):
    """No system package is installed: its folder is one of the test."""
    fashion_mnist = replace(FASHION_MNIST, packaged=(str(tmp_path / "deb"),))
    opener = file_set_opener(fashion_mnist, functools.partial(open_idx_files, "fashion-mnist", FASHION_NAMES))
    row = replace(BUILTIN_SOURCES["fashion-mnist"], open=opener)
    monkeypatch.setitem(BUILTIN_SOURCES, "fashion-mnist", row)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays(train=6, test=4):
    rng = np.random.default_rng(0)
    return [
        value
        for count in (train, test)
        for value in (
            rng.integers(0, 256, (count, 28, 28), dtype=np.uint8),
            (np.arange(count) % 10).astype(np.uint8),
        )
    ]


def write_idx(folder: Path, gzipped=True, contents=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in zip(IDX, contents or [idx(array) for array in arrays()], strict=True):
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(data) if gzipped else data)
    return folder


def caught(text, data_root=None) -> UserError:
    with pytest.raises(UserError) as info:
        list(open_source(text, data_root).records())
    assert "\n" not in info.value.line
    return info.value


def test_digits_are_1437_and_360():
    source = open_source("digits")
    records = list(source.records())
    splits = [record.split for record in records]
    assert (splits.count("train"), splits.count("test"), source.count) == (1437, 360, 1797)
    assert records[0].payload.shape == source.pixel_shape == (8, 8, 1)
    _, targets = load_digits(return_X_y=True)
    for digit, count in enumerate(np.bincount(targets)):
        held = sum(record.split == "test" and record.label == digit for record in records)
        assert abs(held - 0.2 * count) < 1
    assert max(record.payload.max() for record in records) == 255
    assert records[0].payload.dtype == np.uint8
    assert {int(v) for v in np.unique(records[0].payload)} <= {round(x * 255 / 16) for x in range(17)}
    assert [records[0].name, records[-1].name] == ["train/00000", "test/00359"]


def test_digits_of_equal_content_share_a_side():
    sides: dict[bytes, set] = {}
    for record in open_source("digits").records():
        sides.setdefault(record.payload.tobytes(), set()).add(record.split)
    assert all(len(side) == 1 for side in sides.values())


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("below", ["FashionMNIST/raw", "raw", "."])
def test_idx_files_below_a_place(tmp_path, gzipped, below):
    write_idx(tmp_path / "place" / below, gzipped)
    for source in (
        open_source(f"fashion-mnist:{tmp_path / 'place'}"),
        open_source("fashion-mnist", tmp_path / "place"),
    ):
        records = list(source.records())
        pixels, targets, test_pixels, _ = arrays()
        assert np.array_equal(np.stack([record.payload for record in records[:6]])[..., 0], pixels)
        assert np.array_equal(records[6].payload[..., 0], test_pixels[0])
        assert [record.label for record in records[:6]] == targets.tolist()
        assert [record.name for record in records[5:7]] == ["train/00005", "test/00000"]
        assert (source.count, source.pixel_shape, source.name) == (10, (28, 28, 1), "fashion-mnist")
        assert source.classes[0] == "T-shirt/top"


def test_places_are_tried_in_order(tmp_path, home, no_packages):
    places = [tmp_path / "root", home, tmp_path / "deb"]
    for place in places:
        write_idx(place)
    for place in places:
        assert Path(open_source("fashion-mnist", tmp_path / "root").location) == place
        for file in place.iterdir():
            file.unlink()
    error = caught("fashion-mnist", tmp_path / "root")
    assert error.line == (
        "fashion-mnist was not found and not downloaded: apt install dataset-fashion-mnist, "
        "or fetch it by hand and give --data-root FOLDER"
    )
    for place in places:
        assert f"looked in {place}" in error.details
    assert any("no network" in detail for detail in error.details)
    assert not [path for path in home.iterdir() if path.name.startswith(".")]


def test_a_place_with_part_of_the_set_is_said(tmp_path, no_packages):
    folder = write_idx(tmp_path / "root" / "MNIST" / "raw")
    (folder / f"{IDX[3]}.gz").unlink()
    assert f"looked in {folder} (without {IDX[3]})" in caught("mnist", tmp_path / "root").details
    assert caught(f"mnist:{folder}").line.startswith(f"{folder} does not hold mnist: expected ")


def test_download_is_moved_into_the_cache_folder(home, monkeypatch, no_packages):
    def fetch(url, download_root, filename, md5):
        write_idx(Path(download_root))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "_load_data", lambda self: (None, None))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", lambda self: fetch("", self.raw_folder, "", ""))
    killed = home / ".unfinished.cifar10.0a1b2c3d"  # another download, killed
    killed.mkdir(parents=True)
    source = open_source("fashion-mnist")
    assert Path(source.location) == home / "FashionMNIST" / "raw"
    assert source.count == 10
    assert [path.name for path in home.iterdir()] == ["FashionMNIST"]


def test_a_download_is_told_while_it_goes(tmp_path, home, monkeypatch):
    """A real one, over HTTP from this machine: announced, with progress, and whole files in the cache folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in CIFAR10.files:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = 100_000
            tar.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(member.size)))
    (tmp_path / "cifar.tgz").write_bytes(packed.getvalue())
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind = torchvision.datasets.CIFAR10
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/cifar.tgz")
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
        monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", REAL_DOWNLOAD)
        monkeypatch.setattr(file_sets, "SECONDS_BETWEEN_LINES", 0.0)
        lines: list[str] = []
        with pytest.raises(UserError, match="is not the published file"):  # but an unknown pickle is not read
            open_source("cifar10", log=lines.append)
        server.shutdown()
    assert lines[0] == f"cifar10 is not in {home}: downloading it to {home}"
    assert any("%" in line or "B/s" in line for line in lines[1:])
    assert sorted(path.name for path in (home / "cifar-10-batches-py").iterdir()) == sorted(CIFAR10.files)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_download_s_progress_reaches_the_person(capsys, monkeypatch, terminal):
    """Through the reporters of the commands, which write where the library's own bar is caught."""
    monkeypatch.setattr(file_sets, "SECONDS_BETWEEN_LINES", 0.0)
    reporter = BarReporter() if terminal else LineReporter()
    with file_sets._watched_network(reporter.log):
        print("  45%|████      | 12.3M/26.4M", file=sys.stderr)
        print("Downloading http://somewhere")
    assert capsys.readouterr() == ("", "  45%|████      | 12.3M/26.4M\n")


@pytest.mark.parametrize(
    ("which", "change", "why"),
    [
        (0, lambda data: data[:-1], "bytes, expected"),
        (0, lambda data: data + b"\0", "more than"),
        (0, lambda data: b"\x89PNG" + data[4:], "not an idx header"),
        (0, lambda data: data[:2], "not an idx header"),
        (0, lambda data: data[:2] + b"\x0d" + data[3:], "element type 0x0d"),
        (0, lambda data: data[:9], "cut short in its header"),
        (0, lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "its header asks for"),
        (0, lambda data: idx(np.zeros((600, 28, 28), dtype=np.uint8)), "asks for 470400 bytes"),  # half a kilobyte
        (0, lambda data: idx(np.zeros((6, 14, 14), dtype=np.uint8)), "images of 14×14"),
        (0, lambda data: idx(np.zeros(6, dtype=np.uint8)), "1 dimensions, expected 3"),
        (1, lambda data: idx(np.zeros(5, dtype=np.uint8)), "5 labels for 6 images"),
        (1, lambda data: idx(np.full(6, 10, dtype=np.uint8)), "label 10, expected 0 to 9"),
    ],
)
def test_damaged_idx_files(tmp_path, which, change, why):
    contents = [idx(array) for array in arrays()]
    contents[which] = change(contents[which])
    write_idx(tmp_path, contents=contents)
    assert why in caught(f"mnist:{tmp_path}").line


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:40] + b"\xff" * 40 + data[80:]]
)
def test_damaged_gzip(tmp_path, damage):
    folder = write_idx(tmp_path)
    path = folder / f"{IDX[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert "is damaged" in caught(f"mnist:{tmp_path}").line


def python2_batch(pixels: np.ndarray, targets: list[int], key: str) -> bytes:
    """A batch as Python 2 pickled it, protocol 2: byte strings, and numpy under its old module names."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR"
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t" + text(b"b") + b"tR("
    array += integer(1) + b"(" + b"".join(map(integer, pixels.shape)) + b"t" + dtype + b"\x89"
    array += text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, targets)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + numbers + b"u."


def write_cifar(folder: Path, monkeypatch, wanted=CIFAR10, make=python2_batch) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(torchvision.datasets, wanted.torchvision)
    key = "labels" if wanted is CIFAR10 else "fine_labels"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(wanted.files) - 1, 2, 3072), dtype=np.uint8)
    contents = {name: make(batch, [1, 0], key) for name, batch in zip(wanted.files[:-1], pixels, strict=True)}
    names = "label_names" if wanted is CIFAR10 else "fine_label_names"
    contents[wanted.files[-1]] = pickle.dumps({names: ["ant", "bee"]}, protocol=2)
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name in wanted.files[:-2]])
    monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name in wanted.files[-2:-1]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[wanted.files[-1]]})
    return pixels


@pytest.mark.parametrize("wanted", [CIFAR10, CIFAR100])
def test_cifar(tmp_path, monkeypatch, wanted):
    pixels = write_cifar(tmp_path / wanted.folders[0], monkeypatch, wanted)
    source = open_source(wanted.name, tmp_path)
    records = list(source.records())
    assert source.classes == ("ant", "bee")
    assert source.pixel_shape == records[0].payload.shape == (32, 32, 3)
    assert [record.label for record in records] == [1, 0] * len(pixels)
    flat = pixels.reshape(-1, 3, 32, 32)
    for image, record in zip(flat, records, strict=True):
        assert np.array_equal(record.payload.transpose(2, 0, 1), image)
    assert [record.name for record in records][-3:] == [f"train/{len(records) - 3:05d}", "test/00000", "test/00001"]


def test_cifar_from_newer_pickles(tmp_path, monkeypatch):
    def make(pixels, targets, key):
        return pickle.dumps({"data": pixels, key: targets}, protocol=4)

    write_cifar(tmp_path, monkeypatch, make=make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_source(f"cifar10:{tmp_path}").records())) == 12


class Trap:
    def __reduce__(self):
        return os.mkdir, (Trap.folder,)


def test_a_pickle_with_another_md5_is_never_opened(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    Trap.folder = str(tmp_path / "sprung")
    for name in ("data_batch_2", "batches.meta"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        assert "is not the published file: its md5 is" in caught(f"cifar10:{tmp_path}").line
        (tmp_path / name).write_bytes(before)
    assert not (tmp_path / "sprung").exists()


def test_even_a_published_pickle_only_builds_arrays(tmp_path, monkeypatch):
    Trap.folder = str(tmp_path / "sprung")
    write_cifar(tmp_path, monkeypatch, make=lambda *_: pickle.dumps(Trap()))
    assert "asks for posix.mkdir" in caught(f"cifar10:{tmp_path}").line
    assert not (tmp_path / "sprung").exists()


def test_cifar_not_found(tmp_path, no_packages):
    error = caught("cifar100", tmp_path)
    assert error.line == "cifar100 was not found and not downloaded: fetch it by hand and give --data-root FOLDER"
    assert f"looked in {tmp_path}" in error.details


HOMES = [home for home in (os.environ.get("ALEXNET_HOME"), *FASHION_MNIST.packaged) if home]
REAL = next((home for home in HOMES if find_in(FASHION_MNIST, Path(home))), None)


@pytest.mark.skipif(REAL is None, reason="Fashion-MNIST: not in $ALEXNET_HOME, nor the package dataset-fashion-mnist")
def test_real_fashion_mnist():
    source = open_source(f"fashion-mnist:{REAL}")
    targets = {"train": np.zeros(10, dtype=int), "test": np.zeros(10, dtype=int)}
    total = 0
    for record in source.records():
        targets[record.split][record.label] += 1
        total += int(record.payload.sum()) if record.split == "train" else 0
    assert source.count == 70_000
    assert targets["train"].tolist() == [6000] * 10
    assert targets["test"].tolist() == [1000] * 10
    assert total / (60_000 * 784 * 255) == pytest.approx(0.2860, abs=5e-5)  # the mean everyone normalizes with
