"""Images in a fixed order, a row for each: what ``alexnet features`` takes. Classes are optional, unlike in a source.

An :class:`ImageList` comes from a folder in any layout, a tar or zip, a text file with paths, one image, the folder of
a prepared dataset, a source by its name, or a sequence of images in Python. An image that cannot be read keeps its row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.config import Preprocessing
from alexnet.core.dicom_view import FILE, DicomView
from alexnet.core.errors import UserError
from alexnet.core.files import FILE_LIMIT, open_regular, read_bytes, too_large
from alexnet.core.names import is_url, printable
from alexnet.core.platform import cpu_count
from alexnet.data.containers import HEAD, SUFFIXES, kind_of
from alexnet.data.identity import image_name, names_person
from alexnet.data.image_file import ImageLike, read_photograph
from alexnet.data.prepared import PreparedDataset, open_or_prepare, open_prepared
from alexnet.data.sources import Log, Record, Source, is_builtin, open_source
from alexnet.data.sources.archives import (
    MEMBER_LIMIT,
    ArchiveFormat,
    DamagedMemberError,
    Member,
    is_dicom_member,
    labels_of_folders,
    members,
    safe_parts,
)
from alexnet.data.sources.folders import holds_dicom, list_tree, may_be_image, open_folder
from alexnet.data.sources.paths import archive_format
from alexnet.data.sources.records import Ignored, fingerprint, fingerprint_paths, is_ignored_name, unreadable
from alexnet.data.splits import SPLITS, content_hash
from alexnet.data.writer import NAMES, decode_all

LIST_SUFFIXES = (".txt", ".csv", ".lst", ".list")
READ_AHEAD = 64  # images of a prepared dataset that are read at a time
Item = TypeVar("Item")
URL = "is a URL, and URLs are not fetched: download the image and give its path"


@dataclass(frozen=True, eq=False)
class Row:
    """One image: its name, its class ("" if it has none), its split, and its pixels or why there are none.

    ``pixels``: ``(S, S, C)`` uint8, None if the image cannot be read; then ``error`` is the reason. ``digest``: a hash
    of the content, 0 if there is none.
    """

    name: str
    class_name: str
    split: str | None
    pixels: NDArray[np.uint8] | None
    error: str = ""
    digest: int = 0


@dataclass(frozen=True, eq=False)
class ImageList:
    """``count`` images in a fixed order. ``location``: where they are; ``fingerprint``: changes when they change.

    ``open(settings, numbers)`` gives the rows with these numbers (from 0, ascending), decoded by several threads as the
    preprocessing of a model needs them; the other images are not read. ``warnings``: sentences about files that have no
    row. ``records(numbers)``: the same images, not decoded; None for images in memory and for a prepared dataset.
    """

    location: str
    fingerprint: str
    count: int
    open: Callable[[Preprocessing, Sequence[int]], Iterator[Row]]
    warnings: tuple[str, ...] = ()
    records: Callable[[Sequence[int]], Iterator[Record]] | None = None

    def rows(self, settings: Preprocessing, numbers: Sequence[int] | None = None) -> Generator[Row, None, None]:
        """The rows with these numbers, ascending (None: all). Raises ``UserError`` if the list has become shorter."""
        numbers = range(self.count) if numbers is None else numbers
        found = 0
        for row in self.open(settings, numbers):
            yield row
            found += 1
        if found < len(numbers):
            raise UserError(
                f"{self.location} changed while it was read: it has {numbers[found]:,} images instead of {self.count:,}"
            )


def pick(items: Iterable[Item], numbers: Sequence[int]) -> Iterator[Item]:
    """The items with these numbers, which are ascending and count from 0; the items after the last one are not read."""
    before = -1
    items = iter(items)
    for number in numbers:
        yield from itertools.islice(items, number - before - 1, number - before)
        before = number


def open_images(
    images: Path | str | Sequence[ImageLike], data_root: Path | None = None, log: Log = lambda line: None
) -> ImageList:
    """The images that ``images`` describes, in a fixed order.

    ``images``: a folder (all files below it that may be images, sorted by path), a tar or zip (in its order), a text
    file with a path in each line or a CSV file with a column ``file`` and perhaps ``class``, an image file, the folder
    of a prepared dataset, or a source such as ``digits`` or ``imagenet:PATH`` (which wins over a path). Or a sequence
    of images as :class:`~alexnet.inference.predictor.Predictor` takes them. ``data_root``, ``log``: as in
    ``open_source``. Raises ``UserError`` for anything else, and if there is no image.
    """
    found = _open(images, data_root, log) if isinstance(images, Path | str) else _of_sequence(images)
    if not found.count:
        raise UserError(f"{found.location} has no images", found.warnings)
    return found


def _open(images: Path | str, data_root: Path | None, log: Log) -> ImageList:
    text = str(images)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 – never raises
    if is_builtin(text) or is_url(text) or not text.strip():
        return list_of_source(open_source(text, data_root, log))  # which has the errors for the last two
    try:
        if path.is_dir():
            path = path.resolve()
            return _of_prepared(open_prepared(path)) if (path / "store.json").is_file() else _of_folder(path)
        if not path.exists():
            return list_of_source(open_source(text, data_root, log))  # its error suggests the nearest name
        with open_regular(path) as file:
            form = archive_format(file)
            file.seek(0)
            is_image = kind_of(file.read(HEAD)) is not None
        path = path.resolve()
    except OSError as error:
        raise unreadable(error.filename or text, error) from error
    if form is not None:
        return _of_archive(path, form)
    if is_image or path.suffix.lower() in SUFFIXES:
        return _of_files([(path.name, path, "")], str(path))
    if path.suffix.lower() in LIST_SUFFIXES:
        return _of_list(path)
    raise UserError(
        f"{path} is no image, tar, zip or list of images: a list is a .txt file with a path in each line, or a .csv "
        "file with a column 'file'"
    )


def _decoded(classes: Sequence[str], records: Iterator[Record], settings: Preprocessing) -> Iterator[Row]:
    side, channels = settings.resize_size, settings.channels
    with closing(decode_all(records, side, channels, cpu_count(), settings.resize, settings.view)) as decoded:
        for item in decoded:
            record = item.record
            name = classes[record.label] if record.label >= 0 else ""
            yield Row(record.name, name, record.split, item.pixels, printable(item.reason), item.digest)


def list_of_source(source: Source) -> ImageList:
    """The images of a source, in its order."""
    if source.shards:
        return _of_prepared(open_or_prepare(source, resize=source.shards.manifest.resize))
    count = sum(1 for _ in source.records()) if source.count is None else source.count

    def records(numbers: Sequence[int]) -> Iterator[Record]:
        return pick(source.records(), numbers)

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        return _decoded(source.classes, records(numbers), settings)

    return ImageList(source.location, source.fingerprint, count, rows, source.warnings, records)


def _of_folder(root: Path) -> ImageList:
    ignored = Ignored()
    files, _ = list_tree(root, ignored)
    files = [file for file in files if may_be_image(file[0])]
    classes, labels = _labels_in_folder(root)

    medical = holds_dicom(root, (path for path, _, _ in files))

    def records(numbers: Sequence[int]) -> Iterator[Record]:
        for number, (path, _, _) in pick(enumerate(files), numbers):
            label = labels.get(os.path.dirname(path), -1)  # noqa: PTH120
            name, file = _named(number, path, medical=medical)
            yield Record(None, label, name, root / path, file=file)

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        return _decoded(classes, records(numbers), settings)

    return ImageList(
        str(root), fingerprint(files), len(files), rows, tuple(ignored.warnings(named=not medical)), records
    )


def _named(number: int, path: str, *, medical: bool) -> tuple[str, str]:
    """The name of an image for people, and its file if the name is a number, see ``identity.py``."""
    return (image_name(number), path) if medical else (printable(path), "")


def _labels_in_folder(root: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of a folder of class folders, and the label of each folder with images; of any other, nothing."""
    try:
        source = open_folder(root)
    except UserError:
        return (), {}
    start = len(str(root).rstrip("/")) + 1
    return source.classes, {os.path.dirname(str(each.payload)[start:]): each.label for each in source.records()}  # noqa: PTH120


