"""Copies of images in a folder for each predicted class. Nothing is moved, and no file is overwritten."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.names import printable

NONE_OF_THESE = "none of these"
LONGEST_NAME = 200  # bytes of a folder's name; file systems allow 255


class SortedFolder:
    """A folder that receives copies of images: ``FOLDER/CLASS/FILE``, or ``FOLDER/none of these/FILE``."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """``classes``: the names of the model's classes."""
        self.folder = folder
        self._names = class_folders([*classes, NONE_OF_THESE])

    def check_inputs(self, images: Iterable[str]) -> None:
        """Raise ``UserError`` if the folder is inside a folder of images: the copies would be predicted too."""
        here = self.folder.resolve()
        for name in images:
            if name == "-":
                raise UserError("--sort-into copies files, and standard input is none: give image files or folders")
            if (path := Path(name)).is_dir() and here.is_relative_to(path.resolve()):
                raise UserError(f"--sort-into {self.folder} is inside {name}, whose images are sorted: give another")

    def copy(self, image: Path, name: str) -> Path:
        """Copy an image to the folder of the class ``name``, and return the copy.

        If another file of that name is there, the copy is called ``FILE-2``, ``FILE-3``, …; if the same image is there,
        nothing is copied. Raises ``UserError`` if the copy cannot be written.
        """
        into = self.folder / self._names[name]
        try:
            into.mkdir(parents=True, exist_ok=True)
            if into.is_symlink():
                raise UserError(f"{into} is a link: nothing is copied through it; remove the link")
            for number in itertools.count(1):
                path = into / (image.name if number == 1 else f"{image.stem}-{number}{image.suffix}")
                if _copy_new(image, path) or (path.is_file() and filecmp.cmp(image, path, shallow=False)):
                    return path
        except OSError as error:
            raise UserError(f"cannot copy {image} to {into}: {error.strerror or error}") from error
        raise AssertionError


def _copy_new(image: Path, path: Path) -> bool:
    """Copy a file and its times to a path where there is none; False, and no change, if there is one."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file, image.open("rb") as original:
            shutil.copyfileobj(original, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # a file system without times
        shutil.copystat(image, path)
    return True


def class_folders(classes: Iterable[str]) -> dict[str, str]:
    """Class → the name of its folder: the class name, changed where a system does not allow it; all names differ."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for each in dict.fromkeys(classes):
        text = "".join("_" if char in '/\\:*?"<>|' else char for char in printable(each)).strip()
        text = text.encode()[:LONGEST_NAME].decode(errors="ignore").rstrip(". ") or "_"
        text = f"_{text[1:]}" if text.startswith(".") else text
        numbered = (text if number == 1 else f"{text}-{number}" for number in itertools.count(1))
        names[each] = next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[each].casefold())
    return names
