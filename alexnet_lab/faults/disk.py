"""Disks that refuse: full after so many bytes, an error at any request, read-only. The last good checkpoint stands.

A full disk is a real one: a small file system in memory, mounted in a name space of this process's own, where the
system allows that (``unshare -Urm``); beside it the system's limit on the size of one file, which any process may set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from alexnet.runtime.checkpoint import list_checkpoints, load_checkpoint
from alexnet_lab.faults.numbered import newest_numbered, save_numbered
from alexnet_lab.faults.trial import Child, Tally

STEP = 64 * 1024
CALLS = ("os.fsync", "os.rename", "os.mkdir")
BYTES = 1024 * 1024  # of a checkpoint's tensors, about
FLOATS = BYTES // 4
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
APART = ("unshare", "-Urm", "sh", "-c", MOUNT, "sh")


def fill_up(folder: Path) -> Tally:
    """Saves on a disk with room for 0, 64, 128 … KiB: refused or done, and what was there is whole."""
    tally = Tally("the disk is full at every 64 KiB of a save")
    save_numbered(folder, 1, FLOATS)
    ballast = folder / "ballast"
    room = BYTES + 4 * STEP
    for free in range(0, room, STEP):
        shutil.rmtree(folder / "step-00000002", ignore_errors=True)
        _leave_free(ballast, free)
        refused = _refused(lambda: save_numbered(folder, 2, FLOATS))
        ballast.unlink()
        _judge(tally, folder, refused, f"{free // 1024} KiB free", must_refuse=free < BYTES)
    return tally


def _leave_free(ballast: Path, free: int) -> None:
    """Fill the file system that a file lies in but for so many bytes."""
    place = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, place.f_bavail * place.f_bsize - free))


def limit_files(folder: Path) -> Tally:
    """Saves by a process whose files may have 0, 64, 128 … KiB."""
    tally = Tally("a file may grow by no more than every 64 KiB of a save")
    save_numbered(folder, 1, FLOATS)
    for most in range(0, BYTES + 4 * STEP, STEP):
        shutil.rmtree(folder / "step-00000002", ignore_errors=True)

        def save(tell: Callable[[int], None], most: int = most) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            return int(_refused(lambda: save_numbered(folder, 2, FLOATS)))

        status, _ = Child(save).wait()
        _judge(tally, folder, status == 1, f"files of {most // 1024} KiB", must_refuse=most < BYTES)
    return tally


def fail_calls(folder: Path) -> Tally:
    """Saves in which the first, second … request of one kind to the disk ends with an input/output error."""
    tally = Tally("an input/output error at every request of a save")
    save_numbered(folder, 1, FLOATS)
    for name in CALLS:
        for number in range(1, 100):
            shutil.rmtree(folder / "step-00000002", ignore_errors=True)
            with _failing(name, number) as calls:
                refused = _refused(lambda: save_numbered(folder, 2, FLOATS))
            if len(calls) < number:
                break
            # one that is refused is no matter where the folder is there already
            _judge(tally, folder, refused, f"{name} {number}", must_refuse=name != "os.mkdir")
    tally.remark = ", ".join(name.removeprefix("os.") for name in CALLS)
    return tally


@contextlib.contextmanager
def _failing(name: str, number: int) -> Iterator[list[None]]:
    """A context in which the ``number``-th call of a function of ``os`` fails; yields a list as long as the calls."""
    calls: list[None] = []
    real: Callable[..., object] = getattr(os, name.removeprefix("os."))

    def call(*given: object, **more: object) -> object:
        calls.append(None)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*given, **more)

    with mock.patch(name, call):
        yield calls


def forbid_writing(folder: Path) -> Tally:
    """A save into a folder of a file system that was mounted read-only."""
    tally = Tally("a read-only file system")
    save_numbered(folder, 1, FLOATS)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    refused = _refused(lambda: save_numbered(folder, 2, FLOATS))
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    _judge(tally, folder, refused, "read-only", must_refuse=True)
    return tally


def _judge(tally: Tally, folder: Path, refused: bool, where: str, *, must_refuse: bool) -> None:
    """After a save of step 2, which ``must_refuse`` says cannot have come to its end unnoticed.

    Step 1 stands unless step 2 is whole, and the next save leaves nothing unfinished. (A save may be refused and whole:
    when all of it was there and only the last request to the disk failed.)
    """
    newest, intact, complaints = newest_numbered(folder)
    whole = intact and newest in ((1, 2) if refused else (2,)) and not complaints
    whole = (
        whole and (refused or not must_refuse) and (newest == 2 or load_checkpoint(folder / "step-00000001").step == 1)
    )
    save_numbered(folder, 3, FLOATS)
    left = sorted(path.name for path in folder.iterdir() if path not in list_checkpoints(folder))
    shutil.rmtree(folder / "step-00000003")
    if not (folder / "step-00000001").exists():
        save_numbered(folder, 1, FLOATS)
    tally.count(
        survived=whole and not left,
        otherwise=f"{where}: {'refused' if refused else 'done'}, found {newest}, {complaints}, left {left}",
    )


def _refused(save: Callable[[], None]) -> bool:
    try:
        save()
    except OSError:
        return True
    return False


def no_small_disk(folder: Path) -> str:
    """Why this system mounts no disk of our own; empty if it does."""
    command = [*APART, "4m", str(folder), "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return (done.stderr.strip() or "no word").splitlines()[-1] if done.returncode else ""


def on_a_small_disk(name: str, folder: Path) -> list[str]:
    """The command that tries ``name`` of this package on a file system of 4 MiB, mounted at ``folder`` for it alone."""
    here = [sys.executable, "-m", "alexnet_lab.faults", name, "--folder", str(folder), "--json"]
    return [*APART, "4m", str(folder), *here]
