"""Folders of images with a file of annotations for each image.

``splits`` finds the folders: ``train/``, ``val/`` and ``test/`` above them, or none. ``pair`` matches images and
annotation files by their paths without the suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alexnet.core.errors import UserError
from alexnet.core.files import read_text
from alexnet.core.names import printable
from alexnet.data.sources.folders import File, list_files, may_be_image, subfolders
from alexnet.data.sources.records import Ignored, unreadable
from alexnet.data.sources.split_names import UNLABELLED, split_of

CLASSES_FILE = "classes.txt"


@dataclass(frozen=True)
class Pair:
    """An image and its annotation; paths are relative to the source. ``split``: None without splits."""

    split: str | None
    image: str
    annotation: str
    files: tuple[File, File]


def splits(root: Path, images: str, ignored: Ignored) -> dict[str | None, tuple[str, ...]]:
    """Split → the folder, as parts of a path below ``root``, that has a folder ``images``.

    Raises ``UserError`` if a split occurs twice.
    """
    if (root / images).is_dir():
        return {None: ()}
    found: dict[str | None, tuple[str, ...]] = {}
    for name in subfolders(root, ignored):
        split = split_of(name)
        if split in (None, UNLABELLED) or not (root / name / images).is_dir():
            continue
        if split in found:
            raise UserError(f"{root} has two folders for {split}, {found[split][0]} and {name}: put them together")
        found[split] = (name,)
    return found


def pair(
    root: Path,
    folder: tuple[str, ...],
    split: str | None,
    images: str,
    annotations: str,
    suffix: str,
    ignored: Ignored,
    wanted: Iterable[str] | None = None,
) -> list[Pair]:
    """The images below ``folder/images`` with the annotation of the same path and the given suffix.

    ``wanted``: only images with these paths without the suffix. An image without an annotation is ignored, and an
    annotation without an image; a note counts them.
    """
    here = root.joinpath(*folder)
    if not (here / annotations).is_dir():
        raise UserError(f"{here} has {images}/ and no {annotations}/: expected a file there for each image")
    files = [each for each in list_files(here / annotations, ignored) if each[0].lower().endswith(suffix)]
    known = {stem_of(each[0]): each for each in files}
    chosen = None if wanted is None else set(wanted)
    pairs, seen = [], set[str]()
    for each in list_files(here / images, ignored):
        name, stem = each[0], stem_of(each[0])
        if not may_be_image(name) or (chosen is not None and stem not in chosen):
            continue
        if stem in seen:
            raise UserError(
                f"{here / images} has two images called {printable(stem)}: both would have the same file there"
            )
        seen.add(stem)
        if stem not in known:
            ignored.add(f"image without a file in {annotations}/", "/".join((*folder, images, name)))
            continue
        paths = ("/".join((*folder, images, name)), "/".join((*folder, annotations, known[stem][0])))
        pairs.append(Pair(split, *paths, (each, known[stem])))
    for stem in sorted(known.keys() - seen if chosen is None else ()):
        ignored.add("annotation without an image", "/".join((*folder, annotations, known[stem][0])))
    return pairs


def stem_of(path: str) -> str:
    """A path without its suffix."""
    return str(PurePosixPath(path).with_suffix(""))


def read_classes(root: Path, places: Iterable[Path]) -> tuple[str, ...]:
    """The names in ``classes.txt``, in the order of their numbers; from the first of ``places`` with one.

    Raises ``UserError`` if there is none, and as :func:`class_names`.
    """
    for path in (place / CLASSES_FILE for place in places):
        if path.is_file():
            return class_names(path)
    raise UserError(
        f"{root} has no {CLASSES_FILE}: write the name of each class in a line, in the order of the numbers"
    )


def class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file, one a line, in the order of their numbers, see :func:`check_names`."""
    try:
        names = [printable(line.strip()) for line in read_text(path).splitlines()]
    except OSError as error:
        raise unreadable(path, error) from error
    while names and not names[-1]:
        names.pop()
    return check_names(path, names)


def check_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Class names from a file. Raises ``UserError`` for less than one name, an empty or a repeated one."""
    if not names or not all(names) or len(set(names)) < len(names):
        raise UserError(f"{path}: expected one class name a line, without repeats")
    return tuple(names)


def check_found(root: Path, pairs: Iterable[Pair], ignored: Ignored, expected: str) -> None:
    """Raise ``UserError`` if there is no pair; its details are what was ignored."""
    if not any(True for _ in pairs):
        raise UserError(f"{root} has no image with its annotation: expected {expected}", ignored.warnings())


def described_files(pairs: Iterable[Pair]) -> Iterator[File]:
    """Split and path, size and time of each file, for a fingerprint."""
    for each in pairs:
        for path, (_, size, mtime) in zip((each.image, each.annotation), each.files, strict=True):
            yield f"{each.split}:{path}", size, mtime
