"""The layout rule, for folders, tars and zips: which folders are classes, and which splits.

If there is a ``train`` folder that holds folders, the first level is splits and the second level classes. Otherwise the
first level is classes. Deeper folders belong to their class, as in torchvision's ``ImageFolder``. A ``train`` without
``val`` and ``test`` means that the source has no splits. A single folder that contains all others is skipped.

Folders that are clearly splits never become classes: other names of splits are read as such with a note
(``split_names.py``), and a layout that can be read in two ways is refused with the names to change.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.sources.records import Ignored
from alexnet.data.sources.split_names import (
    UNLABELLED,
    is_annotations,
    is_pictures,
    is_plain_split,
    part_of,
    split_of,
)

LEVELS = 5  # folders below a folder in which an image is looked for; deeper ones are assumed to hold one
SPLIT_ORDER = ("train", "val", "test")
LABELS_HINT = "give the classes with --labels FILE"


class ClassFolder(NamedTuple):
    """A folder whose files have one split and one class."""

    split: str | None
    label: str
    parts: tuple[str, ...]  # the folder, from the top of the source

    @property
    def path(self) -> str:
        """The folder as one relative path."""
        return "/".join(self.parts)

    @property
    def trains(self) -> bool:
        """Whether its images may be trained on: it is in ``train``, or the source has no splits."""
        return self.split in (None, "train")


class Tree(Protocol):
    """A folder of a source."""

    @property
    def images(self) -> bool:
        """Whether a file that may be an image is directly in it."""

    @property
    def folders(self) -> Mapping[str, Tree]:
        """The folders in it by name, sorted."""


@dataclass
class ListedFolder:
    """A folder of an archive, whose names are all listed."""

    images: bool = False
    folders: dict[str, ListedFolder] = field(default_factory=dict)


def find_class_folders(top: Tree, where: str, ignored: Ignored) -> list[ClassFolder]:
    """The class folders of a source, each with its split and class: train first, then sorted by path.

    ``where``: the source, for errors. ``ignored`` receives the ignored folders, and notes. Raises ``UserError`` for
    folders that are clearly splits and cannot be read as such, and if two readings are possible.
    """
    return _one_label_per_name(_find(top, (), where, ignored), top, where, ignored)


def _find(top: Tree, above: tuple[str, ...], where: str, ignored: Ignored) -> list[ClassFolder]:
    filled = _filled(top)
    wrapper = _wrapper(top, filled)
    if wrapper is not None and len(above) < LEVELS:
        for name in sorted(set(top.folders) - {wrapper}):
            ignored.add(f"folder without images beside {printable(wrapper)}/", "/".join((*above, name)))
        return _find(filled[wrapper], (*above, wrapper), where, ignored)
    splits = {name: split for name in filled if (split := split_of(name))}
    nested = [name for name in splits if _has_classes(filled[name]) and splits[name] != UNLABELLED]
    trained = [name for name in nested if splits[name] == "train"]
    if (trained and _are_splits(trained, filled, splits, where)) or (nested and len(splits) == len(filled)):
        return _read_splits(top, above, _one_each(nested, splits, where), where, ignored)
    _check_no_splits(filled, splits, nested, where, ignored)
    if (inverted := _classes_above_splits(filled, above, ignored)) is not None:
        return inverted
    _check_class_names(filled, where)
    return [ClassFolder(None, name, (*above, name)) for name in top.folders]


def _filled(tree: Tree) -> dict[str, Tree]:
    """The folders in a folder that hold images, also in folders below."""
    return {name: folder for name, folder in tree.folders.items() if _holds_images(folder)}


def _holds_images(tree: Tree, levels: int = LEVELS) -> bool:
    return tree.images or levels == 0 or any(_holds_images(folder, levels - 1) for folder in tree.folders.values())


def _wrapper(top: Tree, filled: Mapping[str, Tree]) -> str | None:
    """The single folder that contains all others, if these are the classes or splits; else None."""
    if len(filled) != 1 or top.images:
        return None
    ((name, folder),) = filled.items()
    inside = _filled(folder)
    if folder.images or not inside:
        return None
    if split_of(name) is None:
        return name
    meanings = {split_of(inner) for inner in inside} - {None, UNLABELLED}
    return name if len(meanings) > 1 else None


def _has_classes(folder: Tree) -> bool:
    """Whether a folder named like a split holds class folders; a single folder "images" in it is not one."""
    inside = _filled(folder)
    if len(inside) == 1:
        ((name, only),) = inside.items()
        return not (is_pictures(name) and not _filled(only))
    return bool(inside)


def _are_splits(trained: Sequence[str], filled: Mapping[str, Tree], splits: Mapping[str, str], where: str) -> bool:
    """Whether the folders at the top are splits, if ``trained`` mean train and hold class folders."""
    if any(map(is_plain_split, trained)) or len(splits) == len(filled) or len(set(splits.values())) > 1:
        return True
    others = [name for name in filled if name not in splits]
    raise UserError(
        f"{where}: {_list(trained)} may be a split or a class beside {_list(others)}: rename it to train/ if it is a "
        "split, and to another name if it is a class"
    )


def _one_each(nested: Sequence[str], splits: Mapping[str, str], where: str) -> dict[str, str]:
    """Folder → split, one folder for each split; a plain name is preferred. Raises ``UserError`` for two folders."""
    chosen = {}
    for split in SPLIT_ORDER:
        names = [name for name in nested if splits[name] == split]
        names = [name for name in names if is_plain_split(name)] or names
        if len(names) > 1:
            raise UserError(f"{where} has {_list(names)}, which mean the same split: keep one of them")
        chosen.update(dict.fromkeys(names, split))
    return chosen


def _read_splits(
    top: Tree, above: tuple[str, ...], chosen: Mapping[str, str], where: str, ignored: Ignored
) -> list[ClassFolder]:
    """The class folders in the folders ``chosen``, each of which is a split."""
    for name in sorted(set(top.folders) - set(chosen)):
        is_split = split_of(name) not in (None, UNLABELLED)
        ignored.add("split without class folders" if is_split else "folder beside train/", "/".join((*above, name)))
    if others := [f"{printable(name)}/ as {split}" for name, split in chosen.items() if not is_plain_split(name)]:
        ignored.note(f"read as splits: {', '.join(others)}")
    alone = set(chosen.values()) == {"train"}
    alike = len({tuple(_filled(top.folders[name])) for name in chosen}) == 1
    found = []
    for name, split in chosen.items():
        parts, folder = (*above, name), top.folders[name]
        while len(parts) < LEVELS and (inner := _wrapper_in_split(folder, split, alike=alike)) is not None:
            parts, folder = (*parts, inner), folder.folders[inner]
        _check_class_names(_filled(folder), f"{where}, {'/'.join(parts)}")
        found += [ClassFolder(None if alone else split, label, (*parts, label)) for label in folder.folders]
    return found


def _wrapper_in_split(folder: Tree, split: str, *, alike: bool) -> str | None:
    """The single folder in a split that holds its class folders: ``train/train/cat``, ``train/images/cat``; else None.

    ``alike``: whether all splits hold the same folders.
    """
    inside = _filled(folder)
    if len(inside) != 1 or folder.images:
        return None
    ((name, only),) = inside.items()
    if only.images or not _filled(only):
        return None
    return name if alike or is_pictures(name) or split_of(name) == split else None


def _check_no_splits(
    filled: Mapping[str, Tree], splits: Mapping[str, str], nested: Sequence[str], where: str, ignored: Ignored
) -> None:
    """Raise ``UserError`` if folders that would be classes are clearly splits; a note if one may be a split."""
    others = [name for name in filled if name not in splits]
    flat = [name for name in splits if name not in nested]
    if splits and (not others or len(set(splits.values())) > 1):
        if not flat and others:
            raise UserError(
                f"{where}: {_list(nested)} look like splits, and {_list(others)} are beside them: add a train/ with "
                "the class folders in it"
            )
        raise UserError(
            f"{where}: no class folders in {_list(flat)}, whose names mean splits: put the images of each class into a "
            f"folder of its own there (train/cat/), or {LABELS_HINT}",
            [] if others else ["if these are your classes, rename the folders: their names mean splits"],
        )
    for name in nested:
        if shared := sorted(_inside(filled[name]) & set(others).union(*(_inside(filled[other]) for other in others))):
            raise UserError(
                f"{where}: {printable(name)}/ looks like a split, and holds {printable(shared[0])}/ as the folders "
                f"beside it do: move {_list(others)} into a folder train/, or rename {printable(name)}/"
            )
    for name in splits:
        ignored.note(f"{printable(name)}/ is read as a class, because the folders beside it hold images too")


def _classes_above_splits(
    filled: Mapping[str, Tree], above: tuple[str, ...], ignored: Ignored
) -> list[ClassFolder] | None:
    """The class folders of a layout like ``cat/train``, ``cat/test``, ``dog/train``; None for any other layout."""
    inside = {name: {inner: split_of(inner) for inner in _filled(folder)} for name, folder in filled.items()}
    for name, folder in filled.items():
        splits = list(inside[name].values())
        if folder.images or None in splits or UNLABELLED in splits or len(set(splits)) < len(splits):
            return None
    if len({split for splits in inside.values() for split in splits.values()}) < 2:
        return None
    ignored.note("the classes are the upper folders, the splits the lower ones")
    found = [
        ClassFolder(split, label, (*above, label, inner))
        for label, splits in inside.items()
        for inner, split in splits.items()
    ]
    return sorted(found, key=lambda folder: (SPLIT_ORDER.index(str(folder.split)), folder.parts))


def _check_class_names(filled: Mapping[str, Tree], where: str) -> None:
    """Raise ``UserError`` if the folders are parts of one set, or those of another task, rather than classes."""
    if len(filled) < 2:
        return
    names = list(filled)
    parts = {part_of(name) for name in names}
    if len(parts) == 1 and None not in parts:
        raise UserError(
            f"{where}: {_list(names)} look like parts of one set, not like classes: put the images of each class into "
            f"one folder, or {LABELS_HINT}"
        )
    if all(is_pictures(name) or is_annotations(name) for name in names) and any(map(is_annotations, names)):
        raise UserError(
            f"{where}: {_list(names)} look like images and their annotations, not like classes: expected one folder of "
            f"images per class, or {LABELS_HINT}; masks are for "
            "alexnet train segmentation, boxes for alexnet train detection"
        )
    if any(folder.images for folder in filled.values()):
        return
    inside = [_inside(folder) for folder in filled.values()]
    times = Counter(itertools.chain.from_iterable(inside))
    shared = sorted(name for name, count in times.items() if count > 1)
    if 2 * len(shared) >= len(times) and all(inner.intersection(shared) for inner in inside):
        raise UserError(
            f"{where}: {_list(names)} hold the same folders {_list(shared)}, so either may be the classes: put all "
            "images of a class into one folder, name the upper folders train/, val/ and test/ if they are splits, or "
            f"{LABELS_HINT}"
        )


def _inside(folder: Tree) -> set[str]:
    """The folders in a folder, or in its single folder like ``images/``; folders with such names are omitted."""
    for _ in range(LEVELS):
        filled = _filled(folder)
        if len(filled) != 1 or not is_pictures(next(iter(filled))):
            return {name for name in filled if not is_pictures(name)}
        (folder,) = filled.values()
    return set()


def _list(names: Sequence[str], most: int = 4) -> str:
    """Folder names in a sentence: "a/, b/ and c/"."""
    shown = [f"{printable(name)}/" for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _one_label_per_name(folders: list[ClassFolder], top: Tree, where: str, ignored: Ignored) -> list[ClassFolder]:
    """The folders, with the spelling of train for a class that another split spells in another way.

    Raises ``UserError`` for two spellings in one split.
    """
    spelling: dict[str, str] = {}
    used: dict[tuple[str | None, str], ClassFolder] = {}
    found = []
    for folder in folders:  # train is first
        if not _holds_images(_below(top, folder.parts)):
            found.append(folder)
            continue
        key = same_name(folder.label)
        before = used.setdefault((folder.split, key), folder)
        if before.label != folder.label:
            raise UserError(
                f"{where}: {ascii_if_alike(before.path, folder.path)} differ only in case, spaces or Unicode form, so "
                "they may be one class: put their images into one folder, or rename one"
            )
        label = spelling.setdefault(key, folder.label)
        if label != folder.label:
            ignored.note(f"{printable(folder.path)} is read as class {printable(label)!r}")
        found.append(folder._replace(label=label))
    return found


def _below(tree: Tree, parts: Iterable[str]) -> Tree:
    return functools.reduce(lambda folder, name: folder.folders[name], parts, tree)


def same_name(name: str) -> str:
    """Equal for names that differ only in case, leading or trailing spaces, or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def ascii_if_alike(one: str, other: str) -> str:
    """Two names in a sentence, escaped if they would look the same."""
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return f"{one!a} and {other!a}"
    return f"{printable(one)!r} and {printable(other)!r}"


