"""What tars and zips of class folders share: limits, names that are safe, the listing, and the source.

An archive is read from front to back and never unpacked to disk. A first pass lists the names, a second one reads the
files. Memory does not grow with the archive. A member that cannot be used is ignored, and a note names it; the others
are used. Such members are names that lead out of the archive, links, devices, and files that are too large, encrypted
or damaged. If the position of the next member cannot be found, the whole archive is refused, and the error names the
last member.

``tars.py`` and ``zips.py`` read the formats: each gives the members of an archive in their order.
"""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from alexnet.core.errors import UserError
from alexnet.core.files import TEXT_LIMIT, open_regular, too_large
from alexnet.core.names import printable
from alexnet.data.containers import SUFFIXES, kind_of
from alexnet.data.identity import image_name
from alexnet.data.sources.class_folders import LEVELS, ListedFolder, choose_classes, find_class_folders
from alexnet.data.sources.folders import BESIDE_CLASSES, is_image_name, may_be_image
from alexnet.data.sources.records import (
    NAME_FILES,
    Ignored,
    Record,
    Source,
    describe,
    fingerprint_paths,
    is_ignored_name,
    parse_names,
    slug,
    unreadable,
)
from alexnet.data.sources.split_names import split_of

MEMBER_LIMIT = 64 << 20
"""Bytes of the largest member that is read: far more than a photograph, far less than the memory of a computer."""
FOLDER_LIMIT = 1_000_000
"""The most folders in an archive: fifty times the classes of ImageNet-21k. Their names are kept in memory."""

DEPTH = LEVELS + 1
"""Names of a folder that are kept: files in deeper ones belong to the folder of that depth."""

Parts = tuple[str, ...]
T = TypeVar("T")


class FormatError(ValueError):
    """Why an archive cannot be followed to its next member."""


class DamagedMemberError(ValueError):
    """Why the bytes of one member cannot be used: the predicate of a sentence."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    ``kind``: ``"file"``, ``"folder"``, or for anything else why it is ignored, e.g. "link or special file in a tar".
    ``size``: of the unpacked file, in bytes. ``read`` gives these bytes, if it is called before the next member is
    requested; it raises ``DamagedMemberError``, and ``OSError`` if the disk fails.
    """

    name: str
    kind: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ArchiveFormat:
    """A format of archives: its name, the suffixes of its files, and its reader.

    ``members(path, file)`` yields the members of an opened archive in order. It raises ``UserError`` if the archive is
    damaged in a way that hides where its next member is, and ``OSError`` if the file cannot be read.
    """

    name: str
    suffix: re.Pattern[str]
    members: Callable[[Path, io.BufferedReader], Iterator[Member]]


@dataclass
class _Listing:
    """The result of the first pass: folders, and the number of files in each; no list of all files."""

    folders: set[Parts] = field(default_factory=set)
    files: Counter[Parts] = field(default_factory=Counter)
    with_images: set[Parts] = field(default_factory=set)  # folders with a file that may be an image
    # folder → the number of image names in it, and the first of them
    images: dict[Parts, tuple[int, str]] = field(default_factory=dict)
    names: dict[Parts, str] = field(default_factory=dict)
    unusable: bool = False  # whether a member in a folder was ignored
    medical: bool = False  # whether a member is a DICOM file, so that names are not shown
    ignored: Ignored = field(default_factory=Ignored)


def open_archive(path: Path, form: ArchiveFormat) -> Source:
    """The source in an archive of class folders.

    Raises ``UserError`` if it does not hold class folders or is damaged.
    """
    before = fingerprint_paths([path])
    listing = _list(path, form)
    try:
        return _source(path, form, listing, before)
    except UserError as error:  # members that were ignored may be the cause
        ignored = listing.ignored.warnings(named=not listing.medical)
        raise UserError(error.line, [*error.details, *ignored]) from error


def labels_of_folders(path: Path, form: ArchiveFormat) -> tuple[tuple[str, ...], Callable[[Parts], int]]:
    """The classes of an archive of class folders, and a function: the label of the files in a folder.

    It is -1 for files outside the class folders. Raises ``UserError`` as :func:`open_archive`.
    """
    classes = _classes(path, form, _list(path, form))
    depths = {len(parts) for parts in classes.targets}

    def label(folder: Parts) -> int:
        target = _place(folder, classes.targets, depths)
        return -1 if target is None else target[1]

    return classes.names, label


