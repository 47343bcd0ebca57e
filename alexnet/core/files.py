"""Files that are whole or absent: written beside, synced, then renamed into place.

A rename within one folder is atomic on POSIX file systems, and a name is durable once its folder is synced
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). Readers therefore never see half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """The sha256 of a JSON value in one canonical spelling, so that equal settings have equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Replace ``path`` by ``value`` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises ``OSError`` or ``ValueError`` as it stands: callers know what it was for."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Build a folder beside ``path`` and rename it into place once it is whole.

    Yields the folder to fill. Its files are synced before the rename, so a reader that sees ``path`` sees all of it;
    if the body raises, nothing is left. A folder already at ``path`` is replaced (moved aside, then removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    beside.chmod(0o777 & ~_umask())
    try:
        yield beside
        for file in sorted(beside.rglob("*")):
            sync(file)
        sync(beside)
        replace_folder(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def replace_folder(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; what stood there is moved aside first and removed last."""
    aside = None
    if path.exists():
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        path.rename(aside / path.name)
    new.rename(path)
    sync(path.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask
