"""Run a library that reads or writes foreign files in a process of its own, with limits on memory and time.

HDF5 and MATLAB files are read by large C libraries. A damaged file may make them crash, hang or ask for all memory. In
a child process this costs one line: the child ends, and the caller gets a ``UserError``. The child's address space and
processor time are limited before it opens the file (``setrlimit(2)``). It gives arrays back as ``.npy`` files in a
temporary folder, which are mapped, and all other results as JSON. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError, one_line
from alexnet.core.files import read_json, size_in_words, write_json
from alexnet.core.names import printable

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_FACTOR, MEMORY_EXTRA = 4, 64 << 20
"""A reader may use this many times the size of the file, and this many bytes more."""
COPIES = 2
"""The arrays of a reader are copied into the layouts of PyTorch, so they may use this part of these bytes only."""
SECONDS, BYTES_PER_SECOND = 60, 20 << 20
"""A child may run this long, and a second more for this many bytes of the file."""
START = 30  # seconds in which a child may start and wait for a busy processor, besides twice its processor time
MAX_ARRAYS = 10_000
REQUEST, RESULT = "request.json", "result.json"
NO_LIBRARY, NO_SPACE = 71, 72
"""Exit statuses of a child: a module cannot be imported; there is no space for its result."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


DAMAGE = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError, RuntimeError,
)  # fmt: skip
"""What the code that interprets a child's result raises for a damaged file."""


@contextlib.contextmanager
def errors_name(path: Path, mean: Path | None = None) -> Iterator[None]:
    """Put the name of the file before each ``UserError`` that names neither it nor the file of its mean image."""
    shown = printable(str(path))
    try:
        yield
    except UserError as error:
        files = [re.escape(printable(str(file))) for file in (path, mean) if file is not None]
        if re.search(rf"(?<!\S)(?:{'|'.join(files)})(?![^\s:;,])", error.line):
            raise
        raise type(error)(f"{shown}: {error.line}", error.details) from error


@contextlib.contextmanager
def damage_is(line: str) -> Iterator[None]:
    """Raise ``UserError`` with this line in place of an error of ``DAMAGE``; other ``UserError`` pass."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(line, [one_line(error)]) from error


@dataclass
class Exchange:
    """What a function in a child receives besides the file, and what it gives back.

    ``folder``: for temporary files; it is removed afterwards. ``arguments``: a JSON value from the caller. ``limit``:
    the most bytes of all arrays that :meth:`add` takes.
    """

    folder: Path
    arguments: Any
    limit: int
    names: list[str] = field(default_factory=list)
    size: int = 0

    def check(self, count: int) -> None:
        """Raise ``UserError`` if ``count`` bytes more are over the limit; to be called before they are read."""
        if self.size + count > self.limit or len(self.names) >= MAX_ARRAYS:
            raise UserError(f"holds arrays of more than {size_in_words(self.limit)}, too much for its size")

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Give an array of numbers back under ``name``. Raises ``UserError`` for more than the limit."""
        self.check(array.nbytes)
        if array.dtype.kind not in "fiub":
            raise UserError(f"{printable(name)} does not hold numbers but {printable(str(array.dtype))}")
        _save(self.folder / f"out-{len(self.names)}.npy", array)
        self.names.append(name)
        self.size += array.nbytes

    def inputs(self) -> dict[str, NDArray[Any]]:
        """The caller's tensors by name, mapped."""
        given: list[str] = json.loads((self.folder / REQUEST).read_text())["tensors"]
        return {
            name: np.load(self.folder / f"in-{place}.npy", mmap_mode="r", allow_pickle=False)
            for place, name in enumerate(given)
        }


def call(
    function: str,
    path: Path,
    arguments: object = None,
    tensors: Mapping[str, Tensor] | None = None,
    environment: Mapping[str, str] | None = None,
    memory: int | None = 0,
    seconds: int = 0,
) -> tuple[dict[str, Tensor], Any]:
    """Run ``function(path, exchange)`` in a child process: (the tensors that it gives, the JSON value that it returns).

    ``function``: ``"module:name"``, of this program. ``tensors``: what it gets as ``exchange.inputs()``.
    ``environment``: variables for the child. ``memory``: bytes that it may use besides those for its libraries; 0 for
    ``MEMORY_FACTOR`` × the file + ``MEMORY_EXTRA``, None for no limit. ``seconds``: of processor time; 0 for
    ``SECONDS`` and more for a large file. The tensors are mapped from files that are already removed; writing to them
    changes no file.

    Raises ``UserError``: with the line of a ``UserError`` in the child, if it crashes, runs too long or needs too much
    memory, and if a library cannot be imported or there is no space for temporary files.
    """
    shown = printable(str(path))
    try:
        return _call(function, path, arguments, tensors or {}, environment or {}, memory, seconds)
    except OSError as error:  # of the temporary folder: nothing else is written here
        raise UserError(_no_space(shown, error.strerror or str(error))) from error


