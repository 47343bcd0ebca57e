"""Files at an address: in a folder, on a web server, or wherever fsspec reaches (``s3://`` with the extra ``s3``).

A server may break off, stop answering, ignore ``Range``, answer 429 or 503, or replace a file while it is read. A
broken download is continued a bounded number of times, with growing pauses, and a file counts only if its sha256 is
right. What a server says about sizes is not trusted. Web addresses are read with the standard library: fsspec tries
only once, and returns the whole file without an error where a part of it was requested.

Messages never contain the query of an address, which may hold a signature; addresses with a password are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from alexnet.core.errors import UserError, cannot_read, cannot_write
from alexnet.core.files import open_regular, publish_file, too_large
from alexnet.core.names import is_url, printable

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
ATTEMPTS = 5
"""How often in a row a download may break off with less than ``ENOUGH`` new bytes."""
ENOUGH = 1 << 20
ENOUGH_SECONDS = 60.0
"""Seconds for ``ENOUGH`` bytes, after which a connection counts as broken."""
DIFFERENT = 3
"""How often a whole file is downloaded whose sha256 is wrong."""
PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a download is continued: the first pause, then twice as long each time, and the longest one."""
CHUNK = 1 << 20
BLOCK = 8 << 20
"""Bytes that are requested at a time from an object store."""
WEB = ("http", "https")
BUSY = (408, 425, 429)
"""HTTP statuses below 500 that are worth another attempt."""


