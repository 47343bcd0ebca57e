"""The error for a user's mistake: a complete first line, then indented details.

Commands print it without a traceback and exit with status 2. It is a ``ValueError``, so that code which calls the
package from Python can catch it without importing this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet.core.names import printable, printable_lines

RUNS = Path("runs")  # the folder of runs that were given no --out
MAX_NAMES = 100  # more names than this are not listed


class UserError(ValueError):
    """A mistake that the user can correct: what is wrong, where, and what to do.

    ``line``: one complete sentence. ``details``: further lines, printed indented below it. Names in them may come from
    outside: characters that cannot be printed are escaped.
    """

    def __init__(self, line: str, details: Iterable[str] = ()) -> None:
        self.line = printable(line)
        self.details = tuple(map(printable_lines, details))
        super().__init__("\n".join([self.line, *(f"  {detail}" for detail in self.details)]))


class DivergedError(UserError):
    """The loss, the gradients or the weights of a training are not finite.

    ``finding``: which of them; ``step``: the first step at which this was so.
    """

    def __init__(self, finding: str, step: int, line: str) -> None:
        super().__init__(line)
        self.finding, self.step = finding, step


class UnreadableError(UserError):
    """A file exists and cannot be read: no permission, or a failing disk. It may be intact: it must not be removed."""


class StoppedError(Exception):
    """A signal stopped a training after its state was saved; ``status`` is the exit status of the process."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(printable(line))
        self.status = status


def one_line(error: BaseException) -> str:
    """Any error as one line: its type and the first line of its message."""
    return printable(f"{type(error).__name__}: {error}".splitlines()[0])


def cannot_read(path: Path | str, error: OSError) -> UnreadableError:
    """The error for a file that exists and cannot be read; see :class:`UnreadableError`."""
    advice = "; ask for permission to read it, or use another copy" if isinstance(error, PermissionError) else ""
    return UnreadableError(f"cannot read {path}: {error.strerror or error}{advice}")


def cannot_write(path: Path | str, error: OSError, advice: str) -> UserError:
    """The error for a file or folder that cannot be written. ``advice``: what to do."""
    return UserError(f"cannot write {path}: {error.strerror or error}; {advice}")


def no_run(folder: Path, otherwise: str) -> UserError:
    """The error for a folder that is not a run folder.

    ``otherwise``: the message if the folder exists. If it does not, the error suggests ``runs/<name>``, or the run
    beside it with the most similar name.
    """
    if folder.exists():
        return UserError(otherwise)
    default = RUNS / folder.name
    if len(folder.parts) == 1 and default.is_dir():
        nearest: Path | None = default
    else:
        beside = {path.parent.name: path.parent for path in folder.parent.glob("*/run.json")}
        names = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.5)
        nearest = beside[names[0]] if names else None
    return UserError(f"{folder} is not a run: {f'did you mean {nearest}?' if nearest else 'there is no such folder'}")


def unknown(kind: str, name: str, known: Iterable[str], meant: Sequence[str] = ()) -> UserError:
    """The error for a name that is not in a table: it suggests the nearest name, or lists all names if none is similar.

    Names are compared without regard to case, and to ``-``, ``_``, ``.`` and spaces. ``meant``: suggestions for this
    name in place of the nearest.
    """
    names = sorted(known)
    nearest = list(meant) or difflib.get_close_matches(name, names, n=1, cutoff=0.5) or _nearest_simplified(name, names)
    if nearest:
        return UserError(f"unknown {kind} {name!r}: did you mean {' or '.join(map(repr, nearest))}?")
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(names[:MAX_NAMES])}{more}")


def _nearest_simplified(name: str, names: Sequence[str]) -> list[str]:
    simplified = {simplify(each): each for each in names}
    return [simplified[key] for key in difflib.get_close_matches(simplify(name), simplified, n=1, cutoff=0.5)]


def simplify(name: str) -> str:
    """The name in small letters, without ``-``, ``_``, ``.`` and spaces."""
    return name.lower().translate(dict.fromkeys(map(ord, "-_. ")))
