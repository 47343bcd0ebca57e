"""Write the files of a prepared dataset: each image of a source is decoded once, by several threads.

The files do not depend on the number of threads: records keep their order, and mean and covariance are computed from
integer sums. Arrays are ``.npy`` files with a header of fixed length, so that the header of the images can be written
before their number is known, see ``array_header``.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from alexnet.config import Resize
from alexnet.core.dicom_view import AS_STATED, DicomView
from alexnet.core.errors import UserError
from alexnet.core.files import open_regular, read_bytes, sha256_file, sha256_json, size_in_words, write_json
from alexnet.core.names import printable
from alexnet.data import dicom
from alexnet.data.boxes import COLUMNS, check_boxes, fit_boxes
from alexnet.data.containers import SUFFIXES, kind_of
from alexnet.data.decode import ImageRefusedError, accepted, fit, image_size, preprocessing, read_pixels
from alexnet.data.masks import fit_mask, read_mask
from alexnet.data.sources import Record, Source
from alexnet.data.splits import SMALLEST_CLASS, SPLITS, content_hash, join_groups, split_by_hash

SCHEMA = 3
NAMES = "names.txt"  # a line for each image
CHUNK = 64  # records that a thread decodes at a time
CHUNK_BYTES = 16 << 20  # of files in memory in one chunk, which limits the memory for an archive with large members
HEADER_BYTES = 128  # of an .npy file, for any number of images
PAIRS_SHOWN = 3  # of duplicates in a warning
GROUPS = "groups.npy"  # only if the source has groups
MASKS = "masks.npy"  # only if the source has masks
BOXES, BOX_STARTS = "boxes.npy", "box-starts.npy"  # only if the source has boxes: those of image i begin at start i
IN_TEST_AND_TRAIN, IN_TWO_CLASSES = "test image in train", "image in two classes"
STATISTICS_VALUES = 1 << 24  # pixel values summed at a time; the sums of their squares are far below float64's 2⁵³

Progress = Callable[[int, int | None], None]
"""Receives the number of images that are done, and of all images, None if unknown."""


@dataclass(frozen=True)
class Decoded:
    """A decoded record: its pixels, the hash of its content and notes for the user; or the reason for a refusal.

    ``mask``: ``(S, S)`` uint8, if the record has one; ``boxes``: ``(n, 6)``, see ``boxes.py``.
    """

    record: Record
    pixels: NDArray[np.uint8] | None
    digest: int = 0
    notes: tuple[str, ...] = ()
    reason: str = ""
    mask: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None


def write_dataset(
    source: Source,
    side: int,
    channels: int,
    folder: Path,
    workers: int,
    strict: bool,
    progress: Progress,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
) -> None:
    """Write the prepared dataset of ``source`` into ``folder``, which is empty.

    Raises ``UserError`` if no image is usable, if the disk is too small, or, with ``strict``, at the first refused
    image. Raises ``OSError`` if the disk cannot be written.
    """
    _check_disk_space(source, side, channels, folder)
    labelled, hashes, codes, groups, boxes = [], [], [], [], []
    refused: list[dict[str, str]] = []
    notes: collections.Counter[str] = collections.Counter()
    decoded = decode_all(source.records(), side, channels, workers, resize, view, len(source.classes))
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((folder / "images.npy").open("wb"))
        masks = stack.enter_context((folder / MASKS).open("wb")) if source.annotations == "masks" else None
        names = stack.enter_context((folder / NAMES).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.closing(decoded))
        file.write(array_header(np.uint8, (0, side, side, channels)))
        if masks:
            masks.write(array_header(np.uint8, (0, side, side)))
        for done, item in enumerate(decoded, 1):
            if item.pixels is None:
                if strict:
                    raise refusal_error(item.record.name, item.reason)
                refused.append({"name": item.record.name, "reason": item.reason})
            else:
                file.write(np.ascontiguousarray(item.pixels).data)
                if masks and item.mask is not None:
                    masks.write(item.mask.data)
                if item.boxes is not None:
                    boxes.append(item.boxes)
                names.write(printable(item.record.name) + "\n")
                labelled.append(item.record.label)
                hashes.append(item.digest)
                groups.append(item.record.group)
                codes.append(SPLITS.index(item.record.split) if item.record.split else -1)
                notes.update(item.notes)
            progress(done, source.count)
        if not labelled:
            raise UserError(f"{source.location}: none of its images can be used", _first_lines(_lines(refused)))
        file.seek(0)
        file.write(array_header(np.uint8, (len(labelled), side, side, channels)))
        if masks:
            masks.seek(0)
            masks.write(array_header(np.uint8, (len(labelled), side, side)))
    targets, digests, splits = np.array(labelled, np.int64), np.array(hashes, np.uint64), np.array(codes, np.int8)
    if source.annotations == "labels":
        source, targets = _without_empty_classes(source, targets, refused)
    _check_groups(groups, codes)
    together = join_groups(digests, groups) if any(groups) else digests
    if auto_split := bool((splits < 0).any()):
        splits = split_by_hash(targets, together, large_groups=any(groups))
    if any(groups):
        write_array(folder / GROUPS, together)
    if source.annotations == "boxes":
        write_array(folder / BOXES, np.concatenate([np.zeros((0, COLUMNS), np.float32), *boxes]))
        write_array(folder / BOX_STARTS, np.cumsum([0, *map(len, boxes)], dtype=np.int64))
    for name, array in (("labels", targets), ("hashes", digests), ("splits", splits)):
        write_array(folder / f"{name}.npy", array)
    pairs = duplicates(targets, splits, digests, folder / NAMES)
    results = {"dealt": auto_split, "refused": refused, "notes": dict(sorted(notes.items())), "duplicates": pairs}
    _write_description(source, folder, preprocessing(side, channels, resize, view), targets, splits, digests, results)


def _without_empty_classes(
    source: Source, targets: NDArray[np.int64], refused: list[dict[str, str]]
) -> tuple[Source, NDArray[np.int64]]:
    """The source without the classes that have no usable image, and the labels of its other classes.

    Raises ``UserError`` if only one of several classes remains.
    """
    left, indices = np.unique(targets, return_inverse=True)
    if len(left) == len(source.classes):
        return source, targets
    empty = [name for index, name in enumerate(source.classes) if index not in left]
    if len(left) == 1 and source.trainable:
        raise UserError(
            f"{source.location}: only class {source.classes[left[0]]!r} has an image that can be used: a classifier "
            "needs two or more",
            _first_lines(_lines(refused)),
        )
    names = source.descriptions
    return replace(
        source,
        classes=tuple(source.classes[index] for index in left),
        descriptions=tuple(names[index] for index in left) if names else None,
        warnings=(*source.warnings, f"classes without a usable image, ignored: {', '.join(_first_lines(empty))}"),
    ), indices.astype(np.int64)


def _check_groups(groups: Sequence[str], codes: Sequence[int]) -> None:
    """Raise ``UserError`` if the images of a group, such as a patient, are in two of the splits of the source.

    ``codes``: the split of each image, an index into ``SPLITS``.
    """
    first: dict[str, int] = {}
    for number, (group, code) in enumerate(zip(groups, codes, strict=True)):
        if group and code >= 0 and codes[other := first.setdefault(group, number)] != code:
            place = list(first).index(group) + 1
            splits = f"{SPLITS[codes[other]]} and {SPLITS[code]}"
            raise UserError(
                f"group {place:,} (a patient, or the images of one name in the column group) is in {splits}: usable "
                f"images {other:,} and {number:,}, counted from 0; put each group into one split"
            )


def refusal_error(name: str, reason: str) -> UserError:
    """The error for a refused image with ``--strict``."""
    return UserError(f"{name}: {reason}; leave out --strict to go on without it")


def decode_all(
    records: Iterable[Record],
    side: int,
    channels: int,
    workers: int,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
    classes: int = 0,
) -> collections.abc.Generator[Decoded, None, None]:
    """The records decoded by ``workers`` threads, in order (Pillow releases the interpreter lock while it decodes).

    ``classes``: the number of classes that masks and boxes may have.
    """
    remaining = iter(records)
    pending: collections.deque[Future[list[Decoded]]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(pending) < 2 * workers and (chunk := _chunk(remaining)):
                    pending.append(
                        pool.submit(
                            lambda some: [decode_record(r, side, channels, resize, view, classes) for r in some], chunk
                        )
                    )
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _chunk(records: Iterator[Record]) -> list[Record]:
    """The next records, up to ``CHUNK`` of them or ``CHUNK_BYTES``; empty at the end."""
    chunk: list[Record] = []
    size = 0
    for record in itertools.islice(records, CHUNK):
        chunk.append(record)
        size += len(record.payload) if isinstance(record.payload, bytes) else 0
        if size >= CHUNK_BYTES:
            break
    return chunk


def decode_record(
    record: Record,
    side: int,
    channels: int,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
    classes: int = 0,
) -> Decoded:
    """Decode one record to ``(side, side, channels)`` pixels; a refused image is a result, not an exception.

    The record of a DICOM file without a group gets that of its patient. ``classes``: the number of classes that a mask
    or a box may have.
    """
    try:
        if isinstance(record.payload, np.ndarray):
            pixels = record.payload
            if pixels.shape != (side, side, channels):
                image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
                pixels = fit(image, side, channels, resize)
            return Decoded(record, pixels, content_hash(record.payload))
        data = file_bytes(record)
        notes = suffix_notes(record.name, data)
        if kind_of(data) == "DICOM":
            group, note = dicom.patient(data)
            name = record.name if record.file else f"DICOM file {content_hash(data):016x}"  # it had another suffix
            record = replace(record, name=name, group=record.group or group)
            notes += [note] if note and not record.group else []
        pixels = read_pixels(data, side, channels, notes, resize, view)
        mask = None if record.mask is None else _mask_of(record.mask, data, side, classes)
        boxes = None
        if record.boxes is not None:
            height, width = image_size(data)
            found = check_boxes(record.boxes(width, height), width, height, classes, notes)
            boxes = fit_boxes(found, (width, height), side, resize, notes)
        return Decoded(record, pixels, content_hash(data), tuple(notes), mask=mask, boxes=boxes)
    except ImageRefusedError as error:
        return Decoded(record, None, reason=str(error))
    except OSError as error:  # removed since it was listed, no permission, or the disk fails
        return Decoded(record, None, reason=f"cannot be read: {error.strerror or error}")


def _mask_of(path: Path, image: bytes, side: int, classes: int) -> NDArray[np.uint8]:
    """The mask ``(side, side)`` of an image file. Raises ``ImageRefusedError``, also if it has another size."""
    mask = read_mask(path, classes)
    if mask.shape != (size := image_size(image)):
        (height, width), (rows, columns) = size, mask.shape
        raise ImageRefusedError(f"is {width} × {height} pixels, and its mask {columns} × {rows}")
    return fit_mask(mask, side)


def suffix_notes(name: str, data: bytes) -> list[str]:
    """A note if the suffix of a file means another format than its content has; the content decides."""
    suffix, kind = Path(name).suffix.lower(), kind_of(data)
    expected = SUFFIXES.get(suffix)
    return [f"{kind} file named {suffix}"] if expected and kind and expected != kind else []


def file_bytes(record: Record) -> bytes:
    """The bytes of the image file of a record.

    Raises ``ImageRefusedError`` for a damaged file of an archive, ``OSError`` for a file that cannot be read or is
    larger than ``FILE_LIMIT``, and ``TypeError`` for an array.
    """
    if record.fault:
        raise ImageRefusedError(record.fault)
    if isinstance(record.payload, Path):
        return read_bytes(record.payload)
    if isinstance(record.payload, bytes):
        return record.payload
    raise TypeError("the record is an array, not an image file")


def array_header(kind: DTypeLike, shape: tuple[int, ...]) -> bytes:
    """The header of an ``.npy`` file in C order (format 1.0), padded to ``HEADER_BYTES``."""
    description = f"{{'descr': '{np.dtype(kind).str}', 'fortran_order': False, 'shape': {shape}, }}".encode("latin1")
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + description.ljust(length - 1) + b"\n"


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as an ``.npy`` file with the header of :func:`array_header`."""
    with path.open("wb") as file:
        file.write(array_header(array.dtype, array.shape))
        file.write(np.ascontiguousarray(array).data)


