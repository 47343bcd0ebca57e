"""The table of built-in sources, and the function that opens any source.

A source is given as text: ``fashion-mnist`` is a built-in set; ``imagenet:/data/ilsvrc`` is a built-in set at a path;
any other text is a path to a folder of class folders, with or without ``train/``, ``val/`` and ``test/`` above them, to
a tar or zip of one, or to tars of WebDataset. An address with ``://`` is that of shards, see ``shards.py``.

To add a built-in source, write a module with an opener (see :data:`~alexnet.data.sources.records.Opener`) and add a row
to ``BUILTIN_SOURCES``: ``alexnet list``, the command line and error messages read this table.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.names import is_url, nearest
from alexnet.data.home import data_home
from alexnet.data.remote import shown
from alexnet.data.sources.cifar import CIFAR10, CIFAR100, open_cifar10, open_cifar100
from alexnet.data.sources.detection import open_detection
from alexnet.data.sources.digits import open_digits
from alexnet.data.sources.imagenet import open_imagenet
from alexnet.data.sources.label_files import open_labelled
from alexnet.data.sources.mnist import FASHION_MNIST, MNIST, open_fashion_mnist, open_mnist
from alexnet.data.sources.paths import open_path
from alexnet.data.sources.records import Annotations, Log, Opener, Source, unreadable
from alexnet.data.sources.segmentation import open_segmentation
from alexnet.data.sources.shards import open_shard_source
from alexnet.data.sources.tiny_imagenet import open_tiny_imagenet


@dataclass(frozen=True)
class BuiltinSource:
    """A row of the table: what the set is (one line), the function that opens it, and whether NAME:PATH is allowed."""

    about: str
    open: Opener
    takes_path: bool = True


BUILTIN_SOURCES: dict[str, BuiltinSource] = {
    "digits": BuiltinSource(
        "1,797 grey 8×8 digits, 10 classes: comes with scikit-learn",
        open_digits,
        takes_path=False,
    ),
    "mnist": BuiltinSource(
        "60,000 + 10,000 grey 28×28 digits, 10 classes",
        open_mnist,
    ),
    "fashion-mnist": BuiltinSource(
        "60,000 + 10,000 grey 28×28 pieces of clothing, 10 classes",
        open_fashion_mnist,
    ),
    "cifar10": BuiltinSource(
        "50,000 + 10,000 colour 32×32 photographs, 10 classes",
        open_cifar10,
    ),
    "cifar100": BuiltinSource(
        "50,000 + 10,000 colour 32×32 photographs, 100 classes",
        open_cifar100,
    ),
    "tiny-imagenet": BuiltinSource(
        "64×64 photographs, 500 + 50 a class, up to 200 classes; needs tiny-imagenet:PATH",
        open_tiny_imagenet,
    ),
    "imagenet": BuiltinSource(
        "ILSVRC-2012: 1,281,167 + 50,000 photographs, 1000 classes; needs imagenet:PATH",
        open_imagenet,
    ),
}
"""Name → built-in source."""

FILE_SETS = (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)
"""The built-in sources that can be downloaded."""


ANNOTATED: Mapping[Annotations, Callable[[Path], Source]] = {"masks": open_segmentation, "boxes": open_detection}
"""What is known of the images → the function that opens a folder of them."""


def open_source(
    text: str,
    data_root: Path | None = None,
    log: Log = lambda line: None,
    labels: Sequence[Path] = (),
    annotations: Annotations = "labels",
) -> Source:
    """The source that ``text`` describes: ``digits``, ``cifar10:PATH`` or a path. A built-in name wins over a path.

    ``data_root``: the folder where built-in sets are looked for first. ``log`` receives messages, one line each, e.g.
    about a download. ``labels``: files with the classes of the images in a folder, see ``label_files.py``.
    ``annotations``: what has to be known of each image. Raises ``UserError`` for a source that does not exist or cannot
    be used.
    """
    if not text.strip():
        raise UserError("the source is empty: give a built-in name, a folder of class folders, or a tar or zip of one")
    if data_root is not None and not (data_root := Path(os.path.expanduser(data_root))).is_dir():  # noqa: PTH111 – never raises
        raise UserError(f"--data-root {data_root}: there is no such folder")
    try:
        if annotations != "labels":
            return _open_annotated(text, labels, annotations)
        return _open_labelled(text, labels) if labels else _open(text, data_root, log)
    except OSError as error:  # a folder or file on the way cannot be read
        raise unreadable(error.filename or text, error) from error


def _open(text: str, data_root: Path | None, log: Log) -> Source:
    name, colon, rest = text.partition(":")
    if is_url(text):
        return open_shard_source(text)
    if is_url(rest):
        raise UserError(f"source {text!r}: URLs are not fetched: download the images and give the path of their folder")
    if name not in BUILTIN_SOURCES:
        return open_path(_existing_path(text, text))
    if not colon and os.path.exists(text):  # noqa: PTH110 – never raises
        log(f"note: {text} is the built-in image set; for the folder or file of that name here, write ./{text}")
    if colon and not rest:
        raise UserError(f"source {text!r} has no path after the colon: write {name}:PATH, or {name} alone")
    path = _existing_path(rest, text) if colon else None
    if path and not BUILTIN_SOURCES[name].takes_path:
        raise UserError(f"source {text!r}: {name} has no files and takes no path: write {name}")
    return BUILTIN_SOURCES[name].open(path, [*([data_root] if data_root else []), data_home()], log)


def is_builtin(text: str) -> bool:
    """Whether ``text`` describes a built-in source, ``digits`` or ``cifar10:PATH``."""
    return text.partition(":")[0] in BUILTIN_SOURCES


def _open_annotated(text: str, labels: Sequence[Path], annotations: Annotations) -> Source:
    if is_builtin(text):
        raise UserError(f"{text} has a class for each image and no {annotations}: give a folder with --data FOLDER")
    if labels:
        raise UserError(f"--labels gives each image a class: leave it out, {annotations} are in the folder")
    if is_url(text):
        raise UserError(f"source {text!r}: URLs are not fetched: download the images and give the path of their folder")
    return ANNOTATED[annotations](_existing_path(text, text))


def _open_labelled(text: str, labels: Sequence[Path]) -> Source:
    if is_builtin(text):
        raise UserError(f"--labels is for a folder of images, and {text} has labels of its own: leave --labels out")
    root = _existing_path(text, text)
    if not root.is_dir():
        raise UserError(f"--labels needs a folder of images, and {root} is a file: unpack it first")
    for path in labels:
        if is_url(str(path)) or not path.exists():
            raise UserError(f"--labels {path}: there is no such file")
    return open_labelled(root, [path.resolve() for path in labels])


def absolute_source(text: str, source: Source, data_root: Path | None) -> str:
    """The text that opens ``source``, given as ``text``, from any working folder and without ``data_root``."""
    if source.shards:
        return source.location
    if data_root and text in BUILTIN_SOURCES and Path(source.location).is_absolute():  # digits are in no folder
        return f"{source.name}:{source.location}"
    return absolute_text(text)


def absolute_text(text: str) -> str:
    """A source's text with an absolute path, also if nothing is there."""
    if is_url(text):
        return shown(text)
    name, colon, rest = text.partition(":")
    if name in BUILTIN_SOURCES:
        return f"{name}:{Path(rest).expanduser().resolve()}" if colon and rest else text
    return str(Path(text).expanduser().resolve())


def _existing_path(path_text: str, text: str) -> Path:
    """The absolute path that ``path_text`` names, of source ``text``. Raises ``UserError`` if it cannot be read."""
    try:
        path = Path(path_text).expanduser().resolve()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError) as error:
        raise _unknown(text) from error
    except OSError as error:
        raise unreadable(path_text, error) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(
            f"{path} is neither a folder nor a file: expected a folder of class folders, or a tar or zip of one"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"cannot read {path}: permission denied")
    return path


def _unknown(text: str) -> UserError:
    name, colon, rest = text.partition(":")
    path = rest if colon and name in BUILTIN_SOURCES else text
    if path != text or any(char in path for char in (os.sep, "~")) or path.startswith("."):
        return UserError(f"there is no folder or file {path}", [f"source {text!r}"] if path != text else [])
    suggestion = [f"did you mean {meant!r}?" for meant in nearest(text, BUILTIN_SOURCES)]
    return UserError(
        f"unknown source {text!r}: neither a built-in name nor an existing path",
        [*suggestion, f"built-in: {', '.join(BUILTIN_SOURCES)}"],
    )
