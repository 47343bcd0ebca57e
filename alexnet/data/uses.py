"""Who uses a prepared dataset: processes that have it open, and trainings that are not finished.

An open dataset holds a shared lock on its ``images.npy``, or on its ``shards.json`` if its images are elsewhere; the
system releases it when the process ends, however it ends. A training also writes its folder into ``runs/`` in the
dataset, because an interrupted one holds no lock. Such a note counts as long as that folder holds the training: its
``run.json`` has the dataset's hash, and it has no ``result.json``. A finished run needs no images, and a run folder
that was removed or moved does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.core.files import TEXT_LIMIT, read_bytes, read_json, remove_folder, write_bytes
from alexnet.core.names import printable
from alexnet.core.platform import check_platform, fcntl

IMAGES, SHARDS = "images.npy", "shards.json"
NOTES = "runs"
ALL_NOTED = ".all-noted"  # in ``runs/``: the dataset was made by a version that notes every training


def hold(descriptor: int) -> None:
    """Lock an open ``images.npy`` or ``shards.json`` for reading, until its descriptor is closed.

    Nothing happens on a file system without locks. It waits while another process removes the dataset.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def start_notes(dataset: Path) -> None:
    """Prepare a new dataset for notes; only one with all its notes may be removed when its source changes."""
    (dataset / NOTES).mkdir()
    (dataset / NOTES / ALL_NOTED).touch()


def has_all_notes(dataset: Path) -> bool:
    """Whether every training that needs the dataset is noted in it; False for one that an earlier version made."""
    return (dataset / NOTES / ALL_NOTED).is_file()


def note_run(dataset: Path, run: Path) -> None:
    """Note in the prepared dataset ``dataset`` that the training in the folder ``run`` needs it. Raises ``OSError``."""
    text = os.fsencode(run.resolve())
    note = dataset / NOTES / hashlib.sha256(text).hexdigest()[:16]
    if not note.exists():
        write_bytes(note, text)


def unfinished_runs(dataset: Path, digest: str) -> list[Path]:
    """The folders of the unfinished trainings that noted that they need the dataset, which has the hash ``digest``."""
    runs = []
    for note in sorted((dataset / NOTES).glob("[!.]*")):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            run = Path(os.fsdecode(read_bytes(note, TEXT_LIMIT)))
            if read_json(run / "run.json").get("data") == digest and not (run / "result.json").exists():
                runs.append(run)
    return runs


def remove_unused(dataset: Path, digest: str | None) -> str:
    """Remove a prepared dataset that nobody uses, and return ""; else change nothing and return who uses it.

    ``digest``: its hash, None if it cannot be read. Raises ``OSError`` if it cannot be removed.
    """
    with _exclusive(_held(dataset)) as alone:
        user = _user(dataset, digest, alone=alone)
        if not user:
            remove_folder(dataset)
        return user


def user_of(dataset: Path, digest: str | None) -> str:
    """Who uses a prepared dataset, "" if nobody does. ``digest``: its hash, None if it cannot be read."""
    with _exclusive(_held(dataset)) as alone:
        return _user(dataset, digest, alone=alone)


def _held(dataset: Path) -> Path:
    """The file of a prepared dataset that an open one locks."""
    return dataset / (SHARDS if (dataset / SHARDS).exists() else IMAGES)


def _user(dataset: Path, digest: str | None, *, alone: bool) -> str:
    if not alone:
        return "a running process uses it"
    runs = unfinished_runs(dataset, digest) if digest else []
    return f"the unfinished training in {printable(str(runs[0]))} needs it" if runs else ""


@contextlib.contextmanager
def _exclusive(file: Path) -> Iterator[bool]:
    """A context in which no other process has the file open with :func:`hold`; yields False if one has.

    False also where it cannot be known: on a file system without locks, and for a file that may not be written (locks
    of network file systems need that). A missing file is open in no process that could still read it.
    """
    check_platform()
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(file.open("r+b"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            yield True
        except OSError:
            yield False
        else:
            yield True
