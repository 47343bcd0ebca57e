"""A prepared source: fixed-size pixels on disk, memory-mapped, decoded once and never again.

As in 2012, photographs become 256 × 256 (short side scaled, centre cut); a set whose images all have one size up to
128 keeps it. ``images.npy`` ``(N, S, S, C)`` ``uint8`` with ``targets.npy``, ``splits.npy``, ``hashes.npy`` (of each
image's content), ``mean.npy`` and ``names.txt`` beside it, all described by ``dataset.json``. A store is built beside
(``building.py``) and renamed into place: whole or absent. All but the images are hashed again at each opening.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, read_json, sha256_file, sha256_json
from alexnet.data.augment import Colours
from alexnet.data.decode import ImageRefusedError, image_size, preprocessing
from alexnet.data.sources import Record, Source, data_home
from alexnet.data.splits import SPLITS
from alexnet.data.writer import HEADER_BYTES, NAMES, SCHEMA, Progress, build, encoded, read_array, stop_at

PHOTOGRAPH_SIDE = 256
LARGEST_KEPT_SIDE = 128


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A store that was opened: its headers and sizes are what ``dataset.json`` says."""

    path: Path
    meta: dict[str, Any]
    images: NDArray[np.uint8]  # (N, S, S, C), memory-mapped
    targets: NDArray[np.int64]  # (N,)
    hashes: NDArray[np.uint64]  # (N,)
    splits: NDArray[np.int8]  # (N,) indices into SPLITS
    mean_image: NDArray[np.float32]  # (S, S, C), the mean over train of each pixel, 0 … 255
    descriptor: int  # of images.npy, open until the store is let go, whatever becomes of its folder

    @property
    def name(self) -> str:
        """The source's name."""
        return str(self.meta["source"]["name"])

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self.meta["classes"])

    @property
    def labels(self) -> list[str]:
        """What people call the classes, where the source says; else their names."""
        return list(self.meta["descriptions"] or self.meta["classes"])

    @property
    def side(self) -> int:
        """The side of the stored images."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.images.shape[3])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over train, 0 … 255."""
        return tuple(self.meta["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over train's pixels, 0 … 255; 1 for a channel that never varies."""
        variances = np.diag(np.array(self.meta["covariance"]))
        return tuple(float(value) ** 0.5 or 1.0 for value in variances)

    @property
    def colours(self) -> Colours:
        """Principal components of train's colours (three channels)."""
        values = np.array(self.meta["eigenvalues"])
        return Colours(np.sqrt(np.maximum(values, 0.0)), np.array(self.meta["eigenvectors"]))

    @property
    def digest(self) -> str:
        """What the store holds, as one hash: equal for equal pixels, labels, splits and classes, wherever it lies."""
        files = {name: item["sha256"] for name, item in self.meta["files"].items() if name != NAMES}
        return sha256_json({"files": files, "classes": self.meta["classes"]})

    @property
    def auto_split(self) -> bool:
        """Whether the source had no splits and was dealt 80/10/10 here."""
        return bool(self.meta["dealt"])

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Fresh pixels ``(len(index), S, S, C)`` of some images.

        Read and not mapped: pages of a mapping count as this process's memory, which would grow to the size of the
        store, and images in no order are several times slower to map from a disk. Raises ``UserError`` for a file that
        has become shorter.
        """
        pixels = np.empty((len(index), *self.images.shape[1:]), np.uint8)
        size = self.images[0].nbytes
        for image, number in zip(pixels, index.tolist(), strict=True):
            if os.preadv(self.descriptor, [image], HEADER_BYTES + number * size) != size:
                raise UserError(
                    f"the store {self.path} has become shorter: remove that folder and run the command again"
                )
        return pixels

    def names(self, index: NDArray[np.int64]) -> list[str]:
        """What some images are called in their source: a path inside it, or "train/00017" in a set of arrays."""
        wanted = set(index.tolist())
        with (self.path / NAMES).open(encoding="utf-8") as file:
            found = {number: line.rstrip("\n") for number, line in enumerate(file) if number in wanted}
        return [found[number] for number in index.tolist()]

    def subset(self, split: str) -> NDArray[np.int64]:
        """The indices of ``"train"``, ``"val"`` or ``"test"``, rising; empty if there is no such split."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def open_or_prepare(
    source: Source,
    side: int | None = None,
    channels: int | None = None,
    *,
    home: Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> PreparedDataset:
    """The store of ``source``, built now unless it is there and the source has not changed since.

    ``side``: stored side, None for the rule; ``channels``: None for the source's own. ``progress(done, total)`` counts
    images. Raises ``UserError`` if no image is left, a disk refuses, or, with ``strict``, at the first refused image.
    """
    side = natural_side(source) if side is None else side
    channels = channels or (source.pixel_shape[2] if source.pixel_shape else 3)
    if side < 1 or channels not in (1, 3):
        raise UserError(f"images are kept with a side of 1 or more and 1 or 3 channels, not {side} and {channels}")
    datasets = (home or data_home()) / "stores"
    identity = {"location": source.location, "settings": preprocessing(side, channels)}
    prefix = f"{source.name}-{sha256_json(identity)[:12]}"
    path = datasets / f"{prefix}-{sha256_json([SCHEMA, source.fingerprint, source.classes])[:12]}"
    try:
        if not path.exists():
            with publish_folder(path) as beside:
                build(source, side, channels, beside, workers or cpu_count(), strict, progress)
            for stale in datasets.glob(f"{prefix}-*"):
                if stale != path:
                    shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the store {path}: {error.strerror or error}; set ALEXNET_HOME elsewhere"
        ) from error
    dataset = open_prepared(path)
    if strict and dataset.meta["refused"]:
        raise stop_at(**dataset.meta["refused"][0])
    return dataset


def cpu_count() -> int:
    """The processors this process may use, or all where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def natural_side(source: Source) -> int:
    """The side that the rule gives: one size up to 128 is kept, anything else becomes 256.

    Of a rectangle the shorter side is kept. Where all images are that small, all of their headers are read.
    """
    if source.pixel_shape:
        sizes: Iterable[tuple[int, int]] = [source.pixel_shape[:2]]
    else:
        sizes = _sizes(source.records())
    first = None
    for size in sizes:
        if max(size) > LARGEST_KEPT_SIDE or size != (first := first or size):
            return PHOTOGRAPH_SIDE
    return min(first) if first else PHOTOGRAPH_SIDE


def _sizes(records: Iterable[Record]) -> Iterator[tuple[int, int]]:
    """The sizes of the images that say one; bad files are not this pass's matter."""
    for record in records:
        try:
            yield image_size(encoded(record))
        except (ImageRefusedError, OSError):
            continue


def open_prepared(path: Path) -> PreparedDataset:
    """Open a store, checking headers, sizes and labels. Raises ``UserError`` that says what is wrong and what to do."""
    try:
        meta = _read_meta(path / "store.json")
        settings, count = meta["preprocessing"], meta["images"]
        shape = (settings["short_side"], settings["short_side"], settings["channels"])
        images = read_array(path / "images.npy", np.uint8, (count, *shape), mapped=True)
        targets = read_array(path / "labels.npy", np.int64, (count,))
        hashes = read_array(path / "hashes.npy", np.uint64, (count,))
        splits = read_array(path / "splits.npy", np.int8, (count,))
        mean_image = read_array(path / "mean.npy", np.float32, shape)
        if targets.min() < 0 or targets.max() >= len(meta["classes"]):
            raise ValueError(f"labels.npy holds a label outside 0 … {len(meta['classes']) - 1}")
        if splits.min() < 0 or splits.max() >= len(SPLITS):
            raise ValueError("splits.npy holds a number that is no split")
        _demand_written(path, meta)
        descriptor = os.open(path / "images.npy", os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the store {path} is damaged: remove that folder and run the command again", [str(error)]
        ) from error
    dataset = PreparedDataset(path, meta, images, targets, hashes, splits, mean_image, descriptor)
    weakref.finalize(dataset, os.close, descriptor)
    return dataset


def _demand_written(path: Path, meta: dict[str, Any]) -> None:
    """Raise ``ValueError`` where a file beside the images is not what was written; those are too large to be read."""
    for name, item in meta["files"].items():
        if name != "images.npy" and sha256_file(path / name) != item["sha256"]:
            raise ValueError(f"{name} is not what was written: its sha256 differs")


def _read_meta(path: Path) -> dict[str, Any]:
    """What ``dataset.json`` says, if it is all that was written. Raises ``OSError`` or ``ValueError``."""
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} does not describe a store of schema {SCHEMA}, the one that this version reads")
    if meta.pop("sha256", None) != sha256_json(meta):
        raise ValueError(f"{path.name} is not what was written: its sha256 differs")
    return meta


def verify_prepared(path: Path) -> list[str]:
    """Re-hash every file of a store. Returns a sentence for each that is not what was written; empty if all is well."""
    dataset = open_prepared(path)
    return [
        f"{path / name}: its sha256 is not the one in store.json: remove the store and prepare it again"
        for name, item in dataset.meta["files"].items()
        if sha256_file(path / name) != item["sha256"]
    ]
