"""The progress display of commands and functions, on stderr, so that stdout holds results only.

On a terminal and in a notebook it is a bar (rich; in a notebook rich needs ipywidgets). Elsewhere it is a plain line
every few seconds.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from alexnet.core.names import printable_lines
from alexnet.runtime.log import NullReporter, Reporter

SECONDS_BETWEEN_LINES = 5.0


def make_reporter(progress: bool | None = None) -> Reporter:
    """A reporter for progress and messages.

    ``progress``: None or True shows them in the form that fits: a bar if stderr is a terminal or the code runs in a
    notebook with ipywidgets, else plain lines. False shows nothing.
    """
    if progress is False:
        return NullReporter()
    return BarReporter() if sys.stderr.isatty() or _notebook_with_widgets() else LineReporter()


def _notebook_with_widgets() -> bool:
    """Whether this code runs in the kernel of a notebook that can show rich's bar. Does not import IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    has_kernel = getattr(shell, "kernel", None) is not None  # the ipython command has a shell without a kernel
    return has_kernel and importlib.util.find_spec("ipywidgets") is not None


def _format_figures(figures: dict[str, float]) -> str:
    """The figures as text, short enough for a line of 80 columns with a bar."""
    formats = {
        "images_per_second": "{:,.0f}/s",
        "loss": "loss {:.2f}",
        "accuracy": "acc {:.2f}",
        "measured": "{:,.0f} evaluated",
    }
    return "  ".join(formats[name].format(value) for name, value in figures.items())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class LineReporter:
    """Plain lines on stderr, at most one every ``SECONDS_BETWEEN_LINES``."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Write the title of the stage."""
        self._title, self._total, self._first = title, total, done
        self._start = self._last = time.monotonic()
        self.log(title)

    def advance(self, done: int, **figures: float) -> None:
        """Write a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        count = f"{done:,}/{self._total:,}" if self._total else f"{done:,}"
        seconds_each = (now - self._start) / max(1, done - self._first)
        left = f"  {_duration(seconds_each * (self._total - done))} left" if self._total else ""
        self.log(f"  {count}  {_format_figures(figures)}{left}")

    def finish(self) -> None:
        """Write nothing."""

    def log(self, text: str) -> None:
        """Write a line."""
        _print_line(text)


class BarReporter:
    """A progress bar with the time left, on a terminal or in a notebook."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        complete = Column(no_wrap=True, min_width=9)  # on a narrow terminal the figures are shortened, not the count
        columns: list[Any] = [
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=7),
            MofNCompleteColumn(table_column=complete.copy()), TimeRemainingColumn(table_column=complete.copy()),
            TextColumn("{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        ]  # fmt: skip
        console = Console(stderr=True, highlight=False)
        # Results on stdout are printed above the bar; if stdout is a file, they go to that file and nowhere else.
        self._make: Callable[[], Progress] = lambda: Progress(
            *columns, console=console, expand=True, redirect_stdout=sys.stdout.isatty()
        )
        self._progress: Progress | None = None

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Start a new bar."""
        self.finish()
        self._progress = self._make()
        self._task = self._progress.add_task(printable_lines(title), total=total or None, completed=done, figures="")
        self._progress.start()

    def advance(self, done: int, **figures: float) -> None:
        """Move the bar."""
        if self._progress:
            self._progress.update(self._task, completed=done, figures=_format_figures(figures))

    def finish(self) -> None:
        """Stop the bar; it stays visible."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def log(self, text: str) -> None:
        """Write a line above the bar."""
        if self._progress:
            self._progress.console.print(printable_lines(text), markup=False, soft_wrap=True)
        else:
            _print_line(text)


def _print_line(text: str) -> None:
    """Write a line to stderr. If its reader has exited (``… 2>&1 | head``), later lines are dropped silently."""
    try:
        print(printable_lines(text), file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
