"""Folders of class folders: the split and the class of each folder, and the files in it.

The rule, also for tars and zips: if there is a ``train`` folder that holds folders, the first level is splits and the
second level classes. Otherwise the first level is classes. Deeper folders belong to their class, as in torchvision's
``ImageFolder``. A ``train`` without ``val`` and ``test`` means that the source has no splits.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet.core.errors import UserError
from alexnet.core.files import read_text
from alexnet.core.names import printable
from alexnet.data.containers import SUFFIXES
from alexnet.data.sources.records import (
    NAME_FILES,
    Ignored,
    Record,
    Source,
    describe,
    fingerprint,
    is_ignored_name,
    parse_names,
    slug,
    unreadable,
)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that mean a split, in lower or upper case."""

BESIDE_CLASSES = "image beside the class folders"

File = tuple[str, int, int]  # path inside its class folder, bytes, modification time in ns


class ClassFolder(NamedTuple):
    """A folder whose files have one split and one class."""

    split: str | None
    label: str
    parts: tuple[str, ...]  # the folder, from the top of the source

    @property
    def path(self) -> str:
        """The folder as one relative path."""
        return "/".join(self.parts)


def open_folder(root: Path) -> Source:
    """The source in a folder of class folders. Raises ``UserError`` if ``root`` does not hold class folders."""
    ignored = Ignored()
    top = subfolders(root, ignored)
    below = {name: subfolders(root / name, ignored) if name.lower() in SPLIT_NAMES else [] for name in top}
    if not top:
        raise _no_classes(root)
    folders = assign_splits(below, str(root), ignored)
    for parent in sorted({folder.parts[:-1] for folder in folders}):
        for name in sorted(entry.name for entry in scan(root.joinpath(*parent))):
            if is_image_name(name):
                ignored.add(BESIDE_CLASSES, "/".join((*parent, name)))
    files = {folder: list_files(root / folder.path, ignored) for folder in folders}
    return folder_source(root, slug(root.name), files, read_names([root], ignored), ignored)


def is_image_name(name: str) -> bool:
    """Whether a file has the suffix of an image format and is not ignored."""
    return not is_ignored_name(name) and Path(name).suffix.lower() in SUFFIXES


def folder_source(
    root: Path, name: str, files: Mapping[ClassFolder, Sequence[File]], names: Mapping[str, str], ignored: Ignored
) -> Source:
    """The source of listed files, ordered by split, class and path. ``names``: folder name → readable class name."""
    counts = {folder: len(listed) for folder, listed in files.items()}
    classes, warnings = choose_classes(counts, str(root))
    kept = {folder: [path for path, _, _ in listed] for folder, listed in files.items() if listed}
    label = {name: index for index, name in enumerate(classes)}

    def read() -> Iterator[Record]:
        for folder, paths in kept.items():
            for path in paths:
                relative = f"{folder.path}/{path}"
                yield Record(folder.split, label[folder.label], printable(relative), root / relative)

    return Source(
        name=name,
        location=str(root),
        classes=tuple(printable(name) for name in classes),
        fingerprint=fingerprint(_labelled_files(files)),
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, names),
        warnings=(*ignored.warnings(), *warnings),
    )


def _labelled_files(files: Mapping[ClassFolder, Sequence[File]]) -> Iterator[File]:
    """Each file with its split and class before its path, because the path need not contain them."""
    for folder, listed in files.items():
        for path, size, mtime in listed:
            yield f"{folder.split}:{folder.label}:{folder.path}/{path}", size, mtime


def assign_splits(below: Mapping[str, Collection[str]], where: str, ignored: Ignored) -> list[ClassFolder]:
    """The class folders, each with its split. Raises ``UserError`` if the splits are contradictory or lack train.

    ``below``: for each folder at the top, the folders in it (needed only for names in ``SPLIT_NAMES``). ``where``: the
    source, for errors. ``ignored`` receives the folders that are left out.
    """
    splits = {name: SPLIT_NAMES[name.lower()] for name in sorted(below) if name.lower() in SPLIT_NAMES}
    if not any(split == "train" and below[name] for name, split in splits.items()):
        if splits and len(splits) == len(below) and any(below[name] for name in splits):
            present = ", ".join(f"{name}/" for name in splits)
            raise UserError(f"{where} has {present} but no train/ with class folders: add it, or name one of them")
        return [ClassFolder(None, name, (name,)) for name in sorted(below)]
    _check_one_each(splits, where)
    for name in sorted(set(below) - set(splits)):
        ignored.add("folder beside train/", name)
    for name in [name for name in splits if not below[name]]:
        ignored.add("split without class folders", name)
        del splits[name]
    if len(splits) == 1:
        return [ClassFolder(None, label, (name, label)) for name in splits for label in sorted(below[name])]
    order = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    return [ClassFolder(splits[name], label, (name, label)) for name in order for label in sorted(below[name])]


