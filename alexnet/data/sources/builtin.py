"""The built-in sets of pixels: scikit-learn's digits, the two MNISTs, the two CIFARs; where each is looked for.

A set is taken from the first place that has all its files: the place that was named, or ``--data-root``,
``$ALEXNET_HOME`` (else the cache folder), the Debian package; failing all, torchvision downloads it into the cache
folder. Opening a set reads headers at most; pixels are read by ``records()``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.sources.array_files import idx_count, read_cifar, read_cifar_names, read_idx
from alexnet.data.sources.records import Record, Source, fingerprint, fingerprint_paths
from alexnet.data.splits import content_hash, hold_out

Pixels = NDArray[np.uint8]
Part = tuple[str, Pixels, NDArray[np.int64]]  # a split, its (N, H, W, C) pixels and its labels

DIGITS_TEST = 0.2  # ⌈0.2 · 1797⌉ = 360

NETWORK_PATIENCE = 20.0  # seconds without a byte before a download counts as failed
SECONDS_BETWEEN_LINES = 5.0  # of a download's progress

Log = Callable[[str], None]  # who is told, a line at a time, that a download is on its way


@dataclass(frozen=True)
class FileSet:
    """A built-in set that is a few files in a folder."""

    name: str
    torchvision: str  # the class in torchvision.datasets that downloads it
    folders: tuple[str, ...]  # where its files are, below a place that is looked at
    files: tuple[str, ...]
    by_hand: str  # how a person gets it
    packaged: tuple[str, ...] = ()  # places where a system package puts it


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

MNIST = FileSet(
    "mnist",
    "MNIST",
    ("MNIST/raw", "raw", "."),
    _IDX,
    "download the four files of https://ossci-datasets.s3.amazonaws.com/mnist/ and give --data-root FOLDER",
)
FASHION_MNIST = FileSet(
    "fashion-mnist",
    "FashionMNIST",
    ("FashionMNIST/raw", "raw", "."),
    _IDX,
    "download the four files of https://github.com/zalandoresearch/fashion-mnist and give --data-root FOLDER",
    ("/usr/share/datasets/fashion-mnist",),
)
CIFAR10 = FileSet(
    "cifar10",
    "CIFAR10",
    ("cifar-10-batches-py", "."),
    (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and give --data-root FOLDER",
)
CIFAR100 = FileSet(
    "cifar100",
    "CIFAR100",
    ("cifar-100-python", "."),
    ("train", "test", "meta"),
    "unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz and give --data-root FOLDER",
)

_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (  # the README of github.com/zalandoresearch/fashion-mnist
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def data_home() -> Path:
    """Where prepared and downloaded data live: ``$ALEXNET_HOME``, else ``alexnet`` in the user's cache folder."""
    if home := os.environ.get("ALEXNET_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "alexnet"


def open_digits() -> Source:
    """The 1,797 grey 8×8 digits that come with scikit-learn: 1437 to train on and 360 to test on, stratified."""
    version = importlib.metadata.version("scikit-learn")
    return Source(
        name="digits",
        location="scikit-learn",
        classes=_DIGIT_NAMES,
        fingerprint=fingerprint([(f"digits of scikit-learn {version}", 1797, 0)]),
        read=lambda: _array_records(_digits()),
        count=1797,
        pixel_shape=(8, 8, 1),
    )


def _digits() -> Iterator[Part]:
    from sklearn.datasets import load_digits

    raw, targets = load_digits(return_X_y=True)
    pixels = np.round(raw * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    hashes = np.array([content_hash(image) for image in pixels], dtype=np.uint64)
    test = hold_out(targets, hashes, DIGITS_TEST)
    yield "train", pixels[~test], targets[~test]
    yield "test", pixels[test], targets[test]


def open_mnist(wanted: FileSet, place: Path | None, data_root: Path | None, log: Log) -> Source:
    """MNIST or Fashion-MNIST: 60,000 + 10,000 grey 28×28 images in four idx files, gzipped or not."""
    images, targets, test_images, test_labels = files = find(wanted, place, data_root, log)

    def parts() -> Iterator[Part]:
        yield "train", *read_idx(images, targets)
        yield "test", *read_idx(test_images, test_labels)

    return Source(
        name=wanted.name,
        location=str(images.parent),
        classes=_DIGIT_NAMES if wanted is MNIST else _FASHION_NAMES,
        fingerprint=fingerprint_paths(files),
        read=lambda: _array_records(parts()),
        count=idx_count(targets) + idx_count(test_labels),
        pixel_shape=(28, 28, 1),
    )


def open_cifar(wanted: FileSet, place: Path | None, data_root: Path | None, log: Log) -> Source:
    """CIFAR-10 or CIFAR-100: 50,000 + 10,000 colour 32×32 images, from pickles whose published md5 match."""
    *batches, test, meta = files = find(wanted, place, data_root, log)
    md5 = _published_md5(wanted)

    def parts() -> Iterator[Part]:
        for path in batches:
            yield "train", *read_cifar(path, md5[path.name])
        yield "test", *read_cifar(test, md5[test.name])

    return Source(
        name=wanted.name,
        location=str(meta.parent),
        classes=read_cifar_names(meta, md5[meta.name]),
        fingerprint=fingerprint_paths(files),
        read=lambda: _array_records(parts()),
        count=60_000,
        pixel_shape=(32, 32, 3),
    )


def _published_md5(wanted: FileSet) -> dict[str, str]:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, wanted.torchvision)
    return {**dict(kind.train_list), **dict(kind.test_list), kind.meta["filename"]: kind.meta["md5"]}


def _array_records(parts: Iterator[Part]) -> Iterator[Record]:
    done: dict[str, int] = {}
    for split, pixels, targets in parts:
        first = done.get(split, 0)
        done[split] = first + len(targets)
        for index, (image, label) in enumerate(zip(pixels, targets.tolist(), strict=True), start=first):
            yield Record(split, label, f"{split}/{index:05d}", image)


def find(wanted: FileSet, place: Path | None, data_root: Path | None, log: Log) -> tuple[Path, ...]:
    """The files of a set, from the first place that has them all, else downloaded, of which ``log`` is told.

    Raises ``UserError`` naming every place looked at.
    """
    if place is not None:
        places = [place]
    else:
        places = [*([data_root] if data_root else []), data_home(), *map(Path, wanted.packaged)]
    for root in places:
        if files := find_in(wanted, root):
            return files
    looked = [f"looked in {_where(wanted, root)}" for root in places]
    if place is not None:
        raise UserError(f"{place} does not hold {wanted.name}: expected {', '.join(wanted.files)}", looked)
    log(f"{wanted.name} is not in {' or '.join(map(str, places))}: downloading it to {data_home()}")
    problem = _download(wanted, log)
    if not problem and (files := find_in(wanted, data_home())):
        return files
    package = f"apt install dataset-{wanted.name}, or " if wanted.packaged else ""
    raise UserError(
        f"{wanted.name} was not found and not downloaded: {package}fetch it by hand and give --data-root FOLDER",
        [*looked, f"download failed: {problem}", f"by hand: {wanted.by_hand}"],
    )


def find_in(wanted: FileSet, root: Path) -> tuple[Path, ...] | None:
    """The files of a set under one root, or None unless all are in one folder."""
    for folder in (root.absolute() / name for name in wanted.folders):
        files = [_either(folder / name) for name in wanted.files]
        if all(files):
            return tuple(file for file in files if file is not None)
    return None


def _either(path: Path) -> Path | None:
    gzipped = path.with_name(f"{path.name}.gz")
    return next((file for file in (gzipped, path) if os.path.isfile(file)), None)  # noqa: PTH113 – never raises


def _where(wanted: FileSet, root: Path) -> str:
    """A place for the list of places, with what is missing there if only part of the set is there."""
    for folder in (root.absolute() / name for name in wanted.folders):
        missing = [name for name in wanted.files if _either(folder / name) is None]
        if len(missing) < len(wanted.files):
            return f"{folder} (without {', '.join(missing)})"
    return str(root)


def _download(wanted: FileSet, log: Log) -> str:
    """Fetch a set into the cache folder; what went wrong, or ""."""
    home = data_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".download-") as scratch, _watched_network(log):
            folder = _fetch(wanted, Path(scratch))
            (home / folder).mkdir(parents=True, exist_ok=True)
            for file in sorted((Path(scratch) / folder).iterdir()):
                file.replace(home / folder / file.name)  # only whole, verified files are ever seen there
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        return " ".join(str(error).split())
    return ""


