"""A source: a name, classes, a fingerprint, and labelled records in a fixed order.

No image is decoded here: a record holds encoded bytes, a path, or the pixels of a set of arrays. So listing a source is
fast, and all decoding is done in one place (``decode.py``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.shards import Shards

Annotations = Literal["labels", "masks", "boxes"]
"""What is known of each image: its class, the class of each pixel, or the boxes around its objects."""

BoxReader = Callable[[int, int], Sequence[Sequence[float]]]
"""Width and height of an image → its boxes, see ``boxes.py``. Raises ``ImageRefusedError`` for damaged annotations."""

NAME_FILES = ("LOC_synset_mapping.txt", "words.txt")
"""Files beside the class folders with a readable name for each folder name: Kaggle's ImageNet, Tiny ImageNet."""

DIGIT_NAMES = tuple("0123456789")
_SYSTEM_NAMES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("icon\r", "__macosx", "network trash folder", "temporary items", "lost+found", "found.000"),
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    *("__pycache__", "picasa.ini", "zbthumbnail.info", "pspbrwse.jbf"),
}
"""Names, in lower case, of files and folders of operating systems, network storage and picture viewers."""
_UNFINISHED = (".tmp", ".bak", ".part", ".partial", ".crdownload")
"""Suffixes of copies that editors make and of incomplete downloads; they follow the suffix of the file itself."""


@dataclass(frozen=True)
class Record:
    """One labelled image, not decoded. With a mask or boxes, ``label`` is 0."""

    split: str | None  # "train", "val" or "test"; None: the source has no splits
    label: int  # index into Source.classes
    name: str  # for messages: the path inside the source, or "train/00017" for arrays; see also ``file``
    payload: bytes | Path | NDArray[np.uint8]  # the bytes of an image file, its path, or (H, W, C) pixels
    fault: str = ""  # why the file of an archive cannot be used: the predicate of a sentence; its payload is empty
    group: str = ""  # images of one group are alike, such as those of one patient, and stay together
    mask: Path | None = None  # the file with the class of each pixel, see masks.py
    boxes: BoxReader | None = field(default=None, compare=False)
    file: str = ""  # the path inside the source if the name is a number, see ``identity.py``; it is never shown


@dataclass(frozen=True)
class Source:
    """Labelled images in a fixed order, with a fingerprint that shows whether they have changed.

    ``location``: an absolute path, or the name of a package. ``fingerprint``: a sha256 that changes when the source
    changes. ``count``: the number of records, None if counting would be slow. ``pixel_shape``: ``(H, W, C)`` of a set
    of arrays, None for image files. ``descriptions``: readable class names, if the source has them; ``warnings``:
    sentences for the user. ``trainable``: False if there are only images to evaluate on. ``annotations``: what the
    records have besides the image; ``classes`` are those of pixels then. ``shards``: where the images
    are if they are prepared already, see ``shards.py``.
    """

    name: str
    location: str
    classes: tuple[str, ...]
    fingerprint: str
    read: Callable[[], Iterator[Record]] = field(repr=False, compare=False)
    count: int | None = None
    pixel_shape: tuple[int, int, int] | None = None
    descriptions: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    trainable: bool = True
    annotations: Annotations = "labels"
    shards: Shards | None = field(default=None, compare=False)

    def records(self) -> Iterator[Record]:
        """All records, always in the same order. Raises ``UserError`` if the source is damaged or has changed."""
        return self.read()


Log = Callable[[str], None]
"""Receives messages, one line each."""

Opener = Callable[[Path | None, Sequence[Path], Log], Source]
"""Opens a built-in source: ``open(path, roots, log)``.

``path``: the absolute path that the user gave, or None; ``roots``: then the folders to search, in this order; ``log``
receives messages about a download. Raises ``UserError``.
"""

Part = tuple[str, NDArray[np.uint8], NDArray[np.int64]]
"""Images of one split of a set of arrays: its name, ``(N, H, W, C)`` pixels and ``(N,)`` labels."""


def array_records(parts: Iterable[Part]) -> Iterator[Record]:
    """The records of a set of arrays, named "train/00000", "train/00001", …; a split may have several parts."""
    counts: dict[str, int] = {}
    for split, pixels, targets in parts:
        first = counts.get(split, 0)
        counts[split] = first + len(targets)
        for index, (image, label) in enumerate(zip(pixels, targets.tolist(), strict=True), start=first):
            yield Record(split, label, f"{split}/{index:05d}", image)


class Ignored:
    """Files and folders that were ignored: a count for each reason, with the first name; and other notes."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}
        self._notes: dict[str, None] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count ``name``, the first of ``count``, as ignored for ``reason``, e.g. "link that leads to a folder"."""
        before, first = self._found.get(reason, (0, name))
        self._found[reason] = (before + count, first)

    def note(self, line: str) -> None:
        """Add a sentence for the user, once."""
        self._notes[line] = None

    def warnings(self, *, named: bool = True) -> list[str]:
        """The notes, and one line for each reason; not ``named``: with the number of files, but without names."""
        found = [
            f"ignored, {reason}: {_first(count, name) if named else f'{count:,} file(s) or folder(s)'}"
            for reason, (count, name) in self._found.items()
        ]
        return [*self._notes, *found]


def _first(count: int, name: str) -> str:
    return printable(name) if count == 1 else f"{printable(name)} and {count - 1} more"


def is_ignored_name(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to another program: it is skipped without a warning."""
    lower = name.lower()
    leftover = lower.startswith("~$") or lower.endswith(("~", *_UNFINISHED)) or (lower[:1] == lower[-1:] == "#")
    return lower.startswith(".") or leftover or lower in _SYSTEM_NAMES


def slug(text: str) -> str:
    """``text`` as a file name that is valid on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "source"


def fingerprint(files: Iterable[tuple[str, int, int]]) -> str:
    """The sha256 of (path, size in bytes, modification time in ns) of all files, in the given order."""
    digest = hashlib.sha256()
    for path, size, mtime in files:
        digest.update(f"{path}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def fingerprint_paths(paths: Iterable[Path]) -> str:
    """:func:`fingerprint` of a few files. Raises ``UserError`` if one cannot be read."""
    return fingerprint((str(path), (found := stat(path)).st_size, found.st_mtime_ns) for path in paths)


def stat(path: Path) -> os.stat_result:
    """``path.stat()``. Raises ``UserError`` instead of ``OSError``."""
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> UserError:
    """The error for a path that exists and cannot be read."""
    return UserError(f"cannot read {printable(str(path))}: {error.strerror or error}")


def parse_names(text: str) -> dict[str, str]:
    """Folder name → readable name, from lines "n01440764 tench, Tinca tinca" (a tab, or else a space, between)."""
    pairs = (line.strip().partition("\t" if "\t" in line else " ") for line in text.splitlines())
    return {key: printable(name.strip()) for key, _, name in pairs if name.strip()}


def describe(classes: Iterable[str], names: Mapping[str, str]) -> tuple[str, ...] | None:
    """A readable name for each class, or its own if ``names`` has none for it; None if ``names`` has none at all."""
    classes = tuple(classes)
    return tuple(names.get(name, name) for name in classes) if any(name in names for name in classes) else None
