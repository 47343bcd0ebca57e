"""Prepared datasets: images of one size on disk, memory-mapped, decoded once.

As in 2012, photographs become 256 × 256 (short side resized, centre square); a set whose images all have one size up to
128 keeps it. The folder holds ``images.npy`` ``(N, S, S, C)`` ``uint8``, ``labels.npy``, ``splits.npy``, ``hashes.npy``
(of the content of each image), ``mean.npy`` and ``names.txt``, for segmentation also ``masks.npy`` ``(N, S, S)``, for
detection ``boxes.npy`` ``(B, 6)`` of all images and ``box-starts.npy`` ``(N + 1,)``;
``store.json`` describes them. It is written under another name (``writer.py``) and then renamed, so it is complete or
absent. When a dataset is opened, the hashes of all files but images and masks are verified.

The images may also be elsewhere, in shards (``shards.py``): then the folder holds ``shards.json`` in place of
``images.npy``, and all other files are the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from alexnet.config import MAX_SIDE, Resize
from alexnet.core.dicom_view import AS_STATED, DicomView
from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import FILE_LIMIT, open_regular, publish_folder, read_json, sha256_file, sha256_json
from alexnet.core.platform import check_platform, cpu_count
from alexnet.data.augment import Colours
from alexnet.data.boxes import COLUMNS, padded
from alexnet.data.decode import ImageRefusedError, accepted, image_size, preprocessing, readable_now
from alexnet.data.home import data_home
from alexnet.data.loader import Pixels
from alexnet.data.remote import shown
from alexnet.data.shards import ShardPixels, Shards, fetch_description, read_shards
from alexnet.data.sources import Annotations, Record, Source
from alexnet.data.splits import SPLITS
from alexnet.data.uses import IMAGES, SHARDS, has_all_notes, hold, remove_unused, start_notes
from alexnet.data.writer import (
    BOX_STARTS,
    BOXES,
    GROUPS,
    HEADER_BYTES,
    MASKS,
    NAMES,
    SCHEMA,
    Progress,
    file_bytes,
    read_array,
    refusal_error,
    write_dataset,
)

PHOTOGRAPH_SIDE = 256
LARGEST_KEPT_SIDE = 128


class LocalArray:
    """The uint8 values ``(N, …)`` of N images in a file of this disk, from its open descriptor."""

    def __init__(self, path: Path, mapped: NDArray[np.uint8], descriptor: int) -> None:
        self._path, self._mapped, self._descriptor = path, mapped, descriptor

    def whole(self) -> NDArray[np.uint8]:
        """All values, memory-mapped."""
        return self._mapped

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :meth:`PreparedDataset.read`.

        They are read, not memory-mapped: mapped pages count as memory of this process, which would grow to the size of
        the dataset, and mapping images in random order from a disk is several times slower.
        """
        values: NDArray[np.uint8] = np.empty((len(index), *self._mapped.shape[1:]), np.uint8)
        size = self._mapped[0].nbytes
        for value, number in zip(values, index.tolist(), strict=True):
            try:
                count = os.preadv(self._descriptor, [value], HEADER_BYTES + number * size)
            except OSError as error:
                raise cannot_read(self._path, error) from error
            if count != size:
                raise UserError(
                    f"the prepared dataset {self._path.parent} has become shorter: remove that folder and run the "
                    "command again"
                )
        return values


