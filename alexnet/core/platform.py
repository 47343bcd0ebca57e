"""The requirements on the operating system, checked in one place, and what it says of the processors.

Files are locked with ``fcntl.flock``, images are read with ``os.preadv`` and a training stops on SIGUSR1. These belong
to POSIX systems. On other systems modules can still be imported, and :func:`check_platform` raises the error.
"""

from __future__ import annotations

import os
import platform
import signal

from alexnet.core.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_platform", "cpu_count", "fcntl"]


def check_platform() -> None:
    """Do nothing on a POSIX system. Raises ``UserError`` on any other one; the error names what the system lacks."""
    present = {
        "fcntl.flock": fcntl is not None,
        "os.preadv": hasattr(os, "preadv"),
        "signal.SIGUSR1": hasattr(signal, "SIGUSR1"),
    }
    if missing := [name for name, found in present.items() if not found]:
        raise UserError(
            f"alexnet does not run on {platform.system() or 'this system'}, which lacks {', '.join(missing)}: "
            "use Linux (on Windows: WSL)"
        )


def cpu_count() -> int:
    """The number of processors that this process may use, or of all if the system has no such call."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