def _fetch(wanted: FileSet, scratch: Path) -> str:
    """Have torchvision download and verify a set below ``scratch``; the folder there that holds its files."""
    import torchvision.datasets
    from torchvision.datasets.utils import download_and_extract_archive

    kind = getattr(torchvision.datasets, wanted.torchvision)
    if issubclass(kind, torchvision.datasets.MNIST):
        kind(str(scratch), download=True)
    else:  # not through the class, which would also unpickle
        download_and_extract_archive(kind.url, str(scratch), filename=kind.filename, md5=kind.tgz_md5)
    return wanted.folders[0]


@contextlib.contextmanager
def _watched_network(log: Log) -> Iterator[None]:
    """The library's progress bar as a line now and then, and no waiting for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(_Spaced(log)):
            yield
    finally:
        socket.setdefaulttimeout(before)


class _Spaced(io.StringIO):
    """A stream that passes on what is written there, not more often than every few seconds."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._say, self._last = log, time.monotonic()
        self._before = sys.stderr  # where whoever is told may write, while others' writing comes here

    def write(self, text: str) -> int:
        """Pass the text on as a line, if the last one is long ago."""
        if text.strip() and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            with contextlib.redirect_stderr(self._before):
                self._say(f"  {text.strip()}")
        return len(text)