def read_array(path: Path, kind: DTypeLike, shape: tuple[int, ...], *, mapped: bool = False) -> NDArray[Any]:
    """Read, or with ``mapped`` memory-map, an array of :func:`write_array`.

    Raises ``OSError``, or ``ValueError`` if the file does not hold an array of just this dtype and shape.
    """
    expected = HEADER_BYTES + math.prod(shape) * np.dtype(kind).itemsize
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) != expected:
            raise ValueError(f"{path.name} has {size} bytes instead of {expected}")
        if file.read(HEADER_BYTES) != array_header(kind, shape):
            raise ValueError(f"{path.name} does not begin with the header of a {np.dtype(kind)} array {shape}")
        if mapped:
            return np.memmap(file, kind, "r", HEADER_BYTES, shape)
        return np.fromfile(file, kind).reshape(shape)


def _check_disk_space(source: Source, side: int, channels: int, folder: Path) -> None:
    needed = (source.count or 0) * side * side * (channels + (source.annotations == "masks"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the prepared dataset of {source.name} needs {size_in_words(needed)}, {size_in_words(needed - free)} more "
            f"than are free in {folder.parent}: set ALEXNET_HOME to a larger disk"
        )


def _write_description(
    source: Source,
    folder: Path,
    settings: dict[str, Any],
    targets: NDArray[np.int64],
    splits: NDArray[np.int8],
    hashes: NDArray[np.uint64],
    results: dict[str, Any],
) -> None:
    """Compute the statistics of train, and write ``mean.npy`` and ``store.json``, which includes ``results``."""
    side, channels = settings["short_side"], settings["channels"]
    images = read_array(folder / "images.npy", np.uint8, (len(targets), side, side, channels), mapped=True)
    train = np.flatnonzero(splits == SPLITS.index("train"))
    if not source.trainable:  # only to evaluate on: the statistics of all images are stored, and never used
        train = np.arange(len(splits))
    if not len(train):
        raise UserError(
            f"{source.location}: none of its training images can be used", _first_lines(_lines(results["refused"]))
        )
    mean_image, mean, covariance = statistics(images, train)
    write_array(folder / "mean.npy", mean_image)
    values, vectors = principal_components(covariance)
    annotated = {} if source.annotations == "labels" else {"annotations": source.annotations}
    meta = {
        "schema": SCHEMA,
        "source": {"name": source.name, "location": source.location, "fingerprint": source.fingerprint},
        **annotated,
        "classes": list(source.classes),
        "descriptions": list(source.descriptions) if source.descriptions else None,
        "images": len(targets),
        "splits": {name: int((splits == code).sum()) for code, name in enumerate(SPLITS)},
        "preprocessing": settings,
        "preprocessing_sha256": sha256_json(settings),
        "accepts": accepted(),
        "pillow": PIL.__version__,
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
        "eigenvalues": values.tolist(),
        "eigenvectors": vectors.tolist(),
        **results,
        "warnings": [*source.warnings, *_warnings(source, targets, splits, hashes, results)],
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in sorted([*folder.glob("*.npy"), folder / NAMES])
        },
    }
    write_json(folder / "store.json", {**meta, "sha256": sha256_json(meta)})


