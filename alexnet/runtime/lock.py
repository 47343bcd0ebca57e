"""One process a folder: a lock that the kernel frees however its holder ends, SIGKILL included.

The holder writes its name into the locked file, so that whoever comes second is told whom to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import read_json

LOCK = ".lock"


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Be the only process in this context for a folder, which must be there.

    Raises ``UserError`` naming the process that is in it now, and ``OSError`` if the folder cannot be written. On a
    file system without locks it is granted to everyone.
    """
    path = folder / LOCK
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use by {_holder(path)}: wait for it, or give another --out") from error
        except OSError:  # no locks here
            pass
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: held all the same, without a name
            file.write(json.dumps({"process": os.getpid(), "host": platform.node()}).encode())
        yield


def _holder(path: Path) -> str:
    """Who holds the lock, as it wrote itself."""
    try:
        said = read_json(path)
        return f"process {int(said['process'])} on {said['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
