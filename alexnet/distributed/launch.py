"""Start several processes of this program on one computer: ``alexnet train RECIPE --nproc N``.

PyTorch's own agent, the one of torchrun, starts the processes, watches them, and starts all of them again if one dies.
It distinguishes only success (status 0) and failure. So the first process writes the exit status that a user expects
into a file, and ends with 0: a mistake of the user is not repeated, and a training that a signal has stopped is not
started again.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.platform import cpu_count

STATUS_FILE = "ALEXNET_STATUS_FILE"  # environment variable: where the first process writes the exit status
SIGNALS = "SIGTERM,SIGINT,SIGUSR1"  # passed on to the processes; any other ends the agent only
SHUTDOWN_SECONDS = 300  # for the last step and its checkpoint, before the processes are killed
REPORT_SECONDS = 10
FAILURE = 1
PER_CORE = 4  # processes for each core at most: each needs some 300 MB, and its start a few seconds of a core
PR_SET_PDEATHSIG = 1  # of prctl(2)


def launch(words: Sequence[str], processes: int, max_restarts: int) -> int:
    """Run ``python -m alexnet WORDS`` in several processes that train together; returns the exit status.

    ``max_restarts``: how often all processes are started again after one was killed or has crashed. Raises
    ``UserError`` if they cannot be started.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if processes > (most := PER_CORE * cpu_count()):
        raise UserError(f"--nproc {processes}: this computer has {cpu_count()} cores, give at most {most}")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it writes pages about one failure
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // processes)))
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder) / "status"
        os.environ[STATUS_FILE] = str(status_file)
        settings = {
            "min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "rdzv_backend": "c10d",
            "rdzv_endpoint": "localhost:0", "run_id": Path(folder).name, "max_restarts": max_restarts,
            "signals_to_handle": SIGNALS, "shutdown_timeout": SHUTDOWN_SECONDS, "monitor_interval": 0.1,
        }  # fmt: skip
        known = {field.name for field in dataclasses.fields(LaunchConfig)}
        config = LaunchConfig(**{name: value for name, value in settings.items() if name in known})  # type: ignore[arg-type]
        try:
            elastic_launch(config, sys.executable)("-m", "alexnet", *words)
        except SignalException as error:
            return read_status(status_file, 128 + int(error.sigval))
        except ChildFailedError:
            return read_status(status_file, FAILURE)
        except (RuntimeError, OSError, RendezvousError) as error:
            raise UserError(f"cannot start {processes} processes: {str(error).splitlines()[0]}") from error
        finally:
            del os.environ[STATUS_FILE]
        return read_status(status_file, FAILURE)


def read_status(path: Path, otherwise: int) -> int:
    """The exit status in the newest file of :func:`report_status`."""
    found = sorted(path.parent.glob(f"{path.name}-*"), key=lambda file: int(file.name.rpartition("-")[2]))
    try:
        return int(found[-1].read_text(encoding="utf-8")) if found else otherwise
    except (OSError, ValueError):
        return otherwise


def is_launched() -> bool:
    """Whether :func:`launch` has started this process."""
    return STATUS_FILE in os.environ


def report_status(status: int, *, first: bool) -> int:
    """The status with which this process ends: 0 if :func:`launch` has started it and reads the real one in a file.

    ``first``: whether this is the first process, which writes the file; another one writes an error if it is the only
    one.
    """
    if not is_launched():
        return status
    if first or (status and not _status_file().is_file()):
        try:
            _status_file().write_text(str(status), encoding="utf-8")
        except OSError:
            return status
    return 0


def _status_file() -> Path:
    """The file of this attempt: after a restart there is a new one."""
    return Path(f"{os.environ[STATUS_FILE]}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}")


def end_with_parent() -> None:
    """Let the system send SIGTERM to this process when the process that has started it dies, also after SIGKILL.

    The training then writes a checkpoint and ends, and does not continue without the agent. Linux only.
    """
    if not is_launched() or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def has_reported(*, wait: bool) -> bool:
    """Whether a process has written its exit status. The other processes then end too.

    ``wait``: for some seconds, because a process leaves its group before it writes its status.
    """
    end = time.monotonic() + (REPORT_SECONDS if wait else 0)
    while is_launched() and not _status_file().is_file() and time.monotonic() < end:
        time.sleep(0.05)
    return is_launched() and _status_file().is_file()
