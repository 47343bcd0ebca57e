"""What every source is: a name, classes, a fingerprint, and labelled records in a fixed order.

Nothing here decodes an image: a record carries encoded bytes, a path, or the pixels that an array source has anyway,
so that listing a source is cheap and every decoding goes through one place.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable

NAME_FILES = ("LOC_synset_mapping.txt", "words.txt")
"""Files beside the class folders that say what each folder name means: Kaggle's ImageNet, Tiny ImageNet."""

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Record:
    """One labelled image, not decoded."""

    split: str | None  # "train", "val" or "test"; None: the source has no splits
    label: int  # index into Source.classes
    name: str  # for messages: the path inside the source, or "train/00017" for arrays
    payload: bytes | Path | NDArray[np.uint8]  # an encoded file, where to read one, or (H, W, C) pixels


@dataclass(frozen=True)
class Source:
    """Labelled images in a fixed order, and enough about them to know whether they have changed.

    ``location`` is an absolute path or a package's name; ``fingerprint`` is a sha256 that changes when the source does;
    ``count`` is the number of records where it is known cheaply; ``pixel_shape`` is ``(H, W, C)`` for sources of
    pixels. ``descriptions`` are readable class names where the source has them beside its folder names.
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

    def records(self) -> Iterator[Record]:
        """Every record, each time in the same order. Raises ``UserError`` for a source that is damaged or changed."""
        return self.read()


class Ignored:
    """What was left out and why: counted by reason, with the first name of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count ``name``, the first of ``count``, as left out for ``reason``, e.g. "link that leads to a folder"."""
        before, first = self._found.get(reason, (0, name))
        self._found[reason] = (before + count, first)

    def warnings(self) -> list[str]:
        """One line for each reason."""
        return [f"ignored, {reason}: {_first(count, name)}" for reason, (count, name) in self._found.items()]


def _first(count: int, name: str) -> str:
    return printable(name) if count == 1 else f"{printable(name)} and {count - 1} more"


def is_litter(name: str) -> bool:
    """Whether an operating system or an archiver left this name there: skipped without a word."""
    return name.startswith(".") or name.lower() in _LITTER


def slug(text: str) -> str:
    """``text`` made safe for a file name on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "source"


def fingerprint(files: Iterable[tuple[str, int, int]]) -> str:
    """The sha256 of (path, size in bytes, modification time in ns) of every file, in the order given."""
    digest = hashlib.sha256()
    for path, size, mtime in files:
        digest.update(f"{path}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def fingerprint_paths(paths: Iterable[Path]) -> str:
    """``fingerprint`` of a few files, named by their paths."""
    return fingerprint((str(path), (found := stat(path)).st_size, found.st_mtime_ns) for path in paths)


def stat(path: Path) -> os.stat_result:
    """``path.stat()``; what the system refuses becomes a ``UserError``."""
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> UserError:
    """The error for a path that exists and cannot be read."""
    return UserError(f"cannot read {printable(str(path))}: {error.strerror or error}")


def parse_names(text: str) -> dict[str, str]:
    """Folder name → readable name from lines "n01440764 tench, Tinca tinca" (or a tab for the first space)."""
    pairs = (line.strip().partition("\t" if "\t" in line else " ") for line in text.splitlines())
    return {key: printable(name.strip()) for key, _, name in pairs if name.strip()}


def describe(classes: Iterable[str], names: Mapping[str, str]) -> tuple[str, ...] | None:
    """A readable name for each class, its own where ``names`` has none; None if ``names`` knows no class at all."""
    classes = tuple(classes)
    return tuple(names.get(name, name) for name in classes) if any(name in names for name in classes) else None
