"""Two records of a run, and what someone who watches it is told.

``metrics.jsonl`` holds only functions of the training's state, so that an interrupted run's equals an uninterrupted
one's; ``events.jsonl`` holds the clock: rates, resumes, warnings. Neither is read to continue: a checkpoint remembers
how long the metrics were, and resuming cuts them there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """Someone who watches. All methods are called from the training's own thread."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """A stage of ``total`` units (images, steps) starts, ``done`` of them finished earlier."""

    def advance(self, done: int, **figures: float) -> None:
        """``done`` units are finished; ``figures`` are worth showing, e.g. loss, accuracy, images_per_second."""

    def finish(self) -> None:
        """The stage is over."""

    def say(self, text: str) -> None:
        """A sentence worth a line of its own."""


class Silent:
    """Nobody watches."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Ignore it."""

    def advance(self, done: int, **figures: float) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""


class RunLog:
    """The two JSONL files of a run folder, opened to append; use as a context."""

    def __init__(self, folder: Path) -> None:
        self._metrics = (folder / "metrics.jsonl").open("ab")
        self._events = (folder / "events.jsonl").open("ab")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        self._events.close()

    def metrics(self, **values: Any) -> None:
        """One line of figures that depend on nothing but the state."""
        self._metrics.write(_line(values))
        self._metrics.flush()

    def event(self, kind: str, **values: Any) -> None:
        """One line of what happened, with the time."""
        self._events.write(_line({"time": round(time.time(), 3), "event": kind, **values}))
        self._events.flush()

    def mark(self) -> int:
        """How many bytes of metrics there are, all of them on the disk."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def cut(self, mark: int) -> bool:
        """Forget the metrics after ``mark``; False if fewer than that are left (someone shortened the file)."""
        whole = self._metrics.seek(0, os.SEEK_END) >= mark
        if whole:
            self._metrics.truncate(mark)
            self._metrics.seek(mark)
        return whole


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; a last line that was cut short is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