@dataclass(frozen=True)
class _Classes:
    """The class folders of an archive: ``targets`` has (split, label) for each of them, ``trains`` if one is no test.

    ``prefix``: the folder that contains all others. ``count``: the number of files in the class folders.
    """

    names: tuple[str, ...]
    prefix: Parts
    targets: dict[Parts, tuple[str | None, int]]
    count: int
    trains: bool
    warnings: tuple[str, ...]


def _source(path: Path, form: ArchiveFormat, listing: _Listing, before: str) -> Source:
    found = _classes(path, form, listing)

    def read() -> Iterator[Record]:
        if fingerprint_paths([path]) != before:
            raise UserError(f"{path} changed while it was in use: start again")
        return _read(path, form, found.targets, medical=listing.medical)

    return Source(
        name=slug(form.suffix.sub("", path.name)),
        location=str(path),
        classes=tuple(printable(name) for name in found.names),
        fingerprint=before,
        read=read,
        count=found.count,
        descriptions=describe(found.names, _readable_names(listing, found.prefix)),
        warnings=(*listing.ignored.warnings(named=not listing.medical), *found.warnings),
        trainable=found.trains,
    )


def _classes(path: Path, form: ArchiveFormat, listing: _Listing) -> _Classes:
    prefix = _common_top(listing)
    top = _tree(listing, prefix)
    if not top.folders:
        raise UserError(f"{path} has no class folders: expected one folder of images per class")
    folders = find_class_folders(top, str(path), listing.ignored)
    for parent in sorted({prefix + folder.parts[:-1] for folder in folders} & set(listing.images)):
        count, first = listing.images[parent]
        listing.ignored.add(BESIDE_CLASSES, first, count)
    places = {prefix + folder.parts: folder for folder in folders}
    depths = {len(parts) for parts in places}
    counts = Counter(dict.fromkeys(folders, 0))
    filled = set()
    for parts, count in listing.files.items():
        if (place := _place(parts, places, depths)) is not None:
            counts[place] += count
            filled.update([place] if parts in listing.with_images else [])
    for folder in [folder for folder in folders if counts[folder] and folder not in filled]:
        listing.ignored.note(f"class folder without images, ignored: {printable(folder.path)}")
        del counts[folder]
    if not any(counts.values()) and listing.unusable:
        raise UserError(f"{path}: none of the files in its class folders can be used")
    classes, warnings = choose_classes(counts, str(path))
    label = {name: index for index, name in enumerate(classes)}
    return _Classes(
        names=tuple(classes),
        prefix=prefix,
        targets={prefix + folder.parts: (folder.split, label[folder.label]) for folder in folders if counts[folder]},
        count=sum(counts.values()),
        trains=any(folder.trains for folder in counts if counts[folder]),
        warnings=tuple(warnings),
    )


def _place(folder: Parts, places: Mapping[Parts, T], depths: Collection[int]) -> T | None:
    """What ``places`` has for a folder or one above it. ``depths``: the numbers of parts of the keys of ``places``."""
    return next((places[folder[:depth]] for depth in depths if folder[:depth] in places), None)


def members(path: Path, form: ArchiveFormat) -> Generator[Member, None, None]:
    """The members of an archive in order. Raises ``UserError`` if it cannot be read or is damaged."""
    try:
        with open_regular(path) as file:
            yield from form.members(path, file)
    except OSError as error:
        raise unreadable(path, error) from error