def choose_classes(
    counts: Mapping[ClassFolder, int], where: str, key: Callable[[str], int] | None = None
) -> tuple[tuple[str, ...], list[str]]:
    """The sorted classes that have training images, and a warning for each folder without files.

    ``counts``: the number of files in each folder. ``key``: for the order of the classes. Without a train split the
    images can only be evaluated; then all classes are used, and one class is enough. Otherwise raises ``UserError`` for
    fewer than two classes, and for a class without training images.
    """
    filled = [folder for folder, count in counts.items() if count]
    if not filled:
        raise UserError(f"no images in {where}: its class folders hold no files")
    trained = any(folder.trains for folder in counts)
    classes = sorted({folder.label for folder in filled if folder.trains or not trained}, key=key)
    known = set(classes)
    untrained = [folder for folder in filled if folder.label not in known]
    if untrained:
        which = f"{untrained[0].split} class {printable(untrained[0].label)!r}"
        more = f", and {len(untrained) - 1} more" if len(untrained) > 1 else ""
        raise UserError(f"{where}: {which} has no images in train{more}")
    if len(classes) == 1 and trained:
        path = next(folder.path or folder.label for folder in filled)
        raise UserError(
            f"{where} has only one class, {printable(path)!r}: a classifier needs two or more",
            ["expected: one folder of images per class, with or without train/, val/ and test/ above them"],
        )
    alike = [name for name, times in Counter(map(printable, classes)).items() if times > 1]
    if alike:
        raise UserError(f"{where} has two class folders that are both shown as {alike[0]!r}: rename one")
    empty = [folder.path for folder, count in counts.items() if not count]
    return tuple(classes), [f"class folder without files, ignored: {printable(path)}" for path in empty]
