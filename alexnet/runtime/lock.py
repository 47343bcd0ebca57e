"""A lock on a folder for one process. The kernel releases it however the process ends, also after SIGKILL.

The process that has the lock writes its number and host into the locked file, for the error message of a second one.
The kernel locks a file, and files are written by name. If the folder is renamed or removed, another process can create
and lock a new one at the same path. So before each write the locked file is compared with the one at the path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import check_before_writing, json_text, read_json
from alexnet.core.platform import check_platform, fcntl

LOCK = ".lock"
CONTENT = b'{"process": '  # the content begins with this, or is empty after a kill or on a full disk
OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class MovedError(UserError):
    """The locked folder is no longer at its path: it was renamed, replaced or removed. The message says where it is."""


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """A context that only one process at a time can enter for a folder, which must exist.

    Inside, ``core/files.py`` puts nothing below ``folder`` if the folder was renamed, replaced or removed since it was
    locked; it raises :class:`MovedError` instead. Raises ``UserError`` if another process is inside, with its number
    and host, or if ``.lock`` is not a regular file, and ``OSError`` if the folder cannot be written. On a file system
    without locks every process can enter.
    """
    check_platform()
    with _open_folder(folder) as place, contextlib.closing(_LockedFile(folder, place)) as locked:
        locked.write_owner()
        with check_before_writing(folder, locked.check):
            yield


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


class _LockedFile:
    """The file ``.lock`` of a folder, locked. ``place``: an open handle of the folder."""

    def __init__(self, folder: Path, place: int) -> None:
        self.folder, self.path, self._place = folder, folder / LOCK, place
        while True:
            self._file = self._open()
            try:
                self._lock()
                if not self._folder_is_current():
                    raise FileNotFoundError(errno.ENOENT, "it was renamed or removed just now", str(folder))
                if self._is_current() and self._is_unshared():
                    self._check_content()
                    return
            except BaseException:
                self.close()
                raise
            self.close()  # the file was removed or replaced while it was opened: open the new one

    def _open(self) -> int:
        try:
            file = os.open(LOCK, OPEN, 0o666, dir_fd=self._place)
        except OSError as error:
            if os.path.lexists(self.path) and not stat.S_ISREG(self.path.lstat().st_mode):
                raise self._not_a_file() from error
            raise
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise self._not_a_file()
        return file

    def _not_a_file(self) -> UserError:
        return UserError(f"{self.path} is a link, a folder or a device, not a regular file: remove it")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(self.path)
            raise UserError(f"{self.folder} is in use by {owner}: wait for it, or give another --out") from error
        except OSError:  # a file system without locks
            pass

    def _folder_is_current(self) -> bool:
        """Whether the folder at the path is the open one."""
        try:
            return os.path.samestat(self.folder.stat(), os.fstat(self._place))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _is_current(self) -> bool:
        """Whether the folder at the path is the open one, and its ``.lock`` the locked file."""
        try:
            return self._folder_is_current() and os.path.samestat(self.path.lstat(), os.fstat(self._file))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _check_content(self) -> None:
        """Raise ``UserError`` for a file of another program, which would be overwritten."""
        begins = os.pread(self._file, len(CONTENT), 0)
        if not CONTENT.startswith(begins):
            raise UserError(f"{self.path} is a file of another program: remove it, or give another --out")

    def _is_unshared(self) -> bool:
        """Whether no other folder has the same file, as in a copy by hard links; if one has, write a new file here."""
        if os.fstat(self._file).st_nlink == 1:
            return True
        name = f"{LOCK}.{secrets.token_hex(4)}"
        os.close(os.open(name, OPEN | os.O_EXCL, 0o666, dir_fd=self._place))
        os.replace(name, LOCK, src_dir_fd=self._place, dst_dir_fd=self._place)
        return False

    def write_owner(self) -> None:
        """Write the number and host of this process into the file."""
        os.ftruncate(self._file, 0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the owner's number is missing
            os.write(self._file, json_text({"process": os.getpid(), "host": platform.node()}).encode())

    def check(self) -> None:
        """Raise :class:`MovedError` if another folder or file is at the path now."""
        if self._is_current():
            return
        place = _path_of(self._place)
        if place == self.folder.resolve():
            raise MovedError(
                f"{self.path} was removed or replaced during the training, so another process may write there too: "
                f"this training stops, and its files are in {self.folder}; end the other one and repeat the command"
            )
        if place:
            raise MovedError(
                f"{self.folder} was renamed or replaced during the training: its files are now in {place}; repeat the "
                f"command with --out {place} to continue"
            )
        if os.fstat(self._place).st_nlink == 0:
            raise MovedError(
                f"{self.folder} was removed during the training, and its files with it: repeat the command to train "
                "again"
            )
        raise MovedError(
            f"{self.folder} was renamed or replaced during the training: its files are where it was moved to; repeat "
            "the command with --out and that folder to continue"
        )

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)


def _path_of(handle: int) -> Path | None:
    """The path that an open folder has now; None if it was removed or the system does not say."""
    with contextlib.suppress(OSError):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if os.path.samestat(path.stat(), os.fstat(handle)):
            return path
    return None


def _owner(path: Path) -> str:
    """The process that has the lock, read from the locked file."""
    try:
        owner = read_json(path)
        return f"process {int(owner['process'])} on {owner['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
