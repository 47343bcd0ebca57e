"""Folders of class folders: the files in them, read from a disk.

``class_folders.py`` decides which folders are classes. Links to files are followed everywhere, links to folders down to
the class folders. Files of other programs are skipped (``records.py``), and so are runs and prepared datasets of this
program.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from alexnet.core.errors import UserError
from alexnet.core.files import read_text
from alexnet.core.names import printable
from alexnet.data.containers import SUFFIXES
from alexnet.data.home import data_home
from alexnet.data.identity import image_name, names_person
from alexnet.data.sources.class_folders import LABELS_HINT, ClassFolder, choose_classes, find_class_folders
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

CLASS_LEVEL = 2  # of class folders below a source with splits
BESIDE_CLASSES = "image beside the class folders"
OWN_FOLDER = "run or prepared dataset of this program"
NO_IMAGES = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md", ".rst"),
    *(".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".ipynb", ".log", ".mat", ".npy", ".npz"),
    *(".pkl", ".pickle", ".h5", ".hdf5", ".pt", ".pth", ".onnx", ".safetensors", ".db", ".zip", ".tar", ".gz", ".tgz"),
    *(".7z", ".rar", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav"),
}
"""Suffixes of files that are not images: a folder with nothing else is not a class."""

_OWN_FILES = ("run.json", "store.json")  # of a run, of a prepared dataset

File = tuple[str, int, int]  # path inside its class folder, bytes, modification time in ns


class _Folder:
    """A folder on a disk, see :class:`~alexnet.data.sources.class_folders.Tree`; it is read when it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def images(self) -> bool:
        """Whether a file that may be an image is directly in it."""
        return any(may_be_image(entry.name) and not _is_folder(entry) for entry in scan(self._path))

    @cached_property
    def folders(self) -> dict[str, _Folder]:
        """The folders in it by name, sorted, without those of this program."""
        return {name: folder for name, folder in self._all.items() if not folder.is_own}

    @cached_property
    def own(self) -> list[str]:
        """The names of the folders in it that belong to this program."""
        return [name for name, folder in self._all.items() if folder.is_own]

    @cached_property
    def is_own(self) -> bool:
        """Whether it is a run, a prepared dataset, the folder of prepared datasets, or holds only such folders."""
        if is_own_folder(self._path, (entry.name for entry in scan(self._path))):
            return True
        return bool(self._all) and not self.images and not self.folders

    @cached_property
    def _all(self) -> dict[str, _Folder]:
        return {name: _Folder(self._path / name) for name in subfolders(self._path, Ignored())}


def open_folder(root: Path) -> Source:
    """The source in a folder of class folders. Raises ``UserError`` if ``root`` does not hold class folders."""
    ignored = Ignored()
    top = _Folder(root)
    if not top.folders:
        raise _no_classes(root)
    folders = find_class_folders(top, str(root), ignored)
    for parent in sorted({folder.parts[:depth] for folder in folders for depth in range(len(folder.parts))}):
        subfolders(root.joinpath(*parent), ignored)
        for name in _Folder(root.joinpath(*parent)).own:
            ignored.add(OWN_FOLDER, "/".join((*parent, name)))
    for parent in sorted({folder.parts[:-1] for folder in folders}):
        for name in sorted(entry.name for entry in scan(root.joinpath(*parent))):
            if is_image_name(name):
                ignored.add(BESIDE_CLASSES, "/".join((*parent, name)))
    files = {folder: list_files(root / folder.path, ignored) for folder in folders}
    for folder, listed in list(files.items()):
        if listed and not any(may_be_image(path) for path, _, _ in listed):
            ignored.note(f"class folder without images, ignored: {printable(folder.path)}")
            del files[folder]
    return folder_source(root, slug(root.name), files, read_names([root], ignored), ignored)


def is_own_folder(path: Path, names: Iterable[str]) -> bool:
    """Whether a folder with these names in it is one of this program: a run, a prepared dataset, ``data_home()``."""
    present = set(names)
    stems = [Path(name).stem for name in _OWN_FILES if name in present]  # beside run.jpg it belongs to that image
    own = any(not present.intersection(stem + suffix for suffix in SUFFIXES) for stem in stems)
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, a link to itself
        return own or path.resolve() == data_home().resolve()
    return own


def may_be_image(name: str) -> bool:
    """Whether a file may be an image by its name: its content decides, but files such as text are not images."""
    path = Path(name)
    return not is_ignored_name(path.name) and path.suffix.lower() not in NO_IMAGES and path.stem.lower() != "readme"


def holds_dicom(root: Path, paths: Iterable[str]) -> bool:
    """Whether one of the files in ``root`` is a DICOM file, so that names are not shown."""
    return any(names_person(root / path) for path in paths if may_be_image(path))


def is_image_name(name: str) -> bool:
    """Whether a file has the suffix of an image format and is not ignored."""
    return not is_ignored_name(name) and Path(name).suffix.lower() in SUFFIXES


