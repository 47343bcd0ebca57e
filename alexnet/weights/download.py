"""Download one large file: with progress, resumed where it broke off, checked by its hash, whole or absent.

The bytes are kept in a hidden file beside the place of the complete one, also when the download fails, so that the next
command continues there. The complete file is renamed into its place once its hash is right. What a server says of
lengths is not trusted: more bytes than expected are refused, fewer are a download that broke off. If resumed bytes do
not have the right hash, they may be of another version of the file: everything is downloaded again, once. Image sets
are downloaded by torchvision (``data/sources/file_sets.py``), which can do none of this.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.core.files import size_in_words, sync
from alexnet.core.platform import fcntl
from alexnet.runtime.log import Reporter, stage

TIMEOUT = 20.0
"""Seconds without a byte after which a connection counts as broken."""
PAUSE = 1.0
"""Seconds before a broken download is continued."""
ATTEMPTS = 5
"""How often in a row a download is continued without having received anything new."""
CHUNK = 1 << 18
MEGABYTE = 10**6
SLACK = 1.02
"""How much larger than its stated size a file may be: the size is a round figure for some."""


class _BrokenOffError(Exception):
    """The connection ended before the file was complete: it is worth another attempt."""


def download(address: str, path: Path, size: int, expected: str, reporter: Reporter) -> str:
    """Download ``address`` to ``path``. Returns why that failed, as one line, or "".

    ``size``: in bytes, at least nearly. ``expected``: ``sha256:`` or ``sha1:`` and hexadecimal digits. Another process
    that downloads the same file is waited for. Whatever fails, ``path`` does not exist then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < size:
            return f"it needs {size_in_words(size)}, and {path.parent} has {size_in_words(free)} free"
        part = path.with_name(f".{path.name}.part")
        with _locked(part, reporter) as file:
            if not path.exists():  # another process may have downloaded it meanwhile
                problem = _fill_and_check(file, address, path.name, size, expected, reporter)
                if problem:
                    return problem
                part.rename(path)
                sync(path.parent)
            return ""
    except OSError as error:
        return f"cannot write {error.filename or path}: {error.strerror or error}"


def _fill_and_check(
    file: io.BufferedRandom, address: str, name: str, size: int, expected: str, reporter: Reporter
) -> str:
    """Fill the open partial file and check it; see :func:`download`."""
    begun = file.seek(0, os.SEEK_END)
    with stage(reporter, f"downloading {name}, in MB", size // MEGABYTE, begun // MEGABYTE):
        problem = _fill(file, address, size, reporter)
        if not problem and begun and _hash(file, expected) != expected:
            reporter.log("the part from an earlier download does not fit: starting again")
            file.truncate(0)
            problem = _fill(file, address, size, reporter)
    if problem:
        return problem
    if (found := _hash(file, expected)) != expected:
        file.truncate(0)
        return f"the server sent another file: {found.replace(':', ' ')}, expected {expected.replace(':', ' ')}"
    os.fsync(file.fileno())
    return ""


def _fill(file: io.BufferedRandom, address: str, size: int, reporter: Reporter) -> str:
    """Append what is missing of the file, in as many connections as needed. Returns what went wrong, or ""."""
    fruitless = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            return _receive(file, address, size, reporter)
        except (_BrokenOffError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            now = file.seek(0, os.SEEK_END)
            fruitless = 0 if now > before else fruitless + 1
            reason = " ".join(str(error).split()) or type(error).__name__
            if fruitless >= ATTEMPTS:
                return f"the connection broke off after {size_in_words(now)} ({reason})"
        time.sleep(PAUSE)


def _receive(file: io.BufferedRandom, address: str, size: int, reporter: Reporter) -> str:
    """Append to the file in one connection. Returns what went wrong for good, or "" at the end of the file."""
    position = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "alexnet"} | ({"Range": f"bytes={position}-"} if position else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and position:  # the part is as long as the file, or longer: its hash decides
                return ""
            if error.code >= 500:
                raise _BrokenOffError(f"HTTP status {error.code}") from error
            return f"HTTP status {error.code} ({error.reason})"
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError):
            raise _BrokenOffError(str(error.reason)) from error
        return " ".join(str(error.reason).split())
    with response:
        if position and not _continues(response, position):
            position = 0
            file.truncate(0)
            file.seek(0)
        total = _total(response, position)
        while chunk := response.read1(CHUNK):
            position += len(chunk)
            if position > size * SLACK:
                file.truncate(0)
                return f"the server sent more than {size_in_words(size)}"
            file.write(chunk)
            reporter.advance(position // MEGABYTE)
    file.flush()
    if total is not None and position < total:
        raise _BrokenOffError(f"{size_in_words(total - position)} are missing")
    return ""


def _continues(response: Any, position: int) -> bool:
    """Whether the response is the rest of the file from ``position`` on, and not the whole file."""
    return response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {position}-")


def _total(response: Any, position: int) -> int | None:
    """The length of the whole file that the server states, None if it states none."""
    length = str(response.headers.get("Content-Length", ""))
    return position + int(length) if length.isascii() and length.isdigit() else None


def _hash(file: io.BufferedRandom, expected: str) -> str:
    algorithm = expected.partition(":")[0]
    file.flush()
    file.seek(0)
    return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


@contextlib.contextmanager
def _locked(part: Path, reporter: Reporter) -> Iterator[io.BufferedRandom]:
    """The partial file, opened to read and write, while no other process has it; removed at the end if it is empty."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(handle, "r+b") as file:  # noqa: PTH123 – a descriptor
            _lock(handle, reporter)
            if not _is_at(handle, part):  # it was renamed or removed while this process waited
                continue
            try:
                yield file
            finally:
                if _is_at(handle, part) and os.fstat(handle).st_size == 0:
                    part.unlink(missing_ok=True)
            return


def _lock(handle: int, reporter: Reporter) -> None:
    """Lock an open file, and wait for a process that has locked it. Without effect on a file system without locks."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.log("another process is downloading this file: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