def _warnings(
    source: Source,
    targets: NDArray[np.int64],
    splits: NDArray[np.int8],
    hashes: NDArray[np.uint64],
    results: Mapping[str, Any],
) -> list[str]:
    """Sentences about classes and duplicates that make training or testing on these images less reliable."""
    labelled = source.annotations == "labels"  # otherwise all images have the label 0
    in_all = np.bincount(targets, minlength=len(source.classes))
    in_train = np.bincount(targets[splits == SPLITS.index("train")], minlength=len(source.classes))
    small = [name for name, count in zip(source.classes, in_all, strict=True) if 0 < count < SMALLEST_CLASS]
    untrained = [name for name, count in zip(source.classes, in_train, strict=True) if count == 0]
    warnings = []
    if labelled and small and results["dealt"]:
        warnings.append(f"classes with too few images for val and test, all in train: {', '.join(_first_lines(small))}")
    if again := np.isin(hashes[splits == SPLITS.index("test")], hashes[splits == SPLITS.index("train")]).sum():
        which = _first_pairs(results["duplicates"], IN_TEST_AND_TRAIN)
        warnings.append(
            f"{again:,} test image{'s are' if again > 1 else ' is'} also in train, byte for byte: test accuracy will "
            f"be too high: {which}"
        )
    if (several := _in_several_classes(targets, hashes)) > 0:
        which = _first_pairs(results["duplicates"], IN_TWO_CLASSES)
        warnings.append(f"{several:,} image{'s are' if several > 1 else ' is'} in more than one class: {which}")
    if labelled and untrained and source.trainable:
        warnings.append(f"classes without training images: {', '.join(_first_lines(untrained))}")
    return warnings