def folder_source(
    root: Path,
    name: str,
    files: Mapping[ClassFolder, Sequence[File]],
    names: Mapping[str, str],
    ignored: Ignored,
    key: Callable[[str], int] | None = None,
    groups: Mapping[str, str] = MappingProxyType({}),
) -> Source:
    """The source of listed files, ordered by split, class and path.

    ``names``: folder name → readable class name. ``key``: for the order of the classes, that of their names if None.
    ``groups``: path → the name of its group, see ``Record.group``.
    """
    counts = {folder: len(listed) for folder, listed in files.items()}
    classes, warnings = choose_classes(counts, str(root), key)
    kept = {folder: ["/".join((*folder.parts, path)) for path, _, _ in listed] for folder, listed in files.items()}
    label = {name: index for index, name in enumerate(classes)}
    medical = holds_dicom(root, itertools.chain.from_iterable(kept.values()))

    def read() -> Iterator[Record]:
        every = ((folder, relative) for folder, paths in kept.items() for relative in paths)
        for number, (folder, relative) in enumerate(every):
            name, file = (image_name(number), relative) if medical else (printable(relative), "")
            group = groups.get(relative, "")
            yield Record(folder.split, label[folder.label], name, root / relative, group=group, file=file)

    return Source(
        name=name,
        location=str(root),
        classes=tuple(printable(name) for name in classes),
        fingerprint=fingerprint(_labelled_files(files, groups)),
        read=read,
        count=sum(counts.values()),
        descriptions=describe(classes, names),
        warnings=(*ignored.warnings(named=not medical), *warnings),
        trainable=any(folder.trains for folder in kept),
    )


def _labelled_files(files: Mapping[ClassFolder, Sequence[File]], groups: Mapping[str, str]) -> Iterator[File]:
    """Each file with its split and class before its path, because the path need not contain them, and its group."""
    for folder, listed in files.items():
        for path, size, mtime in listed:
            group = groups.get("/".join((*folder.parts, path)))
            end = "" if group is None else f"\0{group}"
            yield f"{folder.split}:{folder.label}:{folder.path}/{path}{end}", size, mtime


def subfolders(folder: Path, ignored: Ignored) -> list[str]:
    """The sorted names of the folders in a folder; links to folders count, except links to a folder above it."""
    here = folder.resolve()
    names = []
    for entry in scan(folder):
        if is_ignored_name(entry.name) or not _is_folder(entry):
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
        entries = scan(path)
        if is_own_folder(path, (entry.name for entry in entries)):
            ignored.add(OWN_FOLDER, str(path))
            continue
        for entry in entries:
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


def list_images(folder: Path) -> list[Path]:
    """The files below a folder of images, sorted, see :func:`list_tree`; also the folders that cannot be read."""
    files, unreadable_folders = list_tree(folder, Ignored())
    return sorted(folder / name for name in [*(name for name, _, _ in files), *unreadable_folders])


def list_tree(root: Path, ignored: Ignored) -> tuple[list[File], list[str]]:
    """The files below a folder, sorted by path, whatever its layout; and the folders that cannot be read.

    As in training, links to folders are followed down to the class folders of a split, and folders of this program are
    ignored.
    """
    found: list[File] = []
    failed: list[str] = []
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        path = root.joinpath(*parts)
        try:
            if len(parts) == CLASS_LEVEL:
                found += [("/".join((*parts, name)), size, mtime) for name, size, mtime in list_files(path, ignored)]
                continue
            entries = scan(path)
        except UserError:
            failed.append("/".join(parts))
            continue
        if parts and is_own_folder(path, (entry.name for entry in entries)):
            ignored.add(OWN_FOLDER, "/".join(parts))
            continue
        pending += [(*parts, name) for name in subfolders(path, ignored)]
        for entry in entries:
            status = _status(entry)
            if not is_ignored_name(entry.name) and status is not None and stat.S_ISREG(status.st_mode):
                found.append(("/".join((*parts, entry.name)), status.st_size, status.st_mtime_ns))
    if failed:
        ignored.add("folder that cannot be read", failed[0], len(failed))
    return sorted(found), sorted(failed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    status = _status(entry)
    return status is not None and stat.S_ISDIR(status.st_mode)


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


def read_names(folders: Sequence[Path], ignored: Ignored, files: Sequence[str] = NAME_FILES) -> dict[str, str]:
    """Folder name → readable class name, from the first of ``files`` in the folders; empty if there is none.

    ``ignored`` receives a file that cannot be read or is larger than ``TEXT_LIMIT``: the names are not needed.
    """
    for path in (folder / name for folder in folders for name in files):
        if path.is_file():
            try:
                return parse_names(read_text(path))
            except OSError as error:
                ignored.add(f"names of classes: {error.strerror or error}", str(path))
    return {}


def _no_classes(root: Path) -> UserError:
    if all(is_ignored_name(entry.name) for entry in scan(root)):
        return UserError(f"{root} is empty: expected one folder of images per class")
    return UserError(f"{root} has no class folders: expected one folder of images per class, or {LABELS_HINT}")
