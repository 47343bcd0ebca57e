"""A prepared source: fixed-size pixels on disk, memory-mapped, decoded once and never again.

As in 2012, photographs become 256 × 256 (short side scaled, centre cut); a set whose images all have one size up to
128 keeps it. ``images.npy`` ``(N, S, S, C)`` ``uint8`` with ``labels.npy``, ``splits.npy``, ``hashes.npy`` (of each
image's content) and ``mean.npy`` beside it, all described by ``store.json``. Mean and colour covariance come from
int64 sums, so they are the same whatever the worker count. A store is built beside and renamed into place: whole or
absent.
"""

from __future__ import annotations

import collections
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, read_json, sha256_file, sha256_json, sync, write_json
from alexnet.data.augment import Colours
from alexnet.data.decode import ImageRefusedError, fit, image_size, preprocessing, read_pixels
from alexnet.data.sources import Record, Source, data_home
from alexnet.data.splits import SMALLEST_CLASS, SPLITS, content_hash, deal

SCHEMA = 1
PHOTOGRAPH_SIDE = 256
LARGEST_KEPT_SIDE = 128
CHUNK = 64  # records a worker takes at a time
HEADER_BYTES = 128  # of an .npy file, whatever the number of images
STATISTICS_VALUES = 1 << 24  # pixels values summed at a time; their squares stay far below float64's 2⁵³

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Store:
    """A store that was opened: its headers and sizes are what ``store.json`` says."""

    path: Path
    meta: dict[str, Any]
    images: NDArray[np.uint8]  # (N, S, S, C), memory-mapped
    labels: NDArray[np.int64]  # (N,)
    hashes: NDArray[np.uint64]  # (N,)
    splits: NDArray[np.int8]  # (N,) indices into SPLITS

    @property
    def name(self) -> str:
        """The source's name."""
        return str(self.meta["source"]["name"])

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self.meta["classes"])

    @property
    def readable_classes(self) -> list[str]:
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
    def deviation(self) -> tuple[float, ...]:
        """Standard deviation of each channel over train's pixels, 0 … 255; 1 for a channel that never varies."""
        variances = np.diag(np.array(self.meta["covariance"]))
        return tuple(float(value) ** 0.5 or 1.0 for value in variances)

    @property
    def colours(self) -> Colours:
        """Principal components of train's colours (three channels)."""
        values = np.array(self.meta["eigenvalues"])
        return Colours(np.sqrt(np.maximum(values, 0.0)), np.array(self.meta["eigenvectors"]))

    @cached_property
    def mean_image(self) -> NDArray[np.float32]:
        """``(S, S, C)``, the mean over train of each pixel, 0 … 255."""
        image: NDArray[np.float32] = np.load(self.path / "mean.npy", allow_pickle=False)
        return image

    @property
    def digest(self) -> str:
        """What the store holds, as one hash: equal for equal pixels, labels, splits and classes, wherever it lies."""
        files = {name: item["sha256"] for name, item in self.meta["files"].items()}
        return sha256_json({"files": files, "classes": self.meta["classes"]})

    @property
    def dealt(self) -> bool:
        """Whether the source had no splits and was dealt 80/10/10 here."""
        return bool(self.meta["dealt"])

    def subset(self, split: str) -> NDArray[np.int64]:
        """The indices of ``"train"``, ``"val"``, ``"test"`` or ``"all"``, rising; empty if there is no such split."""
        return np.arange(len(self.labels)) if split == "all" else np.flatnonzero(self.splits == SPLITS.index(split))


def open_or_prepare(
    source: Source,
    side: int | None = None,
    channels: int | None = None,
    *,
    home: Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> Store:
    """The store of ``source``, built now unless it is there and the source has not changed since.

    ``side``: stored side, None for the rule; ``channels``: None for the source's own. ``progress(done, total)`` counts
    images. Raises ``UserError`` if no image is left, a disk refuses, or, with ``strict``, at the first refused image.
    """
    side = side or natural_side(source)
    channels = channels or (source.pixel_shape[2] if source.pixel_shape else 3)
    stores = (home or data_home()) / "stores"
    settings = preprocessing(side, channels)
    identity = {"location": source.location, "settings": settings}
    prefix = f"{source.name}-{sha256_json(identity)[:12]}"
    path = stores / f"{prefix}-{sha256_json([SCHEMA, source.fingerprint, source.classes])[:12]}"
    if path.exists():
        return open_store(path)
    try:
        with publish_folder(path) as beside:
            build(source, side, channels, beside, settings, workers or cpu_count(), strict, progress)
    except OSError as error:
        raise UserError(
            f"cannot write the store {path}: {error.strerror or error}; set ALEXNET_HOME elsewhere"
        ) from error
    for stale in stores.glob(f"{prefix}-*"):
        if stale != path:
            shutil.rmtree(stale, ignore_errors=True)
    return open_store(path)


def cpu_count() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0))


