"""What a person sees while a command works, on stderr, so that stdout holds results alone.

On a terminal it is a bar (rich); elsewhere a plain line every few seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from alexnet.runtime.log import Reporter

SECONDS_BETWEEN_LINES = 5.0


def make_reporter() -> Reporter:
    """The reporter that suits where stderr goes."""
    return BarReporter() if sys.stderr.isatty() else LineReporter()


def _figures(figures: dict[str, float]) -> str:
    """So short that 80 columns hold them beside a bar."""
    formats = {
        "images_per_second": "{:,.0f}/s", "loss": "loss {:.2f}", "accuracy": "acc {:.2f}", "measured": "{:,.0f} seen",
    }  # fmt: skip
    return "  ".join(formats[name].format(value) for name, value in figures.items())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class LineReporter:
    """Plain lines, not more often than every few seconds."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Name the stage."""
        self._title, self._total, self._first = title, total, done
        self._start = self._last = time.monotonic()
        self.log(title)

    def advance(self, done: int, **figures: float) -> None:
        """A line if the last one is long ago."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        share = f"{done:,}/{self._total:,}" if self._total else f"{done:,}"
        pace = (now - self._start) / max(1, done - self._first)
        left = f"  {_duration(pace * (self._total - done))} left" if self._total else ""
        self.log(f"  {share}  {_figures(figures)}{left}")

    def finish(self) -> None:
        """Nothing to tidy."""

    def log(self, text: str) -> None:
        """A line on stderr."""
        _tell(text)


class BarReporter:
    """A progress bar with time left, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        whole = Column(no_wrap=True, min_width=9)  # what one waits for is seen on any terminal: figures give way
        columns: list[Any] = [
            TextColumn("{task.description}"), BarColumn(bar_width=7), MofNCompleteColumn(table_column=whole.copy()),
            TimeRemainingColumn(table_column=whole.copy()),
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        ]  # fmt: skip
        console = Console(stderr=True, highlight=False)
        self._make: Callable[[], Progress] = lambda: Progress(*columns, console=console, expand=True)
        self._progress: Progress | None = None

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """A new bar."""
        self.finish()
        self._progress = self._make()
        self._task = self._progress.add_task(title, total=total or None, completed=done, figures="")
        self._progress.start()

    def advance(self, done: int, **figures: float) -> None:
        """Move the bar."""
        if self._progress:
            self._progress.update(self._task, completed=done, figures=_figures(figures))

    def finish(self) -> None:
        """Leave the bar as it stands."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def log(self, text: str) -> None:
        """A line above the bar."""
        if self._progress:
            self._progress.console.print(text, markup=False, soft_wrap=True)
        else:
            _tell(text)


def _tell(text: str) -> None:
    """A line on stderr; once nobody reads there any more (``… 2>&1 | head``), work goes on without a word."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
