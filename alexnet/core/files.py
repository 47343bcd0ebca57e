"""Files that are whole or absent: written beside, synced, then renamed into place.

A rename within one folder is atomic on POSIX file systems, and a name is durable once its folder is synced
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014). Readers therefore never see half a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished."


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """The sha256 of a JSON value in one canonical spelling, so that equal settings have equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_bytes(path: Path) -> int:
    """The bytes of all files below a folder; 0 if there is none."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


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
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Build a folder beside ``path`` and rename it into place once it is whole.

    Yields the folder to fill. Its files are synced before the rename, so a reader that sees ``path`` sees all of it;
    if the body raises, nothing is left. What a killed process left beside is removed by the next one that builds
    there. A folder already at ``path`` is replaced (moved aside, then removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{path.name}.{secrets.token_hex(4)}")
    with contextlib.ExitStack() as holding:
        with _hold(path.parent):  # one at a time: nobody may sweep a folder that is made and not yet held
            _sweep(path.parent)
            beside.mkdir()
            holding.enter_context(_hold(beside))
        try:
            yield beside
            for file in sorted(beside.rglob("*")):
                sync(file)
            sync(beside)
            _replace(beside, path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def _replace(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; what stood there is moved aside first and removed last."""
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


def _sweep(parent: Path) -> None:
    """Remove the unfinished folders that no living process holds."""
    for left in parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError), _hold(left, fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            if held:
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _hold(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Hold a folder's lock, which the system drops when this process ends, however it ends.

    Yields False where somebody else holds it, or the file system has no locks: then nothing is swept either.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        held = True
        try:
            fcntl.flock(handle, how)
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)
