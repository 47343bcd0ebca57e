"""The two logs of a run, and the interface for showing progress.

``metrics.jsonl`` holds only functions of the training's state, so an interrupted and resumed run writes the same file
as an uninterrupted one. ``events.jsonl`` holds what depends on time: images per second, resumes, warnings. Resuming
reads neither: a checkpoint holds the length of the metrics file, which is then truncated to it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from alexnet.core.errors import UserError
from alexnet.core.files import check_place, json_text, read_bytes, write_bytes

WAITING_SECONDS, WAITING_SHARE = 1.0, 0.05  # a wait for images is shown from these seconds and this share on


class Reporter(Protocol):
    """The interface for showing progress. All methods are called from the thread that does the work."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Start a stage of ``total`` units (images, steps), 0 if unknown; ``done`` of them were finished earlier."""

    def advance(self, done: int, **figures: float) -> None:
        """``done`` units are finished; ``figures``: ``loss``, ``accuracy``, ``images_per_second`` or ``measured``."""

    def finish(self) -> None:
        """End the stage."""

    def log(self, text: str) -> None:
        """Show a message on its own line."""


class NullReporter:
    """A reporter that shows nothing."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Show nothing."""

    def advance(self, done: int, **figures: float) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""

    def log(self, text: str) -> None:
        """Show nothing."""


@contextlib.contextmanager
def stage(reporter: Reporter, title: str, total: int, done: int = 0) -> Iterator[None]:
    """A stage as a context: it ends also if the work inside raises, so that no progress bar stays on a terminal."""
    reporter.begin(title, total, done)
    try:
        yield
    finally:
        reporter.finish()


class Clock:
    """The duration of a training in seconds, and its images per second since the last restart of the count.

    ``earlier``: seconds of training before it was resumed. Restarting after each pause keeps pauses out of the rate.
    """

    def __init__(self, earlier: float) -> None:
        self._began = time.monotonic() - earlier
        self.restart()

    def restart(self) -> None:
        """Count images from 0."""
        self._start, self._images = time.monotonic(), 0
        self._lap_start, self._lap_images = self._start, 0

    def count(self, images: int) -> None:
        """Add ``images`` to the count."""
        self._images += images

    @property
    def elapsed(self) -> float:
        """Seconds since the last restart."""
        return time.monotonic() - self._start

    @property
    def total(self) -> float:
        """Seconds of training, including those before it was resumed."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Images per second since the last restart."""
        return self._images / max(1e-9, self.elapsed)

    def lap(self) -> float:
        """Images per second since the last call or restart, whichever was later."""
        now = time.monotonic()
        rate = (self._images - self._lap_images) / max(1e-9, now - self._lap_start)
        self._lap_start, self._lap_images = now, self._images
        return rate


def describe_waiting(seconds: float, waited: float) -> list[str]:
    """A line on a training of so many ``seconds`` that ``waited`` for images; none if the wait was short."""
    if waited < max(WAITING_SECONDS, WAITING_SHARE * seconds):
        return []
    return [f"waiting for images {waited / seconds:.0%} of the time"]


class RunLog:
    """The two JSONL files of a run folder, opened to append; a context. Raises ``UserError`` if they cannot be opened.

    Writing a line never raises an error: if the disk is full, the line is written together with a later one.
    """

    def __init__(self, folder: Path) -> None:
        check_place(folder)
        try:
            with contextlib.ExitStack() as stack:
                self._events = stack.enter_context(_Lines(folder / "events.jsonl"))
                self._metrics = stack.enter_context(_Lines(folder / "metrics.jsonl"))
                check_place(folder)  # again: now both files are known to be in the folder that this process has locked
                self._opened = stack.pop_all()
        except OSError as error:
            reason = "it is a link: remove it" if error.errno == errno.ELOOP else error.strerror or error
            raise UserError(f"cannot write the log {error.filename or folder}: {reason}") from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def metrics(self, **values: Any) -> None:
        """Write one line of values that depend only on the training's state."""
        self._metrics.add(values)

    def event(self, kind: str, **values: Any) -> None:
        """Write one line about an event, with the time in seconds since 1970."""
        self._events.add({"time": round(time.time(), 3), "event": kind, **values})

    def mark(self) -> int:
        """The length of the metrics file in bytes, after a sync to disk. Raises ``OSError`` if it cannot be written."""
        return self._metrics.sync()

    def cut(self, mark: int) -> bool:
        """Truncate the metrics file to ``mark`` bytes; False, and no change, if it is shorter than that."""
        return self._metrics.cut(mark)


class NullLog(RunLog):
    """Logs of a process that writes none; its methods do nothing."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()

    def metrics(self, **values: Any) -> None:
        """Write nothing."""

    def event(self, kind: str, **values: Any) -> None:
        """Write nothing."""

    def mark(self) -> int:
        """Return 0."""
        return 0

    def cut(self, mark: int) -> bool:
        """Return True."""
        return True


class _Lines:
    """A file to which lines are appended. A line that cannot be written is kept and written with the next one."""

    def __init__(self, path: Path) -> None:
        self._file = open_to_append(path)
        self._pending = b""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, values: dict[str, Any]) -> None:
        self._pending += (json_text(values) + "\n").encode()
        with contextlib.suppress(OSError):
            self._write()

    def sync(self) -> int:
        self._write()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, mark: int) -> bool:
        long_enough = self._file.seek(0, os.SEEK_END) >= mark
        if long_enough:
            self._file.truncate(mark)
            self._file.seek(mark)
        return long_enough

    def _write(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]


def open_to_append(path: Path) -> io.FileIO:
    """Open a file to append bytes, unbuffered; it is created if it does not exist.

    A link is not followed: its target may be any file of the user. A file that another folder holds too, as in a copy
    by hard links, is copied first, so that the other one stays as it is. Raises ``OSError`` for a link, a folder, a
    device, and a file that cannot be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    file = io.FileIO(handle, "ab")
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if status.st_nlink == 1:
        return file
    with file:
        write_bytes(path, path.read_bytes())
    return open_to_append(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a JSONL file, without truncated or damaged lines. Raises ``OSError``."""
    lines = []
    for line in read_bytes(path).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]