def duplicates(
    targets: NDArray[np.int64], splits: NDArray[np.int8], hashes: NDArray[np.uint64], names: Path
) -> list[dict[str, str]]:
    """The test images whose content is also in train, and the images whose content is in another class before.

    Each is ``{"kind": IN_TEST_AND_TRAIN or IN_TWO_CLASSES, "name": …, "equals": …}``, in the order of the images.
    ``names``: the file with a line for each image; it is read only if there are such images.
    """
    test, train = SPLITS.index("test"), SPLITS.index("train")
    _, place, times = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(times[place] > 1).tolist()
    first = {hashes[number]: number for number in reversed(repeated)}
    first_in_train = {hashes[number]: number for number in reversed(repeated) if splits[number] == train}
    pairs = []
    for number in repeated:
        digest = hashes[number]
        if splits[number] == test and digest in first_in_train:
            pairs.append((IN_TEST_AND_TRAIN, number, first_in_train[digest]))
        if targets[number] != targets[first[digest]]:
            pairs.append((IN_TWO_CLASSES, number, first[digest]))
    lines = names.read_text(encoding="utf-8").splitlines() if pairs else []
    return [{"kind": kind, "name": lines[number], "equals": lines[other]} for kind, number, other in pairs]


def _first_pairs(pairs: Sequence[Mapping[str, str]], kind: str) -> str:
    """The first pairs of duplicates of a kind in words, and where all of them are."""
    some = [f"{pair['name']} equals {pair['equals']}" for pair in pairs if pair["kind"] == kind]
    more = f" and {len(some) - PAIRS_SHOWN:,} more, listed in store.json" if len(some) > PAIRS_SHOWN else ""
    return ", ".join(some[:PAIRS_SHOWN]) + more


