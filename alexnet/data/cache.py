"""What the cache folder keeps: prepared datasets, downloads, weights, shards, and what killed processes left.

Only what this package put there is listed, and so only that can be removed; other files in the folder are not touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet.core.errors import UserError, unknown
from alexnet.core.files import folder_bytes, in_work, leftovers, remove_folder
from alexnet.core.names import printable
from alexnet.data.home import data_home
from alexnet.data.prepared import content_digest, read_meta, stores
from alexnet.data.shard_cache import FOLDER as SHARD_FOLDER
from alexnet.data.shard_cache import is_used, remove_shard, shard_files
from alexnet.data.shards import read_shards
from alexnet.data.sources.registry import FILE_SETS
from alexnet.data.uses import SHARDS, remove_unused, user_of

WEIGHTS = "weights"  # the folder of downloaded weights, also parts of them
READING = "a running process reads from it"
PREPARING = "a dataset is being prepared, perhaps from it"


@dataclass(frozen=True)
class CacheEntry:
    """A folder in the cache, or a weights file.

    ``source``: what it was made from; ``used_by``: who needs it, "" if nobody does; ``name``: its name for ``alexnet
    cache --remove``; ``bytes``: of all its files; ``made``: in seconds since 1970.
    """

    name: str
    kind: Literal["prepared dataset", "download", "weights", "shards", "leftover"]
    path: Path
    bytes: int
    made: float
    source: str
    used_by: str
    digest: str | None = None  # of a prepared dataset that can be read


def list_cache() -> list[CacheEntry]:
    """Everything that the package keeps in ``data_home()``. Raises ``OSError`` if a folder cannot be listed."""
    home = data_home()
    left = [*leftovers(stores()), *leftovers(home), *sorted(home.glob(".download-*"))]  # the latter: earlier versions
    return [
        *(_prepared(path) for path in sorted(stores().glob("[!.]*")) if path.is_dir()),
        *(_download(name, home / folder) for name, folder in _downloads() if _is_download(home / folder)),
        *(_weights(path) for path in sorted((home / WEIGHTS).glob("*")) if path.is_file()),
        *_shards(home / SHARD_FOLDER),
        *(_entry(path.name, "leftover", path, "a command that was killed", "") for path in left),
    ]


def remove_cached(names: Sequence[str]) -> list[CacheEntry]:
    """Remove the entries with these names, and return them; nothing is removed if one of them is in use.

    Raises ``UserError`` for an unknown name, for an entry in use, and if a folder cannot be removed.
    """
    entries = {entry.name: entry for entry in list_cache()}
    for name in names:
        if name not in entries:
            raise unknown("entry of the cache", name, entries) if entries else UserError(f"{data_home()} is empty")
    chosen = [entries[name] for name in dict.fromkeys(names)]
    for entry in chosen:
        if entry.used_by:
            raise _in_use(entry, entry.used_by)
    for entry in chosen:
        try:
            user = _remove(entry)
        except OSError as error:
            raise UserError(f"cannot remove {entry.path}: {error.strerror or error}") from error
        if user:
            raise _in_use(entry, user)
    return chosen


def _in_use(entry: CacheEntry, user: str) -> UserError:
    return UserError(
        f"{entry.name} is not removed: {user}; repeat the command when that has ended",
        ["a training that you give up: remove its run folder first"] if entry.digest else [],
    )


def _remove(entry: CacheEntry) -> str:
    """Remove an entry, and return ""; or return who has begun to use it."""
    if entry.kind == "prepared dataset":
        return remove_unused(entry.path, entry.digest)
    if entry.kind == "download" and in_work(stores()):
        return PREPARING
    if entry.kind == "shards":
        kept = [path for path in shard_files(entry.path) if not remove_shard(path)]
        return READING if kept else ""
    if entry.kind == "weights":
        entry.path.unlink()
        return ""
    remove_folder(entry.path)
    if entry.kind == "download" and entry.path.parent != data_home():
        with contextlib.suppress(OSError):  # it holds something else
            entry.path.parent.rmdir()
    return ""


def _prepared(path: Path) -> CacheEntry:
    digest = None
    try:
        meta = read_meta(path)
        digest = content_digest(meta)
        side, channels = meta["preprocessing"]["short_side"], meta["preprocessing"]["channels"]
        source = f"{meta['source']['location']}: {meta['images']:,} images of {side} × {side} × {channels}"
        if (path / SHARDS).exists():
            source = f"shards in {read_shards(path).address}, made from {source}"
        source += {"warp": ", warped", "stretch": ", stretched"}.get(meta["preprocessing"].get("resize"), "")
        if path != max(path.parent.glob(f"{path.name.rpartition('-')[0]}-*"), key=_made):
            source += ", an earlier state"
    except (OSError, ValueError, LookupError, TypeError) as error:
        source = f"unknown, it is damaged ({error})"
    return _entry(path.name, "prepared dataset", path, source, user_of(path, digest), digest)


def _downloads() -> list[tuple[str, str]]:
    """The name of each set that can be downloaded, and its folder in the cache."""
    return [(each.name, each.folders[0]) for each in FILE_SETS]


def _shards(folder: Path) -> list[CacheEntry]:
    """The cache of shards as one entry; none if it is empty."""
    files = shard_files(folder) if folder.is_dir() else []
    about = f"images in files at an address ({len(files):,} here), downloaded again when they are needed"
    return [_entry(SHARD_FOLDER, "shards", folder, about, READING if any(map(is_used, files)) else "")] if files else []


def _is_download(path: Path) -> bool:
    return path.is_dir() and not any(place.is_symlink() for place in (path, path.parent)) and any(path.iterdir())


def _download(name: str, path: Path) -> CacheEntry:
    return _entry(name, "download", path, f"the files of {name}", PREPARING if in_work(stores()) else "")


def _weights(path: Path) -> CacheEntry:
    is_part = path.name.startswith(".") and path.suffix == ".part"
    about = "a part of a file: its download continues there" if is_part else "published weights"
    return _entry(path.name, "weights", path, about, "")


def _entry(
    name: str,
    kind: Literal["prepared dataset", "download", "weights", "shards", "leftover"],
    path: Path,
    source: str,
    used_by: str,
    digest: str | None = None,
) -> CacheEntry:
    size = path.stat().st_size if path.is_file() else folder_bytes(path)
    return CacheEntry(name, kind, path, size, _made(path), printable(source), used_by, digest)


def _made(path: Path) -> float:
    """When the newest file in a folder was written, in seconds since 1970; for a prepared dataset, when it was made."""
    files = [path / "store.json"] if (path / "store.json").is_file() else [f for f in path.rglob("*") if f.is_file()]
    return max((file.stat().st_mtime for file in files), default=path.stat().st_mtime)