def safe_parts(name: str) -> Parts | None:
    """The parts of a member's path without ``.``; None if it is absolute, contains ``..`` or is no path."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    return None if name.startswith("/") or ".." in parts or "\0" in name else parts


def damaged(path: Path, form: str, why: str) -> UserError:
    """The error for an archive of the format ``form`` that cannot be followed to its end."""
    return UserError(f"cannot read {printable(str(path))}: the {form} is damaged or cut short ({printable(why)})")


def read_member(path: Path, form: ArchiveFormat, name: str, limit: int) -> bytes | None:
    """The bytes of the file ``name`` in an archive, at most ``limit``; None if it has no such file.

    Raises ``UserError`` if the archive or the file cannot be read.
    """
    with closing(members(path, form)) as found:
        for member in found:
            if member.kind == "file" and member.name.removeprefix("./") == name:
                if member.size > limit:
                    raise UserError(f"{path}: {name} {too_large(limit)}")
                try:
                    return member.read()
                except DamagedMemberError as error:
                    raise UserError(f"{path}: {name} {error}") from error
    return None


def _list(path: Path, form: ArchiveFormat) -> _Listing:
    listing = _Listing()
    with closing(members(path, form)) as found:
        for member in found:
            parts = safe_parts(member.name)
            if parts is None:
                listing.ignored.add(f"path outside the {form.name}", member.name)
            elif any(map(is_ignored_name, parts)):
                continue
            elif member.kind == "folder":
                listing.folders.add(parts[:DEPTH])
            elif reason := unusable(member, parts):
                listing.ignored.add(reason, member.name)
                listing.folders.add(parts[:-1][:DEPTH])
                listing.unusable = True
            else:
                _count_file(listing, member, parts)
            if len(listing.folders) + len(listing.files) > FOLDER_LIMIT:
                raise UserError(f"{path} has more than {FOLDER_LIMIT:,} folders, the limit for an archive")
    return listing


def unusable(member: Member, parts: Parts) -> str:
    """Why a member that is not a folder is ignored, or "". ``parts``: of its name, see :func:`safe_parts`."""
    if member.kind != "file":
        return member.kind
    if not parts:
        return "file without a name"
    return f"file above {MEMBER_LIMIT >> 20} MiB" if member.size > MEMBER_LIMIT else ""


def _count_file(listing: _Listing, member: Member, parts: Parts) -> None:
    folder = parts[:-1]
    if len(folder) < 2 and parts[-1] in NAME_FILES:
        _read_names(listing, member, parts)
    if len(folder) < 3 and is_image_name(parts[-1]):
        count, first = listing.images.get(folder, (0, "/".join(parts)))
        listing.images[folder] = (count + 1, first)
    if folder:
        listing.files[folder[:DEPTH]] += 1
        if may_be_image(parts[-1]):
            listing.with_images.add(folder[:DEPTH])
            listing.medical = listing.medical or is_dicom_member(member)


def is_dicom_member(member: Member) -> bool:
    """Whether a file of an archive is a DICOM file by its suffix; with an unknown suffix, by its content."""
    known = SUFFIXES.get(PurePosixPath(member.name).suffix.lower())
    if known or member.size > MEMBER_LIMIT:
        return known == "DICOM"
    try:
        return kind_of(member.read()) == "DICOM"
    except DamagedMemberError:
        return False


def _read_names(listing: _Listing, member: Member, parts: Parts) -> None:
    if member.size > TEXT_LIMIT:
        listing.ignored.add(f"names of classes: {too_large(TEXT_LIMIT)}", member.name)
        return
    try:
        listing.names[parts] = member.read().decode("utf-8", "replace")
    except DamagedMemberError as error:
        listing.ignored.add(f"names of classes: {error}", member.name)


def _common_top(listing: _Listing) -> Parts:
    """The single folder that contains all others, which is not a class; no parts if there is none.

    A folder that means a split does not count: ``class_folders.py`` reads it.
    """
    folders = listing.folders | set(listing.files)
    tops = {folder[:1] for folder in folders if folder}
    if len(tops) > 1 or not any(len(folder) > 1 for folder in folders):
        return ()
    (top,) = tops
    return () if split_of(top[0]) else top


def _tree(listing: _Listing, prefix: Parts) -> ListedFolder:
    """The folder ``prefix`` with the folders in it, sorted."""
    top = ListedFolder()
    for parts in sorted(listing.folders | set(listing.files)):
        folder = top
        for name in parts[len(prefix) :]:
            folder = folder.folders.setdefault(name, ListedFolder())
        folder.images = folder.images or parts in listing.with_images
    return top


def _readable_names(listing: _Listing, prefix: Parts) -> dict[str, str]:
    texts = (listing.names.get((*prefix, name)) for name in NAME_FILES)
    return parse_names(next((text for text in texts if text is not None), ""))


def _read(
    path: Path, form: ArchiveFormat, targets: dict[Parts, tuple[str | None, int]], *, medical: bool
) -> Iterator[Record]:
    """The records of the second pass. ``targets``: class folder → (split, label). ``medical``: names are numbers."""
    depths, number = {len(parts) for parts in targets}, itertools.count()
    with closing(members(path, form)) as found:
        for member in found:
            parts = safe_parts(member.name)
            if parts is None or any(map(is_ignored_name, parts)) or unusable(member, parts):
                continue
            target = _place(parts[:-1], targets, depths)
            if target is not None:
                path_inside = "/".join(parts)
                name, file = (image_name(next(number)), path_inside) if medical else (printable(path_inside), "")
                yield _record(*target, name, member, file)


def _record(split: str | None, label: int, name: str, member: Member, file: str) -> Record:
    try:
        return Record(split, label, name, member.read(), file=file)
    except DamagedMemberError as error:
        return Record(split, label, name, b"", fault=str(error), file=file)