def natural_side(source: Source) -> int:
    """The side that the rule gives: one size up to 128 is kept, anything else becomes 256."""
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
            yield image_size(_encoded(record))
        except (ImageRefusedError, OSError):
            continue


def _encoded(record: Record) -> bytes:
    if isinstance(record.payload, Path):
        return record.payload.read_bytes()
    if isinstance(record.payload, bytes):
        return record.payload
    raise TypeError("an array has no encoded form")


@dataclass(frozen=True)
class Decoded:
    """One record's outcome: pixels and their hash, or the reason for a refusal."""

    record: Record
    pixels: NDArray[np.uint8] | None
    digest: int = 0
    reason: str = ""


def decode_record(record: Record, side: int, channels: int) -> Decoded:
    """Pixels ``(side, side, channels)`` of one record; a refusal is an answer, not an exception."""
    try:
        if isinstance(record.payload, np.ndarray):
            pixels = record.payload
            if pixels.shape != (side, side, channels):
                pixels = fit(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), side, channels)
            return Decoded(record, pixels, content_hash(record.payload))
        data = _encoded(record)
        return Decoded(record, read_pixels(data, side, channels), content_hash(data))
    except ImageRefusedError as error:
        return Decoded(record, None, reason=str(error))
    except OSError as error:
        return Decoded(record, None, reason=f"cannot be read: {error.strerror or error}")


def decode_all(records: Iterable[Record], side: int, channels: int, workers: int) -> Iterator[Decoded]:
    """Each record's outcome, in order, decoded by ``workers`` threads (Pillow decodes outside the interpreter lock)."""
    remaining = iter(records)
    pending: collections.deque[Future[list[Decoded]]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (chunk := list(itertools.islice(remaining, CHUNK))):
                    pending.append(pool.submit(lambda some: [decode_record(r, side, channels) for r in some], chunk))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def build(
    source: Source,
    side: int,
    channels: int,
    folder: Path,
    settings: dict[str, Any],
    workers: int,
    strict: bool,
    progress: Progress,
) -> None:
    """Fill ``folder`` with the store of ``source``."""
    _demand_room(source, side, channels, folder)
    labels, hashes, codes, refused = [], [], [], []
    with (folder / "images.npy").open("wb") as file:
        file.write(_header((0, side, side, channels)))
        for done, item in enumerate(decode_all(source.records(), side, channels, workers), 1):
            if item.pixels is None:
                if strict:
                    raise UserError(f"{item.record.name}: {item.reason}; leave out --strict to go on without it")
                refused.append({"name": item.record.name, "reason": item.reason})
            else:
                file.write(np.ascontiguousarray(item.pixels).data)
                labels.append(item.record.label)
                hashes.append(item.digest)
                codes.append(SPLITS.index(item.record.split) if item.record.split else -1)
            progress(done, source.count)
        if not labels:
            raise UserError(f"{source.location}: none of its images can be used", _lines(refused))
        file.seek(0)
        file.write(_header((len(labels), side, side, channels)))
    targets, digests, splits = np.array(labels, np.int64), np.array(hashes, np.uint64), np.array(codes, np.int8)
    if dealt := bool((splits < 0).any()):
        splits = deal(targets, digests)
    for name, array in (("labels", targets), ("hashes", digests), ("splits", splits)):
        np.save(folder / f"{name}.npy", array)
    _describe(source, folder, targets, splits, {"preprocessing": settings, "refused": refused, "dealt": dealt})


def _demand_room(source: Source, side: int, channels: int, folder: Path) -> None:
    needed = (source.count or 0) * side * side * channels
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the store of {source.name} needs {needed / 1e9:.1f} GB and {folder.parent} has {free / 1e9:.1f} GB free: "
            "set ALEXNET_HOME to a larger disk"
        )


def _header(shape: tuple[int, ...]) -> bytes:
    """The .npy header for ``uint8`` of this shape, padded to a length that does not depend on the number of images."""
    description = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode("latin1")
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + description.ljust(length - 1) + b"\n"


def _lines(refused: list[dict[str, str]], most: int = 20) -> list[str]:
    lines = [f"{item['name']}: {item['reason']}" for item in refused[:most]]
    return [*lines, f"and {len(refused) - most} more"] if len(refused) > most else lines


def _describe(
    source: Source,
    folder: Path,
    labels: NDArray[np.int64],
    splits: NDArray[np.int8],
    how: dict[str, Any],
) -> None:
    """Measure the training split and write ``mean.npy`` and ``store.json``; ``how`` is what the building found."""
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    train = np.flatnonzero(splits == SPLITS.index("train"))
    if not len(train):
        raise UserError(f"{source.location}: none of its training images can be used", _lines(how["refused"]))
    mean_image, mean, covariance = statistics(images, train)
    np.save(folder / "mean.npy", mean_image)
    values, vectors = principal_components(covariance)
    files = sorted(file for file in folder.glob("*.npy"))
    meta = {
        "schema": SCHEMA,
        "source": {"name": source.name, "location": source.location, "fingerprint": source.fingerprint},
        "classes": list(source.classes),
        "descriptions": list(source.descriptions) if source.descriptions else None,
        "images": len(labels),
        "splits": {name: int((splits == code).sum()) for code, name in enumerate(SPLITS)},
        "preprocessing_sha256": sha256_json(how["preprocessing"]),
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
        "eigenvalues": values.tolist(),
        "eigenvectors": vectors.tolist(),
        **how,
        "warnings": [*source.warnings, *_warnings(source, labels, splits)],
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files},
    }
    for file in files:
        sync(file)
    write_json(folder / "store.json", meta)


