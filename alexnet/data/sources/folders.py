"""Folders of class folders: which folder is which split and class, and the files in each.

The rule, for folders and tars alike: with a ``train`` folder that holds folders, the first level is splits and the
second classes; otherwise the first level is classes. Deeper folders belong to their class, as in torchvision's
``ImageFolder``. A ``train`` without ``val`` and ``test`` is no split at all.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.containers import SUFFIXES
from alexnet.data.sources.records import (
    NAME_FILES,
    Ignored,
    Record,
    Source,
    describe,
    fingerprint,
    is_litter,
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
"""Folder names, in any case, that mean a split."""

LOOSE = "image beside the class folders"

File = tuple[str, int, int]  # path below its place, bytes, modification time in ns


class Place(NamedTuple):
    """A folder whose files share a split and a class."""

    split: str | None
    label: str
    parts: tuple[str, ...]  # the folder, from the top of the source

    @property
    def path(self) -> str:
        """The folder as one relative path."""
        return "/".join(self.parts)


def open_folder(root: Path) -> Source:
    """The source in a folder of class folders. Raises ``UserError`` where that is not what ``root`` holds."""
    ignored = Ignored()
    top = subfolders(root, ignored)
    below = {name: subfolders(root / name, ignored) if name.lower() in SPLIT_NAMES else [] for name in top}
    if not top:
        raise _no_classes(root)
    places = arrange(below, str(root), ignored)
    for parent in sorted({place.parts[:-1] for place in places}):
        for name in sorted(entry.name for entry in scan(root.joinpath(*parent))):
            if is_image_name(name):
                ignored.add(LOOSE, "/".join((*parent, name)))
    files = {place: list_files(root / place.path, ignored) for place in places}
    return folder_source(root, slug(root.name), files, read_names([root]), ignored)


def is_image_name(name: str) -> bool:
    """Whether a file calls itself an image."""
    return not is_litter(name) and Path(name).suffix.lower() in SUFFIXES


def folder_source(
    root: Path, name: str, files: Mapping[Place, Sequence[File]], names: Mapping[str, str], ignored: Ignored
) -> Source:
    """A source over listed files, ordered by split, class and path."""
    counts = {place: len(found) for place, found in files.items()}
    classes, warnings = choose_classes(counts, str(root))
    kept = {place: [path for path, _, _ in found] for place, found in files.items() if found}
    label = {folder: index for index, folder in enumerate(classes)}

    def read() -> Iterator[Record]:
        for place, paths in kept.items():
            for path in paths:
                relative = f"{place.path}/{path}"
                yield Record(place.split, label[place.label], printable(relative), root / relative)

    return Source(
        name=name,
        location=str(root),
        classes=tuple(printable(folder) for folder in classes),
        fingerprint=fingerprint(_roles(files)),
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, names),
        warnings=(*ignored.warnings(), *warnings),
    )


def _roles(files: Mapping[Place, Sequence[File]]) -> Iterator[File]:
    """Each file named by its split, class and path: the first two need not be in the path."""
    for place, found in files.items():
        for path, size, mtime in found:
            yield f"{place.split}:{place.label}:{place.path}/{path}", size, mtime


def arrange(below: Mapping[str, Collection[str]], where: str, ignored: Ignored) -> list[Place]:
    """Which folders are which split and class.

    ``below``: for each folder at the top, the folders in it (needed only for names in ``SPLIT_NAMES``).
    """
    splits = {name: SPLIT_NAMES[name.lower()] for name in sorted(below) if name.lower() in SPLIT_NAMES}
    if not any(split == "train" and below[name] for name, split in splits.items()):
        if splits and len(splits) == len(below) and any(below[name] for name in splits):
            present = ", ".join(f"{name}/" for name in splits)
            raise UserError(f"{where} has {present} but no train/ with class folders: add it, or name one of them")
        return [Place(None, name, (name,)) for name in sorted(below)]
    _check_one_each(splits, where)
    for name in sorted(set(below) - set(splits)):
        ignored.add("folder beside train/", name)
    for name in [name for name in splits if not below[name]]:
        ignored.add("split without class folders", name)
        del splits[name]
    if len(splits) == 1:
        return [Place(None, label, (name, label)) for name in splits for label in sorted(below[name])]
    order = sorted(splits, key=lambda name: ("train", "val", "test").index(splits[name]))
    return [Place(splits[name], label, (name, label)) for name in order for label in sorted(below[name])]


def _check_one_each(splits: Mapping[str, str], where: str) -> None:
    for split in ("train", "val", "test"):
        names = [f"{name}/" for name, meaning in splits.items() if meaning == split]
        if len(names) > 1:
            raise UserError(f"{where} has {' and '.join(names)}, which mean the same split: keep one of them")


def choose_classes(counts: Mapping[Place, int], where: str) -> tuple[tuple[str, ...], list[str]]:
    """The sorted classes that have files to train on, and a warning for each folder without any."""
    filled = [place for place, count in counts.items() if count]
    if not filled:
        raise UserError(f"no images in {where}: its class folders hold no files")
    classes = sorted({place.label for place in filled if place.split in (None, "train")})
    known = set(classes)
    strange = [place for place in filled if place.label not in known]
    if strange:
        which = f"{strange[0].split} class {printable(strange[0].label)!r}"
        more = f", and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UserError(f"{where}: {which} has no images in train{more}")
    if len(classes) == 1:
        path = next(place.path for place in filled)
        raise UserError(
            f"{where} has only one class, {printable(path)!r}: a classifier needs two or more",
            ["expected: one folder of images per class, with or without train/, val/ and test/ above them"],
        )
    alike = [name for name, times in Counter(map(printable, classes)).items() if times > 1]
    if alike:
        raise UserError(f"{where} has two class folders whose names are shown alike, {alike[0]!r}: rename one")
    empty = [place.path for place, count in counts.items() if not count]
    return tuple(classes), [f"class folder without files, left out: {printable(path)}" for path in empty]


def subfolders(folder: Path, ignored: Ignored) -> list[str]:
    """The sorted names of the folders in a folder; links to folders count, except those that lead upwards."""
    here = folder.resolve()
    names = []
    for entry in scan(folder):
        status = _status(entry)
        if is_litter(entry.name) or status is None or not stat.S_ISDIR(status.st_mode):
            continue
        if entry.is_symlink() and here.is_relative_to(Path(entry.path).resolve()):
            ignored.add("link to a folder above it", entry.path)
        else:
            names.append(entry.name)
    return sorted(names)


def list_files(folder: Path, ignored: Ignored) -> list[File]:
    """Every file below a folder, sorted by path: links to files are followed, links to folders are not."""
    found: list[File] = []
    waiting = [("", folder)]
    while waiting:
        prefix, path = waiting.pop()
        for entry in scan(path):
            if is_litter(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))
                continue
            status = _status(entry)
            if status is not None and stat.S_ISREG(status.st_mode):
                found.append((prefix + entry.name, status.st_size, status.st_mtime_ns))
            else:
                ignored.add("link to a folder or to nothing, or no regular file", entry.path)
    return sorted(found)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What an entry leads to; None for a link to nothing, in a circle, or to where the system refuses."""
    try:
        return entry.stat()
    except OSError:
        return None


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder. Raises ``UserError`` where the system refuses."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise unreadable(folder, error) from error


def read_names(folders: Sequence[Path]) -> dict[str, str]:
    """Readable class names from the first of ``NAME_FILES`` found in the folders; empty if there is none."""
    for path in (folder / name for folder in folders for name in NAME_FILES):
        if path.is_file():
            try:
                return parse_names(path.read_text(encoding="utf-8", errors="replace"))
            except OSError as error:
                raise unreadable(path, error) from error
    return {}


def _no_classes(root: Path) -> UserError:
    if all(is_litter(entry.name) for entry in scan(root)):
        return UserError(f"{root} is empty: expected one folder of images per class")
    return UserError(f"{root} has no class folders: expected one folder of images per class")