def _of_archive(path: Path, form: ArchiveFormat) -> ImageList:
    before, ignored = fingerprint_paths([path]), Ignored()
    count, medical = 0, False
    for _, member in _images_in_archive(path, form, ignored):
        count += 1
        medical = medical or is_dicom_member(member)
    try:
        classes, label = labels_of_folders(path, form)
    except UserError:
        classes, label = (), lambda folder: -1

    def records(numbers: Sequence[int]) -> Iterator[Record]:
        if fingerprint_paths([path]) != before:
            raise UserError(f"{path} changed while it was in use: start again")
        with closing(_images_in_archive(path, form, Ignored())) as found:
            for number, (parts, member) in pick(enumerate(found), numbers):
                data, fault = _member_bytes(member)
                name, file = _named(number, "/".join(parts), medical=medical)
                yield Record(None, label(parts[:-1]), name, data, fault, file=file)

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        return _decoded(classes, records(numbers), settings)

    return ImageList(str(path), before, count, rows, tuple(ignored.warnings(named=not medical)), records)


def _images_in_archive(
    path: Path, form: ArchiveFormat, ignored: Ignored
) -> Generator[tuple[tuple[str, ...], Member], None, None]:
    """The members that may be images, with the parts of their names; ``ignored`` receives those that cannot be used."""
    with closing(members(path, form)) as found:
        for member in found:
            parts = safe_parts(member.name)
            if parts is None:
                ignored.add(f"path outside the {form.name}", member.name)
            elif not parts or member.kind == "folder" or any(map(is_ignored_name, parts)):
                continue
            elif member.kind != "file":
                ignored.add(member.kind, member.name)
            elif may_be_image(parts[-1]):
                yield parts, member