def _warnings(source: Source, labels: NDArray[np.int64], splits: NDArray[np.int8]) -> list[str]:
    counts = np.bincount(labels, minlength=len(source.classes))
    trained = np.bincount(labels[splits == SPLITS.index("train")], minlength=len(source.classes))
    few = [name for name, count in zip(source.classes, counts, strict=True) if 0 < count < SMALLEST_CLASS]
    none = [name for name, count in zip(source.classes, trained, strict=True) if count == 0]
    warnings = [f"too few images to be tested, these classes only train: {', '.join(few)}"] if few else []
    return [*warnings, f"no image to train on in: {', '.join(none)}"] if none else warnings


def statistics(
    images: NDArray[np.uint8], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Mean image ``(S, S, C)`` fp32, mean ``(C,)`` and covariance ``(C, C)`` of the pixels of ``images[index]``.

    The sums are integers: float64 holds each chunk's exactly (below 2⁵³) and int64 the whole's (below 9.2e18 up to
    10⁹ photographs), so neither order nor chunking shows.
    """
    _, height, width, channels = images.shape
    chunk = max(1, STATISTICS_VALUES // (height * width * channels))
    total = np.zeros((height, width, channels), np.int64)
    products = np.zeros((channels, channels), np.int64)
    for start in range(0, len(index), chunk):
        some = images[index[start : start + chunk]]
        total += some.sum(axis=0, dtype=np.int64)
        flat = some.reshape(-1, channels).astype(np.float64)
        products += (flat.T @ flat).astype(np.int64)
    pixels = len(index) * height * width
    mean = total.sum(axis=(0, 1)) / pixels
    return (total / len(index)).astype(np.float32), mean, products / pixels - np.outer(mean, mean)


def principal_components(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues ``(C,)``, largest first, and unit eigenvectors ``(C, C)``, one a row, its largest entry positive."""
    values, vectors = np.linalg.eigh(covariance)
    rows = vectors.T[::-1]
    largest = np.abs(rows).argmax(axis=1)
    signs = np.sign(rows[np.arange(len(rows)), largest])
    return values[::-1].copy(), rows * signs[:, None]


def open_store(path: Path) -> Store:
    """Open a store, checking headers, sizes and labels. Raises ``UserError`` that says what is wrong and what to do."""
    try:
        meta = read_json(path / "store.json")
        if meta["schema"] != SCHEMA:
            raise ValueError(f"schema {meta['schema']}, this version reads {SCHEMA}")
        for name, item in meta["files"].items():
            if (path / name).stat().st_size != item["bytes"]:
                raise ValueError(f"{name} has {(path / name).stat().st_size} bytes instead of {item['bytes']}")
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        names = ("labels", "hashes", "splits")
        labels, hashes, splits = (np.load(path / f"{name}.npy", allow_pickle=False) for name in names)
        _check(meta, images, labels, hashes, splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the store {path} is damaged: remove that folder and run the command again", [str(error)]
        ) from error
    return Store(path, meta, images, labels, hashes, splits)


def _check(meta: dict[str, Any], images: Any, labels: Any, hashes: Any, splits: Any) -> None:
    count = meta["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or len(images) != count:
        raise ValueError(f"images.npy is {images.dtype} {images.shape}, not uint8 ({count}, side, side, channels)")
    for name, array, kind in (("labels", labels, np.int64), ("hashes", hashes, np.uint64), ("splits", splits, np.int8)):
        if array.dtype != kind or array.shape != (count,):
            raise ValueError(f"{name}.npy is {array.dtype} {array.shape}, not {np.dtype(kind)} ({count},)")
    if labels.min() < 0 or labels.max() >= len(meta["classes"]):
        raise ValueError(f"labels.npy holds a label outside 0 … {len(meta['classes']) - 1}")
    if splits.min() < 0 or splits.max() >= len(SPLITS):
        raise ValueError("splits.npy holds a number that is no split")


def verify_store(path: Path) -> list[str]:
    """Re-hash every file of a store. Returns a sentence for each that is not what was written; empty if all is well."""
    store = open_store(path)
    return [
        f"{path / name}: its sha256 is not the one in store.json: remove the store and prepare it again"
        for name, item in store.meta["files"].items()
        if sha256_file(path / name) != item["sha256"]
    ]