def _in_several_classes(targets: NDArray[np.int64], hashes: NDArray[np.uint64]) -> int:
    """The number of different images that occur with more than one label."""
    pairs = np.unique(np.stack([hashes, targets.astype(np.uint64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def _lines(refused: list[dict[str, str]]) -> list[str]:
    return [f"{item['name']}: {item['reason']}" for item in refused]


def _first_lines(lines: Sequence[str], most: int = 20) -> list[str]:
    return [*lines[:most], f"and {len(lines) - most} more"] if len(lines) > most else list(lines)


def statistics(
    images: NDArray[np.uint8], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Statistics of the pixels ``images[index]``, 0 … 255.

    Returns the mean image ``(S, S, C)`` float32, and over all pixels the mean ``(C,)`` and the covariance ``(C, C)``,
    float64. The sums are integers: float64 is exact for those of a chunk (below 2⁵³), int64 for the total (below 9.2e18
    for up to 10⁹ photographs). So the results do not depend on order or chunks: each is an exact quotient, rounded.
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
    sums = total.sum(axis=(0, 1)).tolist()  # Python integers from here on, which cannot overflow
    mean = np.array([value / pixels for value in sums])
    covariance = np.array(
        [
            [(pixels * product - sums[i] * sums[j]) / pixels**2 for j, product in enumerate(row)]
            for i, row in enumerate(products.tolist())
        ]
    )
    return (total / len(index)).astype(np.float32), mean, covariance


def principal_components(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues ``(C,)``, largest first, and unit eigenvectors ``(C, C)``, one a row, of a covariance ``(C, C)``.

    The sign of a vector is arbitrary; here its entry with the largest magnitude is positive (the first one of several).
    """
    values, vectors = np.linalg.eigh(covariance)
    rows = vectors.T[::-1]
    sizes = np.abs(rows)
    largest = (sizes > (1 - 1e-9) * sizes.max(axis=1, keepdims=True)).argmax(axis=1)
    signs = np.sign(rows[np.arange(len(rows)), largest])
    return values[::-1].copy(), rows * signs[:, None]
