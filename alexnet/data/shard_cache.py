"""Shards on this computer: each is downloaded as a whole, checked by its sha256 and kept in a folder of bounded size.

All processes of the computer share the folder. A shard is named by its sha256, so it does not matter where it came
from. It is checked when it is downloaded, and again when a process opens it for the first time, because a disk can
return other bytes without an error. One process downloads a shard, the others wait for it. If the folder is full, the
shards that have not been used for the longest time are removed, but never one that is being read.

A shard has a shared lock (``flock``) while it is read and for a moment after that, and a part of one an exclusive lock
while it is downloaded. The system releases both when a process ends, however it ends. A thread releases the locks of
shards that are no longer read: two system calls for each shard of each batch would take longer than small images.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import re
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from alexnet.core.errors import UserError, cannot_write
from alexnet.core.files import size_in_words
from alexnet.core.platform import check_platform, fcntl
from alexnet.data.home import data_home
from alexnet.data.remote import download, shown

FOLDER = "shards"  # in ``data_home()``
LIMIT = "ALEXNET_SHARD_CACHE"
"""Environment variable: the largest size of the folder, such as 200GB."""
FREE_SHARE = 0.9
"""Of the free disk and of what the folder has already: the largest size by default."""
DOWNLOADS = 4  # at a time in one process, ahead of their use
OPEN_FILES = 512
LEASE = 0.5  # seconds after which a shard that is not read any more is unlocked
WAIT = 60.0  # seconds for other processes to finish reading, before the folder counts as too small
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_SHARD = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\.[0-9a-f]{64}\.part")


@dataclass(frozen=True)
class Wanted:
    """A shard: where it is, its size in bytes and its sha256."""

    address: str
    bytes: int
    sha256: str


@dataclass(eq=False)
class _Open:
    """An open shard. ``users``: how many threads read it now; ``used``: the time when one did last."""

    descriptor: int
    users: int = 0
    used: float = 0.0
    locked: bool = True


def shard_cache() -> ShardCache:
    """The cache of this computer, see the module. Raises ``UserError``."""
    return _cache(data_home() / FOLDER, os.environ.get(LIMIT, ""))


@lru_cache
def _cache(folder: Path, limit: str) -> ShardCache:
    return ShardCache(folder, _bytes(limit) if limit.strip() else None)


def _bytes(text: str) -> int:
    """A number of bytes from words such as "200GB". Raises ``UserError``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(MB|GB|TB)", text.strip(), re.ASCII | re.IGNORECASE)
    if not found or float(found[1]) == 0:
        raise UserError(f"{LIMIT}={text} is not a size: write it as 200GB, or leave it out")
    return int(float(found[1]) * UNITS[found[2].upper()])