def _member_bytes(member: Member) -> tuple[bytes, str]:
    """The bytes of a member and "", or b"" and why it cannot be used."""
    if member.size > MEMBER_LIMIT:
        return b"", too_large(MEMBER_LIMIT)
    try:
        return member.read(), ""
    except DamagedMemberError as error:
        return b"", str(error)


def _of_list(path: Path) -> ImageList:
    """The images that a text file names. Paths are relative to the folder of the file."""
    text = read_bytes(path, FILE_LIMIT).decode("utf-8-sig", "surrogateescape")
    pairs = list(_csv_pairs(path, text) if path.suffix.lower() == ".csv" else _line_pairs(text))
    return _of_files([(name, path.parent / name, class_name) for name, class_name in pairs], str(path))


def _line_pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if name := line.strip():
            yield name, ""


def _csv_pairs(path: Path, text: str) -> Iterator[tuple[str, str]]:
    rows = csv.reader(io.StringIO(text))
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if "file" not in header:
            raise UserError(f"{path} has no column 'file' in its first line: add one, or write a path a line in a .txt")
        file = header.index("file")
        labels = [header.index(name) for name in ("class", "label") if name in header]
        for row in rows:
            if any(row):
                cells = [*row, *[""] * (len(header) - len(row))]
                if not cells[file]:
                    raise UserError(f"{path}, line {rows.line_num}: there is no path in the column 'file'")
                yield cells[file], cells[labels[0]] if labels else ""
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from error


def _of_files(files: Sequence[tuple[str, Path, str]], location: str) -> ImageList:
    """Files by (name, path, class name)."""
    classes = tuple(dict.fromkeys(class_name for _, _, class_name in files))
    labels = {name: label for label, name in enumerate(classes)}
    medical = any(names_person(path) for _, path, _ in files)

    def records(numbers: Sequence[int]) -> Iterator[Record]:
        for number, (each, path, class_name) in pick(enumerate(files), numbers):
            fault = URL if is_url(each) else ""
            name, file = _named(number, each, medical=medical)
            yield Record(None, labels[class_name], name, path, fault, file=file)

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        return _decoded(tuple(map(printable, classes)), records(numbers), settings)

    stated = (_state(name, path, class_name) for name, path, class_name in files)
    return ImageList(location, fingerprint(stated), len(files), rows, (), records)


