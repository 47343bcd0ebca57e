"""Files and folders that are complete or absent: written under another name, synced, then renamed.

A rename within one folder is atomic on POSIX file systems, and a name is durable once its folder is synced
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). A reader therefore never finds half a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.core.platform import check_platform, fcntl

UNFINISHED = ".unfinished."


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """The sha256 of a JSON value, written with sorted keys and no spaces, so that equal values have equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_bytes(path: Path) -> int:
    """The size of all files below a folder, in bytes; 0 if there is no file."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a folder, are on the disk. Raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, atomically and durably; an existing file is replaced. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically. Raises ``OSError``."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises ``OSError`` or ``ValueError``: callers add which file it is and what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Build a folder under a temporary name in the same parent folder, and rename it to ``path`` when it is complete.

    Yields the folder to fill. Its files are synced before the rename, so whoever finds ``path`` finds all of it; if the
    body raises, nothing is left. A folder that is already at ``path`` is replaced (renamed first, then removed). Raises
    ``OSError``.
    """
    with scratch_folder(path) as temporary:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        _replace(temporary, path)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder with a temporary name beside ``path``, removed at the end if it is still there.

    The scratch folder of a killed process is removed by the next process that makes one there. Raises ``OSError``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{UNFINISHED}{path.name}.{secrets.token_hex(4)}")
    with contextlib.ExitStack() as locks:
        with _lock(path.parent):  # one process at a time: a new folder must be locked before others look for old ones
            _remove_unfinished(path.parent)
            temporary.mkdir()
            locks.enter_context(_lock(temporary))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder: first its name, then its files, so that nobody finds half of it.

    Raises ``OSError``, also for a link to a folder, which is left as it is.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another folder", str(path))
    aside = path.with_name(f"{UNFINISHED}{path.name}.{secrets.token_hex(4)}")
    path.rename(aside)
    sync(path.parent)
    shutil.rmtree(aside)


def _replace(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; an older folder at ``path`` is renamed first and removed last."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if path.exists() else None
    if aside is not None:
        path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        if aside is not None:
            aside.rename(path)
        raise
    sync(path.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_unfinished(parent: Path) -> None:
    """Remove the unfinished folders that no running process has locked."""
    for unfinished in leftovers(parent):
        shutil.rmtree(unfinished, ignore_errors=True)


def leftovers(parent: Path) -> list[Path]:
    """The unfinished folders in ``parent`` that killed processes left: no running process has locked them."""
    return [path for path in sorted(parent.glob(f"{UNFINISHED}*")) if _is_unlocked(path)]


def in_work(parent: Path) -> bool:
    """Whether a running process is building a folder in ``parent``."""
    return any(not _is_unlocked(path) for path in parent.glob(f"{UNFINISHED}*"))


def _is_unlocked(folder: Path) -> bool:
    """Whether a folder can be locked now; False if it is gone, or on a file system without locks."""
    try:
        with _lock(folder, wait=False) as locked:
            return locked
    except OSError:
        return False


@contextlib.contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a folder; the system releases the lock when this process ends, however it ends.

    Yields False if another process has the lock (with ``wait=False``), or if the file system has no locks: then nothing
    is removed either.
    """
    check_platform()
    handle = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(handle)