def _check_one_each(splits: Mapping[str, str], where: str) -> None:
    for split in ("train", "val", "test"):
        names = [f"{name}/" for name, meaning in splits.items() if meaning == split]
        if len(names) > 1:
            raise UserError(f"{where} has {' and '.join(names)}, which mean the same split: keep one of them")


def choose_classes(counts: Mapping[ClassFolder, int], where: str) -> tuple[tuple[str, ...], list[str]]:
    """The sorted classes that have training images, and a warning for each folder without files.

    Raises ``UserError`` if there are fewer than two classes, or a class without training images.
    """
    filled = [folder for folder, count in counts.items() if count]
    if not filled:
        raise UserError(f"no images in {where}: its class folders hold no files")
    classes = sorted({folder.label for folder in filled if folder.split in (None, "train")})
    known = set(classes)
    untrained = [folder for folder in filled if folder.label not in known]
    if untrained:
        which = f"{untrained[0].split} class {printable(untrained[0].label)!r}"
        more = f", and {len(untrained) - 1} more" if len(untrained) > 1 else ""
        raise UserError(f"{where}: {which} has no images in train{more}")
    if len(classes) == 1:
        path = next(folder.path for folder in filled)
        raise UserError(
            f"{where} has only one class, {printable(path)!r}: a classifier needs two or more",
            ["expected: one folder of images per class, with or without train/, val/ and test/ above them"],
        )
    alike = [name for name, times in Counter(map(printable, classes)).items() if times > 1]
    if alike:
        raise UserError(f"{where} has two class folders that are both shown as {alike[0]!r}: rename one")
    empty = [folder.path for folder, count in counts.items() if not count]
    return tuple(classes), [f"class folder without files, left out: {printable(path)}" for path in empty]


def subfolders(folder: Path, ignored: Ignored) -> list[str]:
    """The sorted names of the folders in a folder; links to folders count, except links to a folder above it."""
    here = folder.resolve()
    names = []
    for entry in scan(folder):
        status = _status(entry)
        if is_ignored_name(entry.name) or status is None or not stat.S_ISDIR(status.st_mode):
            continue
        if entry.is_symlink() and here.is_relative_to(Path(entry.path).resolve()):
            ignored.add("link to a folder above it", entry.path)
        else:
            names.append(entry.name)
    return sorted(names)


def list_files(folder: Path, ignored: Ignored) -> list[File]:
    """All files below a folder, sorted by path: links to files are followed, links to folders are not."""
    found: list[File] = []
    pending = [("", folder)]
    while pending:
        prefix, path = pending.pop()
        for entry in scan(path):
            if is_ignored_name(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append((f"{prefix}{entry.name}/", Path(entry.path)))
                continue
            status = _status(entry)
            if status is not None and stat.S_ISREG(status.st_mode):
                found.append((prefix + entry.name, status.st_size, status.st_mtime_ns))
            else:
                ignored.add("link to a folder or to a missing file, or no regular file", entry.path)
    return sorted(found)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The status of an entry, after links; None if the link is broken or circular, or cannot be followed."""
    try:
        return entry.stat()
    except OSError:
        return None


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder. Raises ``UserError`` if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise unreadable(folder, error) from error


def read_names(folders: Sequence[Path], ignored: Ignored) -> dict[str, str]:
    """Folder name → readable class name, from the first of ``NAME_FILES`` in the folders; empty if there is none.

    ``ignored`` receives a file that cannot be read or is larger than ``TEXT_LIMIT``: the names are not needed.
    """
    for path in (folder / name for folder in folders for name in NAME_FILES):
        if path.is_file():
            try:
                return parse_names(read_text(path))
            except OSError as error:
                ignored.add(f"names of classes: {error.strerror or error}", str(path))
    return {}


def _no_classes(root: Path) -> UserError:
    if all(is_ignored_name(entry.name) for entry in scan(root)):
        return UserError(f"{root} is empty: expected one folder of images per class")
    return UserError(f"{root} has no class folders: expected one folder of images per class")
