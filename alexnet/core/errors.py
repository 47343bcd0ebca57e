"""The one error that a user's mistake becomes: a complete first line, then indented detail.

Commands print it without a traceback and leave with status 2. It is a ``ValueError``, so that people who
call the package from Python can catch it without importing this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

RUNS = Path("runs")  # where trainings go that were given no other place
MOST_IN_A_LINE = 12  # names that a person reads in one line
MOST_IN_ALL = 100  # of a thousand classes the rest is left out


class UserError(ValueError):
    """What went wrong, where, and what to do about it.

    ``line`` is complete in itself; ``details`` are further lines, printed indented below it.
    """

    def __init__(self, line: str, details: Iterable[str] = ()) -> None:
        self.line = line
        self.details = tuple(details)
        super().__init__("\n".join([line, *(f"  {detail}" for detail in self.details)]))


class DivergedError(UserError):
    """A training's loss, gradients or weights are no longer finite; ``finding`` says which, and ``step`` since when."""

    def __init__(self, finding: str, step: int, line: str) -> None:
        super().__init__(line)
        self.finding, self.step = finding, step


class StoppedError(Exception):
    """A signal asked the work to stop, and its state is in safety; ``status`` is the exit status to leave with."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


def one_line(error: BaseException) -> str:
    """An error of any kind as one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def no_run(folder: Path, otherwise: str) -> UserError:
    """The error for a run that is not there: it names the one where trainings go by default, if that is."""
    if folder.exists():
        return UserError(otherwise)
    usual = RUNS / folder.name
    meant = len(folder.parts) == 1 and usual.is_dir()
    return UserError(f"{folder} is no run: {f'did you mean {usual}?' if meant else 'there is no such folder'}")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: it names the nearest one, or all of them where nothing is near."""
    names = sorted(known)
    more = f" and {len(names) - MOST_IN_ALL:,} more" if len(names) > MOST_IN_ALL else ""
    details = [f"known: {', '.join(names[:MOST_IN_ALL])}{more}"]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if nearest:
        return UserError(f"unknown {kind} {name!r}: did you mean {nearest[0]!r}?", details)
    if len(names) > MOST_IN_A_LINE:
        return UserError(f"unknown {kind} {name!r}, and none is near it", details)
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(names)}")
