"""Files and folders that are complete or absent: written under another name, synced, then renamed.

A rename within one folder is atomic on POSIX file systems, and a name is durable once its folder is synced
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). A reader therefore never finds half a file.

Every file that a user names, or that is found in a folder of a user, is opened by :func:`open_regular` or read by
:func:`read_bytes`: a pipe or a device never blocks, and the size is limited before anything is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.core.platform import check_platform, fcntl

UNFINISHED = ".unfinished."
FILE_LIMIT = 256 << 20
"""Bytes of the largest image file that is read: an uncompressed photograph of 80 megapixels."""
TEXT_LIMIT = 16 << 20
"""Bytes of the largest JSON file, list of names or list of labels: six times the names of all of WordNet."""
NOT_REGULAR = "is not a regular file"


class _RegularFile(io.FileIO):
    """A file that raises an error where it would wait: some files of ``/proc`` are regular files and still block."""

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``. Returns the number of bytes, 0 at the end."""
        count = super().readinto(buffer)
        if count is None:
            raise OSError(errno.EINVAL, NOT_REGULAR)
        return count


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading bytes. Never waits: not for a pipe, not for a device.

    Raises ``OSError``; its ``strerror`` is the reason, also for a folder, a pipe, a socket and a device.
    """
    _check_regular(path, path.stat())  # before it is opened: opening a device can have an effect
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(handle))  # it may have been replaced
        return io.BufferedReader(_RegularFile(handle))
    except BaseException:
        os.close(handle)
        raise


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, NOT_REGULAR, str(path))


def read_bytes(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; nothing is read of a larger one.

    Raises ``OSError`` as :func:`open_regular`, and for a larger file with :func:`too_large` as its ``strerror``.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""
        if size < len(data) <= limit:  # the file has grown, or its size is unknown
            data += file.read(limit + 1 - len(data))
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, too_large(limit), str(path))
    return data


def too_large(limit: int) -> str:
    """Why a file of more than ``limit`` bytes is not read: the predicate of a sentence."""
    return f"is larger than {limit >> 20} MiB, the limit for such a file"


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a regular file of at most ``limit`` bytes; bytes that are not UTF-8 are replaced by U+FFFD.

    Raises ``OSError`` as :func:`read_bytes`.
    """
    return read_bytes(path, limit).decode("utf-8", "replace")


def sha256_file(path: Path) -> str:
    """The sha256 of a regular file's bytes, as 64 hexadecimal digits. Raises ``OSError`` as :func:`open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """The sha256 of a JSON value, written with sorted keys and no spaces, so that equal values have equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_bytes(path: Path) -> int:
    """The size of all files below a folder, in bytes; 0 if there is no file."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def size_in_words(count: int) -> str:
    """A number of bytes with three figures: "820 bytes", "4.12 kB", "45.3 MB". Only 0 is shown as 0."""
    if count < 1000:
        return "1 byte" if count == 1 else f"{count} bytes"
    number, units = float(count), iter(("kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    number /= 1000
    while number >= 999.5 and (larger := next(units, None)):
        number, unit = number / 1000, larger
    return f"{number:,.{max(0, 2 - int(math.log10(number)))}f} {unit}"


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


def json_text(value: object, indent: int | None = None) -> str:
    """A value as JSON that every program can read and every terminal can show.

    JSON has no infinite numbers and no NaN: they become ``null``. Characters that cannot be printed are escaped, as in
    names from outside. So the text is ordinary UTF-8, and reading it gives the same names.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _finite(value: Any) -> Any:
    """The same value with None in the place of each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented JSON, see :func:`json_text`, atomically. Raises ``OSError``."""
    write_bytes(path, (json_text(value, indent=2) + "\n").encode())


def read_json(path: Path, limit: int = TEXT_LIMIT) -> Any:
    """The JSON value in a file of at most ``limit`` bytes.

    Raises ``OSError`` or ``ValueError``: callers add which file it is and what to do.
    """
    try:
        return json.loads(read_bytes(path, limit).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Build a folder under a temporary name in the same parent folder, and rename it to ``path`` when it is complete.

    Yields the folder to fill. Its files are synced before the rename, so whoever finds ``path`` finds all of it; if the
    body raises, nothing is left. The unfinished folder of a killed process is removed by the next process that builds
    a folder there. A folder that is already at ``path`` is replaced (renamed first, then removed). Raises ``OSError``.
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
            for file in sorted(temporary.rglob("*")):
                sync(file)
            sync(temporary)
            _replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


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
    for unfinished in parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError), _lock(unfinished, wait=False) as locked:
            if locked:
                shutil.rmtree(unfinished, ignore_errors=True)


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