class ShardCache:
    """The shards in ``folder``, at most ``limit`` bytes; None for a share of the disk. Several threads may use it."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        check_platform()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise cannot_write(folder, error, "set ALEXNET_HOME to another folder") from error
        self.folder = folder
        self.limit = int(FREE_SHARE * (free + sum(self._sizes().values()))) if limit is None else limit
        self._mutex = threading.RLock()
        self._open: OrderedDict[str, _Open] = OrderedDict()  # by sha256, the last one used last
        self._checked: set[tuple[str, int, int]] = set()  # sha256, device and inode of files that this process checked
        self._requested: dict[str, Wanted] = {}
        self._coming: set[str] = set()  # what threads of this process are downloading or checking
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        threading.Thread(target=_release_idle, args=(weakref.ref(self),), name="shard locks", daemon=True).start()

    @contextlib.contextmanager
    def use(self, shard: Wanted) -> Iterator[int]:
        """A descriptor of the shard's file, which is checked and stays in the folder inside the context.

        It is downloaded if needed. Raises ``UserError`` if that fails, or if the folder is too small.
        """
        with self._mutex:
            self._requested.pop(shard.sha256, None)  # if it waits for a download, this thread does it
            entry = self._pin(shard.sha256)
            if entry is None:
                self._coming.add(shard.sha256)
        if entry is None:
            try:
                entry = self._obtain(shard)
            except OSError as error:
                raise cannot_write(error.filename or self.folder, error, "free some space on that disk") from error
            finally:
                self._coming.discard(shard.sha256)
        try:
            yield entry.descriptor
        finally:
            with self._mutex:
                entry.users -= 1
                entry.used = time.monotonic()

    def request(self, shard: Wanted) -> None:
        """Download and check a shard in another thread, if it is not here yet; an error shows when it is used."""
        if shard.sha256 in self._open:
            return
        with self._mutex:
            if any(shard.sha256 in known for known in (self._requested, self._coming, self._open)):
                return
            self._requested[shard.sha256] = shard
            if len(self._threads) < DOWNLOADS:
                self._threads.append(threading.Thread(target=self._work, name="shards", daemon=True))
                self._threads[-1].start()
        self._queue.put(shard.sha256)

    def _work(self) -> None:
        while True:
            sha256 = self._queue.get()
            with self._mutex:
                shard = self._requested.get(sha256)
            if shard is not None:
                with contextlib.suppress(UserError), self.use(shard):
                    pass

    def _pin(self, sha256: str) -> _Open | None:
        """The open shard, locked; None if it is not open, or if another process has removed it."""
        entry = self._open.get(sha256)
        if entry is None:
            return None
        if not entry.locked:
            _lock(entry.descriptor, fcntl.LOCK_SH)
            entry.locked = True
            if not os.fstat(entry.descriptor).st_nlink:
                self._close(sha256)
                return None
        entry.users += 1
        self._open.move_to_end(sha256)
        return entry

    def release_idle(self) -> None:
        """Unlock the shards that are not read any more, and close those that another process has removed."""
        with self._mutex:
            for sha256, entry in list(self._open.items()):
                if entry.locked:
                    os.utime(entry.descriptor)  # when it was used last
                if not entry.users and time.monotonic() - entry.used > LEASE:
                    if entry.locked:
                        _lock(entry.descriptor, fcntl.LOCK_UN)
                        entry.locked = False
                    if not os.fstat(entry.descriptor).st_nlink:
                        self._close(sha256)

    def _close(self, sha256: str) -> None:
        os.close(self._open.pop(sha256).descriptor)

    def _obtain(self, shard: Wanted) -> _Open:
        """The shard of the folder, opened, checked and locked; it is downloaded if it is absent or damaged."""
        while True:
            descriptor = self._opened(shard)
            if descriptor is None:
                descriptor = self._downloaded(shard)
            if descriptor is not None:
                return self._keep(shard.sha256, descriptor)

    def _keep(self, sha256: str, descriptor: int) -> _Open:
        with self._mutex:
            if other := self._pin(sha256):  # another thread was faster
                os.close(descriptor)
                return other
            entry = self._open[sha256] = _Open(descriptor, users=1)
            idle = [each for each, kept in self._open.items() if not kept.users]
            for each in idle[: max(0, len(self._open) - OPEN_FILES)]:
                self._close(each)
            return entry

    def _opened(self, shard: Wanted) -> int | None:
        """A descriptor of the file in the folder, checked and locked for reading; None if none is right."""
        path = self.folder / shard.sha256
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with _closed_on_error(descriptor):
            _lock(descriptor, fcntl.LOCK_SH)
            status = os.fstat(descriptor)
            known = (shard.sha256, status.st_dev, status.st_ino)
            right = status.st_size == shard.bytes and (known in self._checked or _sha256(descriptor) == shard.sha256)
            if right and status.st_nlink:
                self._checked.add(known)
                return descriptor
            if not right:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        os.close(descriptor)
        return None

    def _downloaded(self, shard: Wanted) -> int | None:
        """A descriptor of the file, which this process has just downloaded; None if another process was faster."""
        part, path = self.folder / f".{shard.sha256}.part", self.folder / shard.sha256
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with _closed_on_error(descriptor):
            _lock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            if not status.st_nlink or path.exists() or not _is_at(descriptor, part):
                os.close(descriptor)
                return None
            try:
                self._make_room(descriptor, shard)
                with open(descriptor, "r+b", closefd=False) as file:
                    download(shard.address, file, shard.bytes, shard.sha256)
                with self._sizes_fixed():
                    part.rename(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            self._checked.add((shard.sha256, status.st_dev, status.st_ino))
            _lock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def _make_room(self, descriptor: int, shard: Wanted) -> None:
        """Give an empty file the size of a shard, and remove others if there is no room. Raises ``UserError``."""
        if shard.bytes > self.limit:
            raise self._too_small(f"a shard of {shown(shard.address)} has {size_in_words(shard.bytes)}")
        end = time.monotonic() + WAIT
        while not self._reserve(descriptor, shard.bytes):
            if time.monotonic() > end:
                raise self._too_small(f"{size_in_words(shard.bytes)} more are needed, and all of it is being read")
            time.sleep(0.05)

    def _too_small(self, why: str) -> UserError:
        return UserError(
            f"the cache of shards {self.folder} may have {size_in_words(self.limit)}, and {why}: set {LIMIT} to a "
            "larger size such as 200GB, or ALEXNET_HOME to a larger disk"
        )

    def _reserve(self, descriptor: int, size: int) -> bool:
        """Give the file its size, after removing what was not used for long; False if that was not enough."""
        with self._sizes_fixed():
            sizes = self._sizes()
            oldest_first = sorted(sizes, key=_used)
            while sum(sizes.values()) + size > self.limit or not _allocate(descriptor, size):
                removed = next((path for path in oldest_first if path in sizes and self._remove(path)), None)
                if removed is None:
                    return False
                del sizes[removed]
        return True

    @contextlib.contextmanager
    def _sizes_fixed(self) -> Iterator[None]:
        """A context for one process and thread at a time: shards get their sizes and their names in it."""
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            _lock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _remove(self, path: Path) -> bool:
        """Remove a shard, or a part that a killed process left; False if a thread or process uses it."""
        with self._mutex:
            if path.name in self._open:
                if self._open[path.name].users:
                    return False
                self._close(path.name)
            return remove_shard(path)

    def _sizes(self) -> dict[Path, int]:
        sizes = {}
        for path in shard_files(self.folder):
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        return sizes


def _release_idle(of: weakref.ref[ShardCache]) -> None:
    while (cache := of()) is not None:
        with contextlib.suppress(OSError):
            cache.release_idle()
        del cache
        time.sleep(LEASE)


def shard_files(folder: Path) -> list[Path]:
    """The shards and parts of shards in the folder of a cache."""
    return [path for path in folder.iterdir() if _SHARD.fullmatch(path.name) or _PART.fullmatch(path.name)]


def is_used(path: Path) -> bool:
    """Whether a process reads or downloads a shard now; True also if that cannot be determined."""
    with _locked_alone(path) as alone:
        return not alone


def remove_shard(path: Path) -> bool:
    """Remove a shard, or a part of one; False if a process uses it, and on a file system without locks."""
    with _locked_alone(path) as alone:
        if alone:
            path.unlink(missing_ok=True)
        return alone


@contextlib.contextmanager
def _locked_alone(path: Path) -> Iterator[bool]:
    """A context in which no process uses a shard; yields False if one does. A missing file is used by none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def _lock(descriptor: int, how: int) -> None:
    """Lock or unlock an open file, and wait for that; without effect on a file system without locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, how)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _allocate(descriptor: int, size: int) -> bool:
    """Give a file its size on the disk; False if the disk is full."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.ftruncate(descriptor, 0)
        return False
    return True


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