def _call(
    function: str,
    path: Path,
    arguments: object,
    tensors: Mapping[str, Tensor],
    environment: Mapping[str, str],
    memory: int | None,
    seconds: int,
) -> tuple[dict[str, Tensor], Any]:
    size = path.stat().st_size if path.exists() else 0
    memory = MEMORY_FACTOR * size + MEMORY_EXTRA if memory == 0 else memory
    seconds = seconds or SECONDS + size // BYTES_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="alexnet-") as name:
        folder = Path(name)
        for place, tensor in enumerate(tensors.values()):
            _save(folder / f"in-{place}.npy", tensor.detach().cpu().numpy())
        request = {"function": function, "path": os.fsencode(path).hex(), "arguments": arguments, "memory": memory,
                   "seconds": seconds, "tensors": list(tensors)}  # fmt: skip
        write_json(folder / REQUEST, request)
        status = _run(folder, seconds, environment)
        shown = printable(str(path))
        if status == NO_SPACE:
            raise UserError(_no_space(shown, os.strerror(errno.ENOSPC)))
        if status == NO_LIBRARY:
            raise UserError(f"{shown} cannot be used: a library that reads or writes it cannot be imported")
        if isinstance(status, str) or not (folder / RESULT).is_file():
            how = status if isinstance(status, str) else _death(status)
            raise UserError(f"{shown} cannot be used: the process that opened it {how}; the file may be damaged")
        result = read_json(folder / RESULT)
        if "error" in result:
            raise UserError(f"{shown} {result['error']}", result["details"])
        return _tensors(folder, result["names"]), result["value"]


def _no_space(shown: str, why: str) -> str:
    return (
        f"{shown} cannot be used: writing temporary files failed ({why}); free space, or set TMPDIR to another folder"
    )


class _Writer:
    """A file for NumPy that is none of Python's own: for those it writes past Python, and the error has no number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write a ``.npy`` file. Raises ``OSError`` with its number, also if the disk is full."""
    with path.open("wb") as file:
        np.lib.format.write_array(cast("Any", _Writer(file)), array, allow_pickle=False)


def _run(folder: Path, seconds: int, environment: Mapping[str, str]) -> int | str:
    """Run the child: its exit status, or how it ended."""
    paths = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)  # "" is the current folder
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    start = f"import sys; from {__name__} import main; main(sys.argv[1])"
    command = [sys.executable, "-P", "-W", "ignore", "-c", start, str(folder)]
    try:
        return subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=2 * seconds + START, env={**os.environ, **one_thread, "PYTHONPATH": paths, **environment},
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"took more than {2 * seconds + START} seconds"


def _death(status: int) -> str:
    if status == -24:  # SIGXCPU
        return "took too long"
    return f"was stopped by signal {-status}" if status < 0 else f"ended with status {status}"


def _tensors(folder: Path, names: list[str]) -> dict[str, Tensor]:
    import torch  # here, so that the child does not need it

    tensors = {}
    for place, name in enumerate(names):
        file = folder / f"out-{place}.npy"
        array = np.load(file, mmap_mode=None if file.stat().st_size < 1 << 16 else "c", allow_pickle=False)
        tensors[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    return tensors


def _limit(memory: int | None, seconds: int) -> None:
    """Limit this process: ``memory`` bytes above what it uses now, ``seconds`` of processor time, no core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 10))
    statm = Path("/proc/self/statm")
    if memory is not None and statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def main(name: str) -> None:
    """The child: read the request in the folder ``name``, run the function, and write the result there."""
    folder = Path(name)
    request = json.loads((folder / REQUEST).read_text())
    limit = request["memory"] if request["memory"] is not None else 1 << 62
    exchange = Exchange(folder, request["arguments"], limit // COPIES)
    module, _, name = request["function"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        _limit(request["memory"], request["seconds"])
        write_json(folder / RESULT, _result(function, request, exchange, limit))
    except ImportError:
        sys.exit(NO_LIBRARY)
    except OSError as error:
        sys.exit(NO_SPACE if error.errno in DISK_ERRORS else 1)


def _result(function: Any, request: Mapping[str, Any], exchange: Exchange, limit: int) -> dict[str, Any]:
    """What the function gives, or how it failed."""
    try:
        value = function(Path(os.fsdecode(bytes.fromhex(request["path"]))), exchange)
    except UserError as error:
        return {"error": error.line, "details": error.details}
    except MemoryError:
        return {"error": f"needs more than {size_in_words(limit)} of memory to read", "details": ()}
    except ImportError as error:
        return {"error": f"cannot be used: a library cannot be imported ({one_line(error)})", "details": ()}
    except Exception as error:  # whatever a library raises for a damaged file
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        return {"error": "is damaged, or no file of its format", "details": (one_line(error),)}
    return {"names": exchange.names, "value": value}
