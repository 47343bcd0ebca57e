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
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

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
    try:
        status = path.stat()
    except ValueError as error:  # text that no file system can hold: a NUL byte, half of a surrogate pair
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    _check_regular(path, status)  # before it is opened: opening a device can have an effect
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


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}", re.ASCII | re.DOTALL)  # a temporary name for ``name``
_CHECKS: dict[Path, Callable[[], None]] = {}  # folder → what :func:`check_before_writing` calls


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


@contextlib.contextmanager
def check_before_writing(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """A context in which ``check()`` is called before a file or a folder below ``folder`` is put in its place.

    What it raises ends the write. Inside, ``folder`` itself is never created by a write. Folders are compared by the
    path that a writer gives.
    """
    _CHECKS[folder] = check
    try:
        yield
    finally:
        del _CHECKS[folder]


def check_place(path: Path) -> None:
    """Call the check of the folder that ``path`` is in, see :func:`check_before_writing`; without one, do nothing."""
    if folder := _checked_folder(path):
        _CHECKS[folder]()


def _checked_folder(path: Path) -> Path | None:
    return next((folder for folder in (path, *path.parents) if folder in _CHECKS), None)


def _make_parent(path: Path) -> None:
    """Create the folder that ``path`` is in, but never one that :func:`check_before_writing` protects."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        encoded = b"\0"
    if b"\0" in encoded:
        raise OSError(errno.EILSEQ, "no file can have this name", str(path))
    folder = _checked_folder(path)
    if folder is None or folder == path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    _CHECKS[folder]()
    below = [parent for parent in path.parents if folder in parent.parents]
    for parent in reversed(below):
        parent.mkdir(exist_ok=True)


@contextlib.contextmanager
def publish_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Write a file under a temporary name in the same folder, and rename it to ``path`` when the body has ended.

    It is synced first, so it is whole or absent; an existing file is replaced. A link at ``path`` is replaced, and the
    file that it names stays as it is. ``mode``: who may use the file. Raises ``OSError``.
    """
    _make_parent(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            _try_lock(file.fileno())  # shows to :func:`remove_leftovers` that the file is in use
            yield file
            file.flush()
            os.fsync(file.fileno())
            check_place(path)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write ``data`` to ``path``, atomically and durably, see :func:`publish_file`. Raises ``OSError``."""
    with publish_file(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically; bytes of a name that are not UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


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
    """The same value, with None instead of each number that is not finite."""
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
def publish_folder(path: Path, replaces: Collection[str] | None = None) -> Iterator[Path]:
    """Build a folder under a temporary name in the same parent folder, and rename it to ``path`` when it is complete.

    Yields the folder to fill. Its files are synced before the rename, so whoever finds ``path`` finds all of it; if the
    body raises, nothing is left, and what a killed process left is removed by the next one. A folder that is already at
    ``path`` is replaced (renamed first, then removed).
    ``replaces``: the names of the files that such a folder may hold; one that holds anything else is kept, and
    ``FileExistsError`` is raised. Raises ``OSError``.
    """
    remove_leftovers(path.parent, re.compile(re.escape(path.name)))
    _check_replaceable(path, replaces)
    with scratch_folder(path) as temporary:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        _check_replaceable(path, replaces)
        check_place(path)
        _replace(temporary, path)


def put_in_place(files: Sequence[Path], folder: Path) -> list[Path]:
    """Move complete files, which are on the same file system, into ``folder``: their new paths. Raises ``OSError``.

    Files of these names are replaced. Of several files the first is put in its place last, and the one that it replaces
    is removed before: if the process ends in between, it is absent, and nobody takes files of two writes for one.
    """
    main, *others = files
    if others:
        (folder / main.name).unlink(missing_ok=True)
    for file in (*others, main):
        check_place(folder / file.name)
        file.replace(folder / file.name)
    sync(folder)
    return [folder / file.name for file in files]


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder with a temporary name beside ``path``, removed at the end if it is still there.

    The scratch folder of a killed process is removed by the next process that makes one there. Raises ``OSError``.
    """
    _make_parent(path)
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


def _check_replaceable(path: Path, replaces: Collection[str] | None) -> None:
    """Raise ``FileExistsError`` if ``path`` is a file, or a folder that holds other visible files than ``replaces``."""
    if replaces is None or path.is_symlink() or not path.exists():
        return
    found = [file.name for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else [path.name]
    if others := sorted(set(found) - set(replaces)):
        raise FileExistsError(errno.EEXIST, f"there is already {others[0]!r}, which would be lost", str(path))


def _replace(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; an older folder (or a link) at ``path`` is renamed first and removed last."""
    with _lock(path.parent):  # shows to :func:`remove_leftovers` that the older folder is in use
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if os.path.lexists(path) else None
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
            _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with its files. What cannot be removed stays."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what killed processes left in ``folder`` while they wrote a file or folder whose name matches ``names``.

    They are known by their temporary names. If a folder was renamed for a new one that is missing, it is renamed back.
    Files in use are kept; on a file system without locks all files are kept.
    """
    if not folder.is_dir():
        return
    with _lock(folder) as locked:
        if not locked:
            return
        _remove_unfinished(folder)
        for left in sorted(folder.iterdir()):
            found = _LEFTOVER.fullmatch(left.name)
            if not found or left.name.startswith(UNFINISHED) or not names.fullmatch(found["name"]):
                continue
            if left.is_dir() and not os.path.lexists(path := folder / found["name"]):
                left.rename(path)
            elif left.is_symlink() or left.is_dir() or not _in_use(left):
                _remove(left)


def _in_use(file: Path) -> bool:
    """Whether a running process has locked the file; True also if that cannot be determined."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return not (stat.S_ISREG(os.fstat(handle).st_mode) and _try_lock(handle))
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file without waiting. False if another process has locked it, or on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, AttributeError):  # AttributeError: a system without fcntl
        return False
    return True


def _remove_unfinished(parent: Path) -> None:
    """Remove the unfinished folders that no running process has locked."""
    for unfinished in leftovers(parent):
        shutil.rmtree(unfinished, ignore_errors=True)


def leftovers(parent: Path) -> list[Path]:
    """The unfinished folders in ``parent`` that killed processes left: no running process has locked them."""
    return [path for path in _unfinished(parent) if _is_unlocked(path)]


def in_work(parent: Path) -> bool:
    """Whether a running process is building a folder in ``parent``."""
    return any(not _is_unlocked(path) for path in _unfinished(parent))


def _unfinished(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob(f"{UNFINISHED}*") if _LEFTOVER.fullmatch(path.name))


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
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(handle)