def _state(name: str, path: Path, class_name: str = "") -> tuple[str, int, int]:
    """(name, bytes, modification time in ns), -1 for a file that is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return f"{class_name}:{name}", -1, -1
    return f"{class_name}:{name}", status.st_size, status.st_mtime_ns


def _of_prepared(dataset: PreparedDataset) -> ImageList:
    stored = dataset.meta["preprocessing"]
    resize, view = stored.get("resize", "short-side"), DicomView(stored.get("window", FILE), stored.get("frame", 1))

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        needed = (settings.resize_size, settings.channels, settings.resize)
        if needed != (dataset.side, dataset.channels, resize) or settings.view != view:
            raise UserError(
                f"{dataset.path} holds images of {dataset.side} pixels, {dataset.channels} channels, {resize}; the "
                f"model needs {needed[0]} pixels, {needed[1]} channels, {needed[2]}"
                f"{'' if settings.view == view else ', with another window or frame'}: give the source itself"
            )
        return _prepared_rows(dataset, numbers)

    return ImageList(str(dataset.path), dataset.digest, len(dataset.targets), rows)


def _prepared_rows(dataset: PreparedDataset, numbers: Sequence[int]) -> Iterator[Row]:
    classes = dataset.classes
    with io.TextIOWrapper(open_regular(dataset.path / NAMES), encoding="utf-8") as file:
        names = pick(file, numbers)
        for first in range(0, len(numbers), READ_AHEAD):
            index = np.asarray(numbers[first : first + READ_AHEAD], np.int64)
            for number, pixels in zip(index.tolist(), dataset.read(index), strict=True):
                name, target = next(names).rstrip("\n"), classes[dataset.targets[number]]
                yield Row(name, target, SPLITS[dataset.splits[number]], pixels, digest=int(dataset.hashes[number]))


def _of_sequence(images: Sequence[ImageLike]) -> ImageList:
    """Images in memory and paths; a path is named by itself, any other image and a DICOM file by its number."""
    names = [
        str(image) if isinstance(image, Path | str) and not names_person(image) else f"image {number}"
        for number, image in enumerate(images)
    ]
    if all(isinstance(image, Path | str) for image in images):
        files = [(str(image), Path(str(image)), "") for image in images]
        return _of_files(files, f"a sequence of {len(images):,} paths")
    states = (
        _state(str(image), Path(image)) if isinstance(image, Path | str) else (name, _hash_of(image), 0)
        for name, image in zip(names, images, strict=True)
    )

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        for name, image in pick(zip(names, images, strict=True), numbers):
            try:
                size, channels, resize = settings.resize_size, settings.channels, settings.resize
                pixels = read_photograph(image, size, channels, "", resize, settings.view)
                yield Row(printable(name), "", None, pixels, digest=content_hash(pixels))
            except UserError as error:
                shown = ("the image", "the DICOM image", printable(name))
                reason = error.line
                for prefix in shown:
                    reason = reason.removeprefix(f"{prefix}: ")
                yield Row(printable(name), "", None, None, reason)

    return ImageList(f"a sequence of {len(images):,} images", fingerprint(states), len(images), rows)


def _hash_of(image: object) -> int:
    """A hash of an image in memory; 0 for an object that is none, which is refused when it is read."""
    if isinstance(image, bytes):
        return content_hash(image)
    if isinstance(image, np.ndarray):
        return content_hash(repr((image.shape, image.dtype)).encode() + np.ascontiguousarray(image).tobytes())
    if isinstance(image, Image.Image):
        return content_hash(repr((image.size, image.mode)).encode() + image.tobytes())
    return int.from_bytes(hashlib.sha256(type(image).__name__.encode()).digest()[:8], "big")
