"""A lock on a folder for one process. The kernel releases it however the process ends, also after SIGKILL.

The process that has the lock writes its number and host into the locked file, for the error message of a second one.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import json_text, read_json
from alexnet.core.platform import check_platform, fcntl

LOCK = ".lock"


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """A context that only one process at a time can enter for a folder, which must exist.

    Raises ``UserError`` if another process is inside, with its number and host, and ``OSError`` if the folder cannot be
    written. On a file system without locks every process can enter.
    """
    check_platform()
    path = folder / LOCK
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by {_owner(path)}: wait for it, or give another --out") from error
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the owner's number is missing
            file.write(json_text({"process": os.getpid(), "host": platform.node()}).encode())
        yield


def _owner(path: Path) -> str:
    """The process that has the lock, read from the locked file."""
    try:
        owner = read_json(path)
        return f"process {int(owner['process'])} on {owner['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
