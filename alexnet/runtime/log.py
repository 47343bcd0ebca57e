"""Two records of a run, and what someone who watches it is told.

``metrics.jsonl`` holds only functions of the training's state, so that an interrupted run's equals an uninterrupted
one's; ``events.jsonl`` holds the clock: rates, resumes, warnings. Neither is read to continue: a checkpoint remembers
how long the metrics were, and resuming cuts them there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from alexnet.core.errors import UserError


class Reporter(Protocol):
    """Someone who watches. All methods are called from the training's own thread."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """A stage of ``total`` units (images, steps) starts, ``done`` of them finished earlier."""

    def advance(self, done: int, **figures: float) -> None:
        """``done`` units are finished; ``figures`` are worth showing: loss, accuracy, images_per_second, measured."""

    def finish(self) -> None:
        """The stage is over."""

    def log(self, text: str) -> None:
        """A sentence worth a line of its own."""


class NullReporter:
    """Nobody watches."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Ignore it."""

    def advance(self, done: int, **figures: float) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""

    def log(self, text: str) -> None:
        """Ignore it."""


@contextlib.contextmanager
def stage(reporter: Reporter, title: str, total: int, done: int = 0) -> Iterator[None]:
    """A stage as a context: it is over however the work inside ends, so that no bar is left on a terminal."""
    reporter.begin(title, total, done)
    try:
        yield
    finally:
        reporter.finish()


class Clock:
    """The seconds of all sittings, and images a second since the last restart: pauses between epochs do not count."""

    def __init__(self, earlier: float) -> None:
        self._began = time.monotonic() - earlier
        self.restart()

    def restart(self) -> None:
        """Count images from nothing."""
        self._start, self._images = time.monotonic(), 0
        self._lap_start, self._lap_images = self._start, 0

    def count(self, images: int) -> None:
        """So many more images are done."""
        self._images += images

    @property
    def total(self) -> float:
        """Seconds, those of earlier sittings included."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Images a second, since the last restart."""
        return self._images / max(1e-9, time.monotonic() - self._start)

    def lap(self) -> float:
        """Images a second since the last lap or restart, whichever was later; a new lap begins."""
        now = time.monotonic()
        rate = (self._images - self._lap_images) / max(1e-9, now - self._lap_start)
        self._lap_start, self._lap_images = now, self._images
        return rate


class RunLog:
    """The two JSONL files of a run folder, opened to append; a context. Raises ``UserError`` if the disk refuses."""

    def __init__(self, folder: Path) -> None:
        try:
            with contextlib.ExitStack() as opened:
                self._events = opened.enter_context(_Lines(folder / "events.jsonl"))
                self._metrics = opened.enter_context(_Lines(folder / "metrics.jsonl"))
                self._opened = opened.pop_all()
        except OSError as error:
            raise UserError(f"cannot write the logs in {folder}: {error.strerror or error}") from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def metrics(self, **values: Any) -> None:
        """One line of figures that depend on nothing but the state."""
        self._metrics.add(values)

    def event(self, kind: str, **values: Any) -> None:
        """One line of what happened, with the time."""
        self._events.add({"time": round(time.time(), 3), "event": kind, **values})

    def mark(self) -> int:
        """How many bytes of metrics there are, all of them on the disk. Raises ``OSError`` if it refuses some."""
        return self._metrics.sync()

    def cut(self, mark: int) -> bool:
        """Forget the metrics after ``mark``; False if fewer than that are left (someone shortened the file)."""
        return self._metrics.cut(mark)


class _Lines:
    """A file that grows by lines. What a full disk refuses is kept and tried again with the next line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, values: dict[str, Any]) -> None:
        self._pending += (json.dumps(values, ensure_ascii=False) + "\n").encode()
        with contextlib.suppress(OSError):
            self._write()

    def sync(self) -> int:
        self._write()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, mark: int) -> bool:
        whole = self._file.seek(0, os.SEEK_END) >= mark
        if whole:
            self._file.truncate(mark)
            self._file.seek(mark)
        return whole

    def _write(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; those that are cut short or damaged are left out."""
    lines = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]