class LocalPixels(LocalArray):
    """The pixels in ``images.npy`` of a folder."""

    prefetch = None
    address = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, S, S, C)``."""
        return cast(tuple[int, int, int, int], self._mapped.shape)


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """An open prepared dataset; ``meta`` is the content of ``store.json``."""

    path: Path
    meta: dict[str, Any]
    pixels: Pixels
    targets: NDArray[np.int64]  # (N,)
    hashes: NDArray[np.uint64]  # (N,)
    groups: NDArray[
        np.uint64
    ]  # (N,) equal for images that stay together in splits and folds; the hashes without groups
    splits: NDArray[np.int8]  # (N,) indices into SPLITS
    mean_image: NDArray[np.float32]  # (S, S, C), the mean of each pixel over train, 0 … 255
    masks: LocalArray | None  # (N, S, S): the class of each pixel; None without masks
    boxes: tuple[NDArray[np.float32], NDArray[np.int64]] | None  # (B, 6) and (N + 1,), see writer.py; None without
    descriptor: int  # of images.npy or shards.json, open and locked as long as ``pixels``, so that nobody removes it

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images ``(N, S, S, C)``: memory-mapped, or read into memory if they are in shards."""
        return self.pixels.whole()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, S, S, C)``: the number of images, their side twice, and the channels."""
        return self.pixels.shape

    @property
    def name(self) -> str:
        """The name of the source."""
        return str(self.meta["source"]["name"])

    @property
    def classes(self) -> list[str]:
        """The names of the classes in the data, in the order of the targets."""
        return list(self.meta["classes"])

    @property
    def labels(self) -> list[str]:
        """Readable names of the classes if the source has them, else ``classes``."""
        return list(self.meta["descriptions"] or self.meta["classes"])

    @property
    def side(self) -> int:
        """The side of the stored images, in pixels."""
        return self.shape[1]

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.shape[3]

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
        """Principal components of the colours in train (three channels)."""
        values = np.array(self.meta["eigenvalues"])
        return Colours(np.sqrt(np.maximum(values, 0.0)), np.array(self.meta["eigenvectors"]))

    @property
    def digest(self) -> str:
        """A hash of the content: equal for equal pixels, labels, splits and classes, independent of the folder."""
        return content_digest(self.meta)

    @property
    def auto_split(self) -> bool:
        """Whether the source had no splits and was split 80/10/10 when it was prepared."""
        return bool(self.meta["dealt"])

    @property
    def annotations(self) -> Annotations:
        """What is known of each image."""
        found: Annotations = self.meta.get("annotations", "labels")
        return found

    @property
    def has_groups(self) -> bool:
        """Whether the source names groups of images that stay together."""
        return GROUPS in self.meta["files"]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """New pixels ``(len(index), S, S, C)`` uint8 of the images ``index``.

        Raises ``UserError`` if the file has become shorter or cannot be read, or if a shard cannot be downloaded: a
        caller that writes files need not tell these apart.
        """
        return self.pixels.read(index)

    def read_masks(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The masks ``(len(index), S, S)`` uint8 of the images ``index``; see ``masks.py`` and :meth:`read`.

        Raises ``ValueError`` for a dataset without masks.
        """
        if self.masks is None:
            raise ValueError(f"the prepared dataset {self.path} has no masks")
        return self.masks.read(index)

    def read_boxes(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The boxes ``(len(index), M, 6)`` of the images ``index``, in pixels of the stored images; see ``boxes.py``.

        Raises ``ValueError`` for a dataset without boxes.
        """
        if self.boxes is None:
            raise ValueError(f"the prepared dataset {self.path} has no boxes")
        rows, starts = self.boxes
        return padded([rows[starts[number] : starts[number + 1]] for number in index.tolist()])

    @property
    def prefetch(self) -> Callable[[NDArray[np.int64]], None] | None:
        """A function that begins to download the images ``index`` and does not wait; None for images on this disk."""
        return self.pixels.prefetch

    def names(self, index: NDArray[np.int64]) -> list[str]:
        """The names of the images ``index`` in their source: a path inside it, or "train/00017" in a set of arrays.

        Raises ``UserError`` if they cannot be read.
        """
        wanted = set(index.tolist())
        try:
            with io.TextIOWrapper(open_regular(self.path / NAMES), encoding="utf-8") as file:
                found = {number: line.rstrip("\n") for number, line in enumerate(file) if number in wanted}
        except OSError as error:
            raise cannot_read(self.path / NAMES, error) from error
        return [found[number] for number in index.tolist()]

    def with_classes(self, classes: Sequence[str], labels: Sequence[str], numbers: Sequence[int]) -> PreparedDataset:
        """The same images with the classes of a model, which may be more and in another order.

        ``numbers``: for each of the present classes, its place among ``classes``. ``labels``: readable names. The files
        on disk stay as they are.
        """
        described = {**self.meta, "classes": list(classes), "descriptions": list(labels)}
        targets = np.array(numbers, np.int64)[self.targets]
        return replace(self, meta=described, targets=targets)

    def subset(self, split: str) -> NDArray[np.int64]:
        """The indices ``(n,)`` int64 of ``"train"``, ``"val"`` or ``"test"``, ascending; empty without such a split."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


def open_or_prepare(
    source: Source,
    side: int | None = None,
    channels: int | None = None,
    *,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
    home: Path | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> PreparedDataset:
    """The prepared dataset of ``source``. It is written now, unless it exists and the source has not changed since.

    ``side``: the side of the stored images in pixels, None for :func:`natural_side`; ``channels``: 1 or 3, None for
    those of the source; ``resize``, ``view``: see :class:`~alexnet.config.Preprocessing`; ``home``: None for
    ``data_home()``; ``workers``: decoding threads, None for one per processor.
    ``progress(done, total)`` counts images. Raises ``UserError`` if no image is usable, if the disk cannot be written,
    or, with ``strict``, at the first refused image.
    """
    own = _own_path(source, side, channels, resize, view, home)
    path = _place(own)
    side, channels = stored_shape(source, side, channels)
    try:
        if not path.exists():
            with publish_folder(path) as folder:
                if source.shards:
                    fetch_description(_fitting(source.shards, side, channels, resize), folder)
                else:
                    count = workers or cpu_count()
                    write_dataset(source, side, channels, folder, count, strict, progress, resize, view)
                start_notes(folder)
            _remove_outdated(own)
    except OSError as error:
        raise UserError(
            f"cannot write the prepared dataset {path}: {error.strerror or error}; set ALEXNET_HOME to another folder"
        ) from error
    try:
        dataset = open_prepared(path, source.shards.address if source.shards else None)
    except UserError:
        if path.exists():
            raise
        return open_or_prepare(  # another process has just removed it
            source,
            side,
            channels,
            resize=resize,
            view=view,
            home=home,
            workers=workers,
            strict=strict,
            progress=progress,
        )
    if strict and dataset.meta["refused"]:
        raise refusal_error(**dataset.meta["refused"][0])
    return dataset


def _fitting(shards: Shards, side: int, channels: int, resize: Resize) -> Shards:
    """The shards, if their images are stored in this way. Raises ``UserError``."""
    manifest = shards.manifest
    stored = (*manifest.shape[2:], manifest.resize)
    if stored != (side, channels, resize):
        raise UserError(
            f"the shards at {shown(shards.address)} hold images of {stored[0]} pixels, {stored[1]} channels, "
            f"{stored[2]}; needed are {side} pixels, {channels} channels, {resize}: write shards of that size from the "
            "source (alexnet prepare SOURCE --size PIXELS --channels N --shards ADDRESS)"
        )
    return shards


def prepared_path(
    source: Source,
    side: int | None = None,
    channels: int | None = None,
    *,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
    home: Path | None = None,
) -> Path:
    """The folder of the prepared dataset of ``source`` as it is now, which may not exist yet.

    The arguments are those of :func:`open_or_prepare`. Raises ``UserError`` for a side or channels that are not stored.
    """
    return _place(_own_path(source, side, channels, resize, view, home))


def _own_path(
    source: Source, side: int | None, channels: int | None, resize: Resize, view: DicomView, home: Path | None
) -> Path:
    """The name of the folder, without what :func:`_place` may add to it."""
    settings = preprocessing(*stored_shape(source, side, channels), resize, view)
    annotated = {} if source.annotations == "labels" else {"annotations": source.annotations}
    identity = {"location": source.location, "settings": settings, **annotated}
    state = sha256_json([SCHEMA, source.fingerprint, source.classes])
    return stores(home) / f"{source.name}-{sha256_json(identity)[:12]}-{state[:12]}"


def _place(path: Path) -> Path:
    """The folder of a prepared dataset: the first one at ``path`` or ``path.…`` that lacks no image.

    A prepared dataset lacks an image if the image was refused for a limit or a format and would be read now. If every
    prepared dataset lacks one, a new name is returned; the existing folders are not changed.
    """
    accepts = accepted()
    there = [folder for folder in sorted(path.parent.glob(f"{path.name}*")) if folder.is_dir()]
    complete = [folder for folder in there if not _lacks_images(folder, accepts)]
    if complete:
        return complete[0]
    return path.with_name(f"{path.name}.{sha256_json(accepts)[:8]}") if there else path


def _lacks_images(folder: Path, accepts: dict[str, Any]) -> bool:
    """Whether a file was refused when the dataset was prepared and would be read now. False for a damaged dataset."""
    try:
        meta = read_meta(folder)
    except (OSError, ValueError):
        return False
    if (folder / SHARDS).exists():  # whoever wrote the shards decided
        return False
    return any(readable_now(item["name"], item["reason"], meta.get("accepts"), accepts) for item in meta["refused"])


def stores(home: Path | None = None) -> Path:
    """The folder of all prepared datasets in ``home``, ``data_home()`` if None."""
    return (home or data_home()) / "stores"


def stored_shape(source: Source, side: int | None, channels: int | None) -> tuple[int, int]:
    """The side and the channels of the stored images, with the defaults for None. Raises ``UserError``."""
    side = natural_side(source) if side is None else side
    channels = channels or (source.pixel_shape[2] if source.pixel_shape else 3)
    if not 1 <= side <= MAX_SIDE or channels not in (1, 3):
        raise UserError(
            f"images are stored with a side of 1 to {MAX_SIDE} and 1 or 3 channels, not {side} and {channels}"
        )
    return side, channels


def _remove_outdated(own: Path) -> None:
    """Remove the datasets of earlier states of the source of ``own`` that nobody uses, see ``uses.py``.

    A dataset that cannot be read, or that an earlier version made, is kept: it is not known who needs it.
    """
    for outdated in own.parent.glob(f"{own.name.rpartition('-')[0]}-*"):
        if not outdated.name.startswith(own.name) and has_all_notes(outdated):
            with contextlib.suppress(OSError, ValueError):
                remove_unused(outdated, content_digest(read_meta(outdated)))


def content_digest(meta: dict[str, Any]) -> str:
    """A hash of the content of a prepared dataset with this ``store.json``; see ``PreparedDataset.digest``."""
    files = {name: item["sha256"] for name, item in meta["files"].items() if name != NAMES}
    return sha256_json({"files": files, "classes": meta["classes"]})


def find_prepared(digest: str, first: Path | None = None) -> Path | None:
    """The folder of a prepared dataset with this content in the cache; None if there is none.

    ``first``: the folder to look at before all others.
    """
    for path in [*([first] if first else []), *sorted(stores().glob("[!.]*"))]:
        with contextlib.suppress(OSError, ValueError):
            if content_digest(read_meta(path)) == digest:
                return path
    return None


@lru_cache
def natural_side(source: Source) -> int:
    """The default side of the stored images, in pixels: images of one size up to 128 keep it, all others become 256.

    The side of a rectangle is its shorter one. If all images are that small, the headers of all of them are read.
    """
    if source.shards:
        return source.shards.manifest.shape[1]
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
    """The sizes of the images whose header can be read; other files are reported when they are decoded."""
    for record in records:
        try:
            yield image_size(file_bytes(record))
        except (ImageRefusedError, OSError):
            continue


def open_prepared(path: Path, address: str | None = None) -> PreparedDataset:
    """Open a prepared dataset: headers, sizes, labels and hashes (but that of the images) are verified.

    ``address``: where its shards are, if it has shards; None for the recorded address. Raises ``UserError`` if it is
    damaged or missing.
    """
    check_platform()
    file = path / (SHARDS if (path / SHARDS).exists() else IMAGES)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is refused below
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        hold(descriptor)
        meta = read_meta(path)
        settings, count = meta["preprocessing"], meta["images"]
        shape = (settings["short_side"], settings["short_side"], settings["channels"])
        targets = read_array(path / "labels.npy", np.int64, (count,))
        hashes = read_array(path / "hashes.npy", np.uint64, (count,))
        groups = read_array(path / GROUPS, np.uint64, (count,)) if GROUPS in meta["files"] else hashes
        splits = read_array(path / "splits.npy", np.int8, (count,))
        mean_image = read_array(path / "mean.npy", np.float32, shape)
        if targets.min() < 0 or targets.max() >= len(meta["classes"]):
            raise ValueError(f"labels.npy holds a label outside 0 … {len(meta['classes']) - 1}")
        if splits.min() < 0 or splits.max() >= len(SPLITS):
            raise ValueError("splits.npy holds a number that is no split")
        _check_hashes(path, meta)
        pixels: Pixels
        if file.name == IMAGES:
            pixels = LocalPixels(file, read_array(file, np.uint8, (count, *shape), mapped=True), descriptor)
        else:
            shards = read_shards(path, address)
            if (shards.manifest.data, shards.manifest.shape) != (content_digest(meta), (count, *shape)):
                raise ValueError(f"{SHARDS} belongs to other images")
            pixels = ShardPixels(shards, splits)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError | ValueError):
            raise _unusable(path, error) from error
        raise
    weakref.finalize(pixels, os.close, descriptor)  # when no dataset has these pixels any longer
    masks = _open_masks(path, (count, *shape[:2])) if MASKS in meta["files"] else None
    boxes = _open_boxes(path, count, len(meta["classes"])) if BOXES in meta["files"] else None
    return PreparedDataset(path, meta, pixels, targets, hashes, groups, splits, mean_image, masks, boxes, descriptor)


def _unusable(path: Path, error: OSError | ValueError) -> UserError:
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
        return cannot_read(error.filename or path, error)  # the files may be intact: nobody should remove them
    return UserError(
        f"the prepared dataset {path} is damaged: remove that folder and run the command again", [str(error)]
    )


def _open_masks(path: Path, shape: tuple[int, ...]) -> LocalArray:
    """The masks of a dataset. Raises ``UserError`` if they do not have this shape or cannot be read."""
    try:
        mapped = read_array(path / MASKS, np.uint8, shape, mapped=True)
        descriptor = os.open(path / MASKS, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    masks = LocalArray(path / MASKS, mapped, descriptor)
    weakref.finalize(masks, os.close, descriptor)
    return masks


def _open_boxes(path: Path, images: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The boxes of a dataset of so many images. Raises ``UserError`` if they are damaged."""
    try:
        starts = read_array(path / BOX_STARTS, np.int64, (images + 1,))
        if starts[0] != 0 or (np.diff(starts) < 0).any():
            raise ValueError(f"{BOX_STARTS} does not hold ascending numbers")
        rows = read_array(path / BOXES, np.float32, (int(starts[-1]), COLUMNS))
        if not np.isfinite(rows).all() or ((rows[:, 0] < 0) | (rows[:, 0] >= classes)).any():
            raise ValueError(f"{BOXES} holds a class outside 0 … {classes - 1}")
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error
    return rows, starts


def _check_hashes(path: Path, meta: dict[str, Any]) -> None:
    """Raise ``ValueError`` if a file has changed; images and masks are not read, because they are too large."""
    for name, item in meta["files"].items():
        if name not in (IMAGES, MASKS) and sha256_file(path / name) != item["sha256"]:
            raise ValueError(f"{name} was changed: its sha256 differs")


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of ``store.json`` in a prepared dataset. Raises ``OSError``, or ``ValueError`` if it was changed."""
    path = folder / "store.json"
    meta = read_json(path, FILE_LIMIT)  # it lists every refused image
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} does not have schema {SCHEMA}, which this version reads")
    if meta.pop("sha256", None) != sha256_json(meta):
        raise ValueError(f"{path.name} was changed: its sha256 differs")
    return meta


def verify_prepared(path: Path) -> list[str]:
    """Hash every file of a prepared dataset again, also the images. Returns a sentence for each file that differs."""
    dataset = open_prepared(path)
    return [
        f"{path / name}: its sha256 is not the one in store.json: remove {path} and prepare the source again"
        for name, item in dataset.meta["files"].items()
        if (name != IMAGES or dataset.prefetch is None) and sha256_file(path / name) != item["sha256"]
    ]
