"""A source's description, as a person types it, to labelled images and splits.

``fashion-mnist`` is a built-in set; ``imagenet:/data/ilsvrc`` is one kept at a path; anything else is a path: a folder
of class folders, with or without ``train/``, ``val/`` and ``test/`` above them, or a tar of the same.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.data.sources import builtin
from alexnet.data.sources.builtin import Log, data_home
from alexnet.data.sources.folders import open_folder, scan
from alexnet.data.sources.imagenet import is_ilsvrc, open_imagenet
from alexnet.data.sources.records import Source, unreadable
from alexnet.data.sources.tars import is_tar, open_tar
from alexnet.data.sources.tiny_imagenet import open_tiny_imagenet

BUILTIN_SOURCES: Mapping[str, str] = {
    "digits": "1,797 grey 8×8 digits, 10 classes: comes with scikit-learn",
    "mnist": "60,000 + 10,000 grey 28×28 digits, 10 classes",
    "fashion-mnist": "60,000 + 10,000 grey 28×28 pieces of clothing, 10 classes",
    "cifar10": "50,000 + 10,000 colour 32×32 photographs, 10 classes",
    "cifar100": "50,000 + 10,000 colour 32×32 photographs, 100 classes",
    "tiny-imagenet": "64×64 photographs, 500 + 50 a class, up to 200 classes; needs tiny-imagenet:PATH",
    "imagenet": "ILSVRC-2012: 1,281,167 + 50,000 photographs, 1000 classes; needs imagenet:PATH",
}
"""Name → one line about it."""

_FILE_SETS = {s.name: s for s in (builtin.MNIST, builtin.FASHION_MNIST, builtin.CIFAR10, builtin.CIFAR100)}


def open_source(text: str, data_root: Path | None = None, log: Log = lambda line: None) -> Source:
    """The source that ``text`` describes: ``digits``, ``cifar10:PATH`` or a path. A built-in name wins over a path.

    ``data_root``: where built-in sets are looked for first. ``log`` is told, a line at a time, of a download. Raises
    ``UserError`` for whatever cannot be used, in one complete line.
    """
    if not text.strip():
        raise UserError("the source is empty: give a built-in name, a folder of class folders, or a tar of one")
    if data_root is not None and not (data_root := data_root.expanduser()).is_dir():
        raise UserError(f"--data-root {data_root}: there is no such folder")
    try:
        return _open(text, data_root, log)
    except OSError as error:  # the system may refuse at any folder on the way
        raise unreadable(error.filename or text, error) from error


def _open(text: str, data_root: Path | None, log: Log) -> Source:
    name, colon, rest = text.partition(":")
    if name not in BUILTIN_SOURCES:
        return _open_path(text)
    if colon and not rest:
        raise UserError(f"source {text!r} has no path behind the colon: write {name}:PATH, or {name} alone")
    place = _existing(rest, text) if colon else None
    if name == "digits":
        if place:
            raise UserError(f"source {text!r}: digits come with scikit-learn and are never at a path: write digits")
        return builtin.open_digits()
    roots = [*([data_root] if data_root else []), data_home()]
    if name == "imagenet":
        return open_imagenet(place, roots)
    if name == "tiny-imagenet":
        return open_tiny_imagenet(place, roots)
    wanted = _FILE_SETS[name]
    if place and builtin.find_in(wanted, place) is None and _is_images(place):
        return _open_path(rest)
    opener = builtin.open_cifar if name.startswith("cifar") else builtin.open_mnist
    return opener(wanted, place, data_root, log)


def reopened_by(text: str, source: Source, data_root: Path | None) -> str:
    """What opens ``source``, described by ``text``, again from any folder and without ``data_root``: absolute paths."""
    name, colon, rest = text.partition(":")
    if data_root and text in BUILTIN_SOURCES and Path(source.location).is_absolute():  # digits come from no folder
        return f"{source.name}:{source.location}"
    if name in BUILTIN_SOURCES:
        return f"{name}:{Path(rest).expanduser().resolve()}" if colon and rest else text
    return str(Path(text).expanduser().resolve())


def _is_images(place: Path) -> bool:
    """Whether a built-in set was perhaps kept as image files: a tar, or a folder with folders."""
    return place.is_file() or any(entry.is_dir() for entry in scan(place))


def _open_path(text: str) -> Source:
    path = _existing(text, text)
    if path.is_dir():
        if is_ilsvrc(path):
            raise UserError(f"{path} is an ILSVRC-2012 directory, whose val/ is the test set: write imagenet:{text}")
        return open_folder(path)
    if is_tar(path):
        return open_tar(path)
    raise UserError(f"{path} is a file but not a tar: expected a folder of class folders, or a tar of one")


def _existing(text: str, whole: str) -> Path:
    """The absolute path that ``text`` names. Raises ``UserError`` if there is none, or the system refuses it."""
    try:
        path = Path(text).expanduser().resolve()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError) as error:
        raise _unknown(whole) from error
    except OSError as error:
        raise unreadable(text, error) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(f"{path} is neither a folder nor a file: expected a folder of class folders, or a tar of one")
    if not os.access(path, os.R_OK):
        raise UserError(f"cannot read {path}: permission denied")
    return path


def _unknown(text: str) -> UserError:
    name, colon, rest = text.partition(":")
    path = rest if colon and name in BUILTIN_SOURCES else text
    if path != text or any(sign in path for sign in (os.sep, "~")) or path.startswith("."):
        return UserError(f"there is no folder or file {path}", [f"source {text!r}"] if path != text else [])
    nearest = difflib.get_close_matches(text, BUILTIN_SOURCES, n=1, cutoff=0.5)
    hint = [f"did you mean {nearest[0]!r}?"] if nearest else []
    return UserError(
        f"unknown source {text!r}: neither a built-in name nor an existing path",
        [*hint, f"built-in: {', '.join(BUILTIN_SOURCES)}"],
    )
