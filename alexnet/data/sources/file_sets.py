"""Built-in sets that are a few files in a folder: where the files are looked for, and how they are downloaded.

Without a path, these folders are searched in this order: ``--data-root``, ``data_home()``, the folder of a system
package. The first folder with all files is used. If there is none, torchvision downloads the files into
``data_home()``. Opening a set reads headers only; ``records()`` reads the pixels.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import scratch_folder
from alexnet.data.home import data_home
from alexnet.data.sources.folders import scan
from alexnet.data.sources.paths import open_path
from alexnet.data.sources.records import Log, Opener, Source

NETWORK_TIMEOUT = 20.0  # seconds without a byte after which a download has failed
SECONDS_BETWEEN_LINES = 5.0  # of a download's progress


@dataclass(frozen=True)
class FileSet:
    """A built-in set that is a few files in a folder."""

    name: str
    torchvision: str  # the class in torchvision.datasets that downloads it
    folders: tuple[str, ...]  # the possible folders of its files, relative to a searched folder
    files: tuple[str, ...]  # names without .gz
    by_hand: str  # how a user gets the files without this package
    packaged: tuple[str, ...] = ()  # the folders of a system package


def file_set_opener(wanted: FileSet, open_files: Callable[[tuple[Path, ...]], Source]) -> Opener:
    """The opener of a set of files, for the table of sources: find the files, then ``open_files``.

    If a path is given that does not hold the files but a tar, a zip or folders, it is opened as image files.
    """

    def open_file_set(path: Path | None, roots: Sequence[Path], log: Log) -> Source:
        if path and find_in(wanted, path) is None and _may_hold_images(path):
            return open_path(path)
        return open_files(find(wanted, path, roots, log))

    return open_file_set


def _may_hold_images(path: Path) -> bool:
    """Whether a built-in set may be stored as image files here: a file (a tar or zip), or a folder with folders."""
    return path.is_file() or any(entry.is_dir() for entry in scan(path))


def find(wanted: FileSet, path: Path | None, roots: Sequence[Path], log: Log) -> tuple[Path, ...]:
    """The files of a set, from the first searched folder that has them all, else downloaded.

    ``path``: the only folder to search, if it is not None; ``roots``: else the folders to search before those of system
    packages; ``log`` receives messages about a download. Raises ``UserError`` with every searched folder.
    """
    searched = [path] if path is not None else [*roots, *map(Path, wanted.packaged)]
    for root in searched:
        if files := find_in(wanted, root):
            return files
    looked = [f"looked in {_searched_folder(wanted, root)}" for root in searched]
    if path is not None:
        raise UserError(f"{path} does not hold {wanted.name}: expected {', '.join(wanted.files)}", looked)
    log(f"{wanted.name} is not in {' or '.join(map(str, searched))}: downloading it to {data_home()}")
    problem = _download(wanted, log)
    if not problem and (files := find_in(wanted, data_home())):
        return files
    package = f"apt install dataset-{wanted.name}, or " if wanted.packaged else ""
    raise UserError(
        f"{wanted.name} was not found and not downloaded: {package}fetch it by hand and give --data-root FOLDER",
        [*looked, f"download failed: {problem}", f"by hand: {wanted.by_hand}"],
    )


def find_in(wanted: FileSet, root: Path) -> tuple[Path, ...] | None:
    """The files of a set below one root, gzipped or not; None unless all of them are in one folder."""
    for folder in (root.absolute() / name for name in wanted.folders):
        files = [_either(folder / name) for name in wanted.files]
        if all(files):
            return tuple(file for file in files if file is not None)
    return None


def _either(path: Path) -> Path | None:
    gzipped = path.with_name(f"{path.name}.gz")
    return next((file for file in (gzipped, path) if os.path.isfile(file)), None)  # noqa: PTH113 – never raises


def _searched_folder(wanted: FileSet, root: Path) -> str:
    """A searched folder for an error message, with the missing files if it holds some of the set."""
    for folder in (root.absolute() / name for name in wanted.folders):
        missing = [name for name in wanted.files if _either(folder / name) is None]
        if len(missing) < len(wanted.files):
            return f"{folder} (without {', '.join(missing)})"
    return str(root)


def _download(wanted: FileSet, log: Log) -> str:
    """Download a set into ``data_home()``. Returns what went wrong, or ""."""
    home = data_home()
    try:
        with scratch_folder(home / wanted.name) as scratch, _watched_network(log):
            folder = _fetch(wanted, scratch)
            (home / folder).mkdir(parents=True, exist_ok=True)
            for file in sorted((scratch / folder).iterdir()):
                file.replace(home / folder / file.name)  # complete and verified by torchvision
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        return " ".join(str(error).split())
    return ""


def _fetch(wanted: FileSet, scratch: Path) -> str:
    """Let torchvision download and verify a set below ``scratch``. Returns the folder of the files, relative to it."""
    import torchvision.datasets
    from torchvision.datasets.utils import download_and_extract_archive

    kind = getattr(torchvision.datasets, wanted.torchvision)
    if issubclass(kind, torchvision.datasets.MNIST):
        kind(str(scratch), download=True)
    else:  # not through the class, which would unpickle the files too
        download_and_extract_archive(kind.url, str(scratch), filename=kind.filename, md5=kind.tgz_md5)
    return wanted.folders[0]


@contextlib.contextmanager
def _watched_network(log: Log) -> Iterator[None]:
    """A context in which torchvision's progress bar becomes a line every few seconds, and sockets have a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(_ThrottledStream(log)):
            yield
    finally:
        socket.setdefaulttimeout(before)


class _ThrottledStream(io.StringIO):
    """A stream that passes the text written to it to ``log``, at most every ``SECONDS_BETWEEN_LINES``."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log, self._last = log, time.monotonic()
        self._stderr = sys.stderr  # the real one, for a ``log`` that prints there: sys.stderr is this stream meanwhile

    def write(self, text: str) -> int:
        """Pass the text on as a line, if the last one is old enough."""
        if text.strip() and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            with contextlib.redirect_stderr(self._stderr):
                self._log(f"  {text.strip()}")
        return len(text)
