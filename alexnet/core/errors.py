"""The error for a user's mistake: a complete first line, then indented details.

Commands print it without a traceback and exit with status 2. It is a ``ValueError``, so that code which calls the
package from Python can catch it without importing this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alexnet.core.names import NO_ALIASES, either, nearest, printable, printable_lines

RUNS = Path("runs")  # the folder of runs that were given no --out
MAX_NAMES = 100  # more names than this are not listed
SIMILAR_FILE = 0.8  # of the name of a file beside a wrong path, which is then suggested


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


class ConnectionLostError(Exception):
    """Another process of the same training has ended, or does not answer."""


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
    """The error for a path that is no run folder, and no MODEL where a command takes one.

    ``otherwise``: the message if there is something at the path. If there is nothing, the error suggests
    ``runs/<name>``, or the run or file beside it with the most similar name.
    """
    if not is_absent(folder):
        return UserError(otherwise)
    meant = _path_meant(folder)
    return UserError(f"there is no file or folder {folder}{f': did you mean {meant}?' if meant else ''}")


def is_absent(path: Path | str) -> bool:
    """Whether nothing is at a path; False if that cannot be known, such as in a folder that cannot be read."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no path can have
        return True
    except OSError:
        return False
    return False


def _path_meant(path: Path) -> Path | None:
    """The run or file that a wrong path may mean."""
    try:
        if len(path.parts) == 1 and (RUNS / path.name).is_dir():
            return RUNS / path.name
        beside = [each for each in path.parent.iterdir() if not each.name.startswith(".")]
        runs = {each.name: each for each in beside if (each / "run.json").is_file()}
        files = {each.name: each for each in beside if each.is_file()}
    except (OSError, ValueError):
        return None
    found = nearest(path.name, runs) or nearest(path.name, files, cutoff=SIMILAR_FILE)
    return {**files, **runs}[found[0]] if found else None


def unknown(kind: str, name: str, known: Iterable[str], aliases: Mapping[str, Sequence[str]] = NO_ALIASES) -> UserError:
    """The error for a name that is not in a table: it suggests the nearest name, or lists all names if none is similar.

    ``aliases``: other spellings → the names of the table that they mean, see :func:`~alexnet.core.names.nearest`.
    """
    names = sorted(known)
    if meant := nearest(name, names, aliases):
        return UserError(f"unknown {kind} {name!r}: did you mean {either([*map(repr, meant)])}?")
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return UserError(f"unknown {kind} {name!r}: choose one of {', '.join(names[:MAX_NAMES])}{more}")