class _BrokenOffError(Exception):
    """The file could not be read to its end: worth another attempt, after ``pause`` seconds if the server says so."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class _OtherContentError(Exception):
    """The file at the address does not have the expected size."""


class AbsentError(UserError):
    """There is no file at an address."""


def check_address(address: str) -> None:
    """Raise ``UserError`` for an address with a user name or password, which would come into logs."""
    if "@" in urllib.parse.urlsplit(address).netloc and is_url(address):
        raise UserError(
            f"the address {shown(address)} has a user name or password: give credentials by the environment of the "
            "storage, such as AWS_ACCESS_KEY_ID, or sign the address"
        )


def shown(address: str) -> str:
    """An address for messages and logs: without user name, password, query and fragment."""
    if not is_url(address):
        return printable(address)
    parts = urllib.parse.urlsplit(address)
    return printable(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl())


def join(folder: str, name: str) -> str:
    """The address of the file ``name`` in a folder. A query is kept behind the name."""
    if not is_url(folder):
        return str(Path(folder) / name)
    parts = urllib.parse.urlsplit(folder)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}", fragment="").geturl()


def local_path(address: str) -> Path | None:
    """The path that an address names on this computer; None for an address on a network."""
    if not is_url(address):
        return Path(address)
    if address.lower().startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
    return None


def read(address: str, limit: int) -> bytes:
    """The bytes of a small file. Raises ``AbsentError`` if there is none, else ``UserError``; see the module."""
    with io.BytesIO() as file:
        try:
            _fetch(address, file, None, limit)
        except _OtherContentError:
            raise UserError(f"{shown(address)} changed while it was read: run the command again") from None
        return file.getvalue()


def download(address: str, file: IO[bytes], size: int, sha256: str) -> None:
    """Write the file at an address, of ``size`` bytes with this hash, into an open file, which can be read too.

    Raises ``UserError`` if the file is absent, other than expected or cannot be
    read, after bounded attempts; and ``OSError`` if ``file`` cannot be written.
    """
    for attempt in range(1, DIFFERENT + 1):
        with contextlib.suppress(_OtherContentError):
            _fetch(address, file, size, size)
            file.flush()
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:  # type: ignore[arg-type]
                return
        if attempt < DIFFERENT:
            _wait(attempt)
    raise UserError(
        f"{shown(address)} is not the file that its manifest describes ({size:,} bytes, sha256 {sha256[:12]}…): it was "
        "replaced or damaged; write the shards again"
    )


def upload(path: Path, address: str) -> None:
    """Copy a file to an address, where it is then whole or absent. Raises ``UserError``."""
    if place := local_path(address):
        try:
            with publish_file(place) as file, open_regular(path) as source:
                shutil.copyfileobj(source, file, CHUNK)
        except OSError as error:
            raise cannot_write(place, error, "give another folder") from error
        return
    if urllib.parse.urlsplit(address).scheme in WEB:
        raise UserError(f"cannot write to {shown(address)}: shards are written to a folder or to an object store")
    filesystem, there = _filesystem(address)
    size = path.stat().st_size
    for attempt in range(1, ATTEMPTS + 1):
        try:
            filesystem.put_file(str(path), there)
            if filesystem.info(there)["size"] == size:
                return
            reason = "its size is wrong"
        except Exception as error:
            reason = _reason(error)
            if isinstance(error, FileNotFoundError | PermissionError):
                break
        _wait(attempt)
    raise UserError(f"cannot write {shown(address)}: {reason}")


def size_at(address: str) -> int | None:
    """The size of the file at an address to which files can be written, in bytes; None if there is none that can be
    read.
    """
    if place := local_path(address):
        return place.stat().st_size if place.is_file() else None
    try:
        filesystem, there = _filesystem(address)
        return int(filesystem.info(there)["size"])
    except UserError:
        raise
    except Exception:
        return None


def _fetch(address: str, file: IO[bytes], size: int | None, limit: int) -> None:
    """Write the file at an address to ``file``, continued where it breaks off.

    ``size``: the expected one, if it is known; ``limit``: more bytes are never read. Raises ``_OtherContentError`` if
    it has another size, and ``UserError``.
    """
    position, furthest, failures = 0, 0, 0
    while True:
        begun = time.monotonic()
        received = 0
        try:
            with _open_at(address, position) as (stream, start, whole):
                if size is not None and whole not in (None, size):
                    raise _OtherContentError
                position = start  # 0 if the server sends the whole file again
                file.seek(position)
                while chunk := _read(stream):
                    position += len(chunk)
                    received += len(chunk)
                    if position > limit:
                        if size is not None:
                            raise _OtherContentError
                        raise UserError(f"{shown(address)} {too_large(limit)}")
                    file.write(chunk)
                    if position >= furthest + ENOUGH:  # not only what was received before
                        furthest, failures = position, 0
                    if received >= ENOUGH:
                        begun, received = time.monotonic(), 0
                    elif time.monotonic() - begun > ENOUGH_SECONDS:
                        raise _BrokenOffError("it is too slow")
            if (expected := size if size is not None else whole) is None or position == expected:
                return
            raise _BrokenOffError(f"{expected - position:,} bytes are missing")
        except _BrokenOffError as error:
            failures += 1
            if failures >= ATTEMPTS:
                raise UserError(f"cannot read {shown(address)}: {error}, {ATTEMPTS} times; try again later") from None
            _wait(failures, error.pause)


def _wait(failures: int, pause: float = 0.0) -> None:
    time.sleep(min(max(pause, PAUSE * 2 ** (failures - 1)), LONGEST_PAUSE))


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read1(CHUNK) if isinstance(stream, http.client.HTTPResponse) else stream.read(CHUNK)
    except Exception as error:  # file systems of fsspec raise exceptions of many kinds
        raise _BrokenOffError(_reason(error)) from error


@contextlib.contextmanager
def _open_at(address: str, position: int) -> Iterator[tuple[IO[bytes], int, int | None]]:
    """The file at an address from ``position`` on: the stream, where it begins, and the size of the whole file.

    Where it begins is 0 if the server cannot begin elsewhere; the size is None if it is not stated.
    """
    if place := local_path(address):
        try:
            opened_here = open_regular(place)
        except FileNotFoundError as error:
            raise _absent(address) from error
        except OSError as error:
            raise cannot_read(place, error) from error
        with opened_here as file:
            whole = file.seek(0, io.SEEK_END)
            file.seek(position)
            yield file, position, whole
        return
    if urllib.parse.urlsplit(address).scheme.lower() in WEB:
        with _open_web(address, position) as response:
            yield response
        return
    try:
        filesystem, there = _filesystem(address)
        opened = filesystem.open(there, "rb", block_size=BLOCK, cache_type="readahead")
        opened.seek(position)
    except Exception as error:
        _raise(address, error)
    with opened:
        yield opened, position, opened.size


@contextlib.contextmanager
def _open_web(address: str, position: int) -> Iterator[tuple[Any, int, int | None]]:
    headers = {"User-Agent": "alexnet"} | ({"Range": f"bytes={position}-"} if position else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (404, 410):
                raise _absent(address) from None
            if error.code >= 500 or error.code in BUSY:
                raise _BrokenOffError(f"HTTP status {error.code}", _seconds(error.headers.get("Retry-After"))) from None
            if error.code == 416:  # the file is shorter than what was read of it
                raise _OtherContentError from None
            raise UserError(f"cannot read {shown(address)}: HTTP status {error.code}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise UserError(f"cannot read {shown(address)}: there is no such server, or no network") from None
        raise _BrokenOffError(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(_reason(error)) from None
    with response:
        length = _whole(response.headers.get("Content-Length"))
        start = 0
        if response.status == 206 and position:
            stated, _, total = str(response.headers.get("Content-Range", "")).partition("/")
            if not stated.startswith(f"bytes {position}-"):
                raise _BrokenOffError("the server sent another part of the file")
            start, length = position, _whole(total)
        yield response, start, length


def _filesystem(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    import fsspec  # comes with torch

    scheme = urllib.parse.urlsplit(address).scheme
    try:
        filesystem, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        extra = "pip install 'alexnet[s3]'" if scheme in ("s3", "s3a") else "install the package of fsspec for it"
        raise UserError(f"{scheme}:// needs another package: {extra}") from error
    except ValueError as error:
        raise UserError(f"{shown(address)}: addresses {scheme}:// are not known") from error
    return filesystem, path


def _raise(address: str, error: Exception) -> NoReturn:
    if isinstance(error, UserError):
        raise error
    if isinstance(error, FileNotFoundError):
        raise _absent(address) from error
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        raise UserError(f"cannot read {shown(address)}: {_reason(error)}") from error
    raise _BrokenOffError(_reason(error)) from error


def _absent(address: str) -> AbsentError:
    return AbsentError(f"there is no file {shown(address)}")


def _reason(error: object) -> str:
    """What went wrong, without addresses: messages of servers and libraries may quote one with its signature."""
    if isinstance(error, OSError) and error.strerror and "://" not in error.strerror:
        return error.strerror
    return "the connection timed out" if isinstance(error, TimeoutError) else type(error).__name__


def _whole(text: object) -> int | None:
    return int(str(text)) if str(text).isascii() and str(text).isdigit() else None


def _seconds(text: object) -> float:
    return float(_whole(text) or 0)
