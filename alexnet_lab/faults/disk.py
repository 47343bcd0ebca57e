"""Disks with errors: full, read-only, files of limited size. The last good checkpoint stays.

The full disk is a small file system in memory, mounted in a mount namespace of its own, if the system allows that
(``unshare -Urm``). Another trial limits the size of a file, which any process may do.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from alexnet.runtime.checkpoint import list_checkpoints, load_checkpoint
from alexnet_lab.faults.numbered import newest_numbered, save_numbered
from alexnet_lab.faults.trial import Child, FaultResult

STEP = 64 * 1024
BYTES = 1024 * 1024  # of a checkpoint's tensors, about
FLOATS = BYTES // 4
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
APART = ("unshare", "-Urm", "sh", "-c", MOUNT, "sh")


def fill_disk(folder: Path) -> FaultResult:
    """Saves on a disk with 0, 64, 128 … KiB of free space: each fails or is whole, and the old checkpoint stays."""
    result = FaultResult("disk full at every 64 KiB of a save")
    save_numbered(folder, 1, FLOATS)
    filler = folder / "filler"
    room = BYTES + 4 * STEP
    for free in range(0, room, STEP):
        shutil.rmtree(folder / "step-00000002", ignore_errors=True)
        _leave_free(filler, free)
        failed = _fails(lambda: save_numbered(folder, 2, FLOATS))
        filler.unlink()
        _count(result, folder, failed, f"{free // 1024} KiB free", must_fail=free < BYTES)
    return result


def _leave_free(filler: Path, free: int) -> None:
    """Write ``filler`` so large that ``free`` bytes are left on its file system."""
    place = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, place.f_bavail * place.f_bsize - free))


def limit_files(folder: Path) -> FaultResult:
    """Saves by a process whose files are limited to 0, 64, 128 … KiB."""
    result = FaultResult("file size limit at every 64 KiB of a save")
    save_numbered(folder, 1, FLOATS)
    for most in range(0, BYTES + 4 * STEP, STEP):
        shutil.rmtree(folder / "step-00000002", ignore_errors=True)

        def save(send: Callable[[int], None], most: int = most) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            return int(_fails(lambda: save_numbered(folder, 2, FLOATS)))

        status, _ = Child(save).wait()
        _count(result, folder, status == 1, f"files of {most // 1024} KiB", must_fail=most < BYTES)
    return result


def make_read_only(folder: Path) -> FaultResult:
    """A save on a file system that is mounted read-only."""
    result = FaultResult("read-only file system")
    save_numbered(folder, 1, FLOATS)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    failed = _fails(lambda: save_numbered(folder, 2, FLOATS))
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    _count(result, folder, failed, "read-only", must_fail=True)
    return result


def _count(result: FaultResult, folder: Path, failed: bool, where: str, *, must_fail: bool) -> None:
    fault = check_save(folder, failed, must_fail=must_fail, floats=FLOATS)
    result.count(passed=not fault, failure=f"{where}: {fault}")


def check_save(folder: Path, failed: bool, *, must_fail: bool, floats: int) -> str:
    """What is wrong in a folder after a save of step 2; "" if nothing is. ``must_fail``: it must have raised an error.

    Step 1 is there unless step 2 is whole, and the next save leaves nothing incomplete. A save may raise an error and
    still be complete, if only the last system call failed. Afterwards step 1 is there again; ``floats``: its number of
    values.
    """
    newest, intact, messages = newest_numbered(folder)
    whole = intact and newest in ((1, 2) if failed else (2,)) and not messages
    whole = whole and (failed or not must_fail) and (newest == 2 or load_checkpoint(folder / "step-00000001").step == 1)
    save_numbered(folder, 3, floats)
    left = sorted(path.name for path in folder.iterdir() if path not in list_checkpoints(folder))
    shutil.rmtree(folder / "step-00000003")
    if not (folder / "step-00000001").exists():
        save_numbered(folder, 1, floats)
    if whole and not left:
        return ""
    return f"{'failed' if failed else 'saved'}, found {newest}, {messages}, left {left}"


def _fails(save: Callable[[], None]) -> bool:
    try:
        save()
    except OSError:
        return True
    return False


def no_small_disk(folder: Path) -> str:
    """Why this system does not mount a small disk; empty if it does."""
    command = [*APART, "4m", str(folder), "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return (done.stderr.strip() or "no message").splitlines()[-1] if done.returncode else ""


def on_a_small_disk(name: str, folder: Path) -> list[str]:
    """The command that runs the trials of ``name`` on a file system of 4 MiB, mounted at ``folder`` in a namespace."""
    here = [sys.executable, "-m", "alexnet_lab.faults", name, "--folder", str(folder), "--json"]
    return [*APART, "4m", str(folder), *here]
