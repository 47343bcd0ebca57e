"""Every system call of a save fails once, with an I/O error and with a full disk: the last good state stays.

``failing_calls.c`` is compiled and loaded with ``LD_PRELOAD`` into a process of its own. That process forks a copy for
each trial. In the copy, the n-th call on a file below the given folders fails, and later ones succeed. n grows until
the work ends before its n-th call. The kinds of work: save a checkpoint, prepare images, train from start to finish,
write a report.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from alexnet.cli.main import main
from alexnet.core.files import sha256_file
from alexnet.data.prepared import verify_prepared
from alexnet.runtime.run import source_commit
from alexnet_lab.faults.disk import check_save
from alexnet_lab.faults.numbered import save_numbered
from alexnet_lab.faults.trial import Child, FaultResult

LIBRARY = "failing_calls.so"
SOURCE = Path(__file__).with_name("failing_calls.c")
ERRORS = (errno.EIO, errno.ENOSPC)
MAY_BE_IGNORED = {"close", "mkdir", "open64", "open", "openat", "openat64"}
"""Calls whose failure need not end a save: what was opened only to lock or list it, a folder that exists."""
FLOATS = 1000
TINY = [word for change in ("train.steps=2", "model.width=0.1", "data.image_size=16", "train.precision=fp32")
        for word in ("--set", change)]  # fmt: skip


def compile_library(folder: Path) -> Path:
    """Compile the library into ``folder``. Raises ``OSError`` or ``CalledProcessError`` where that is not possible."""
    library = folder / LIBRARY
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def fail_every_call(folder: Path, every: int) -> list[FaultResult]:
    """The trials, at each ``every``-th call, in a process that loads the library; no trial without a C compiler."""
    try:
        library = compile_library(folder)
    except OSError as error:
        return [FaultResult(each.what, remark=f"not possible here: cc: {error.strerror}") for each in WORKS]
    except subprocess.CalledProcessError as error:
        return [FaultResult(each.what, remark=f"not possible here: {error.stderr.splitlines()[0]}") for each in WORKS]
    command = [sys.executable, "-m", "alexnet_lab.faults", "calls", "--folder", str(folder), "--json"]
    command += ["--full"] if every == 1 else []
    variables = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if not done.stdout:
        last = (done.stderr.strip() or "it ended without a message").splitlines()[-1]
        return [FaultResult(each.what, 1, [last]) for each in WORKS]
    return [FaultResult(**result) for result in json.loads(done.stdout)["trials"]]


def library_is_loaded() -> bool:
    """Whether this process was started with the library."""
    return hasattr(ctypes.CDLL(None), "failing_calls_arm")


class FailingCalls:
    """The library, in a process that was started with it."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._arm, self._disarm = library.failing_calls_arm, library.failing_calls_disarm
        self._failed = library.failing_calls_failed
        self._arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p]
        self._disarm.restype = ctypes.c_long
        self._failed.restype = ctypes.c_char_p

    def arm(self, number: int, error: int, *folders: Path) -> None:
        """Let call ``number`` on a file below ``folders`` fail with ``error``."""
        self._arm(number, error, ":".join(str(folder.resolve()) for folder in folders).encode())

    def disarm(self) -> tuple[int, str]:
        """Let no further call fail. Returns the number of calls, and the name of the one that failed or ""."""
        return self._disarm(), (self._failed() or b"").decode()


@dataclass
class Trial:
    """A trial of ``Work``: the number of calls, the one that failed, the exit status and stderr of the copy."""

    calls: int
    call: str
    status: int
    stderr: str


@dataclass(frozen=True)
class Work:
    """A kind of work. ``make`` prepares a folder for it. ``begin`` brings back the state before a trial.

    ``do`` is the work in the copy, and returns an exit status. ``check`` returns what is wrong after a trial. Calls on
    files in the folders ``below`` fail.
    """

    what: str
    make: Callable[[Path], None]
    begin: Callable[[Path], None]
    do: Callable[[Path], int]
    check: Callable[[Path, Trial], str]
    below: tuple[str, ...]


def fail_calls_of(work: Work, folder: Path, every: int, library: FailingCalls) -> FaultResult:
    """Let each ``every``-th call of the work fail, once with each of ``ERRORS``. ``folder`` is empty."""
    result = FaultResult(work.what)
    work.make(folder)
    calls: dict[str, int] = {}
    number = 0
    while True:
        number += 1 if number == 0 else every
        found = [_try(work, folder, number, error, library) for error in ERRORS]
        for error, (trial, fault) in zip(ERRORS, found, strict=True):
            if trial.call:
                calls[trial.call] = calls.get(trial.call, 0) + 1
            if trial.call or fault:
                where = f"{errno.errorcode[error]} at call {number}, {trial.call or 'none'}"
                result.count(passed=not fault, failure=f"{where}: status {trial.status}: {fault}")
        if not all(trial.call for trial, _ in found):
            break
    result.remark = f"{found[0][0].calls} calls: {', '.join(sorted(calls))}"
    return result


def _try(work: Work, folder: Path, number: int, error: int, library: FailingCalls) -> tuple[Trial, str]:
    work.begin(folder)
    call, stderr = folder / "call", folder / "stderr"

    def run(send: Callable[[int], None]) -> int:
        _redirect(stderr)
        library.arm(number, error, *(folder / name for name in work.below))
        status = 70
        try:
            status = work.do(folder)
        except Exception:
            traceback.print_exc()
        finally:
            count, failed = library.disarm()
            sys.stderr.flush()
            call.write_text(f"{count} {failed}")
        return status

    status, _ = Child(run).wait()
    count, _, failed = call.read_text().partition(" ")
    trial = Trial(int(count), failed, status, stderr.read_text(errors="replace"))
    return trial, _traceback(trial.stderr) or work.check(folder, trial)


def _redirect(stderr: Path) -> None:
    """Send standard output to nowhere and standard error to a file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def _traceback(stderr: str) -> str:
    return f"a traceback: {stderr.strip().splitlines()[-1]}" if "Traceback (most" in stderr else ""


def _command(folder: Path, *words: str) -> int:
    """A command with its cache below ``folder``, without the measurement of the machine's rate."""
    with (
        mock.patch.dict(os.environ, {"ALEXNET_HOME": str(folder / "home")}),
        mock.patch("alexnet.cli.main.busy_share", lambda: 0.0),
        mock.patch("alexnet.api.matrix_rate", lambda device_config: 100.0),
    ):
        return main(list(words))


def _in_a_copy(folder: Path, *words: str) -> int:
    """A command in a forked copy of this process; its status."""

    def run(send: Callable[[int], None]) -> int:
        _redirect(folder / "stderr-again")
        return _command(folder, *words)

    return Child(run).wait()[0]


def _unclear(trial: Trial) -> str:
    """Why status and message are not as documented: 0, or 2 with one line of error after notes and warnings."""
    errors = [line for line in trial.stderr.splitlines() if line.startswith("alexnet: ")]
    if trial.status == 0 and not errors:
        return ""
    if trial.status == 2 and len(errors) == 1:
        return ""
    return f"{len(errors)} lines of error; the last line: {(trial.stderr.strip().splitlines() or [''])[-1]}"


# A checkpoint.


def _save_the_first(folder: Path) -> None:
    (folder / "run").mkdir()
    save_numbered(folder / "run", 1, FLOATS)


def _forget_the_second(folder: Path) -> None:
    shutil.rmtree(folder / "run/step-00000002", ignore_errors=True)


def _save_the_second(folder: Path) -> int:
    try:
        save_numbered(folder / "run", 2, FLOATS)
    except OSError:
        return 2
    return 0


def _check_checkpoints(folder: Path, trial: Trial) -> str:
    must_fail = bool(trial.call) and trial.call not in MAY_BE_IGNORED
    return check_save(folder / "run", trial.status == 2, must_fail=must_fail, floats=FLOATS)


# A prepared dataset: another one exists, and an older one of the same images.


def _make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(pixels.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            image.save(folder / "images" / name / f"{number}.png")
    for source in ("digits", str(folder / "images")):
        if _in_a_copy(folder, "prepare", source):
            raise RuntimeError((folder / "stderr-again").read_text())
    shutil.copytree(folder / "home", folder / "home-before")
    os.utime(folder / "images/cat/0.png", (1, 1))


def _restore_home(folder: Path) -> None:
    shutil.rmtree(folder / "home", ignore_errors=True)
    shutil.copytree(folder / "home-before", folder / "home")


def _prepare(folder: Path) -> int:
    return _command(folder, "prepare", str(folder / "images"))


def _check_prepared(folder: Path, trial: Trial) -> str:
    if fault := _unclear(trial):
        return fault
    before = {path.name for path in (folder / "home-before/stores").iterdir()}
    there = {path.name for path in (folder / "home/stores").iterdir() if not path.name.startswith(".")}
    if len(there) < len(before):  # the older dataset of these images is removed when the new one exists
        return f"lost {sorted(before - there)}"
    for name in there:
        if damage := verify_prepared(folder / "home/stores" / name):
            return damage[0]
    if _in_a_copy(folder, "prepare", str(folder / "images"), "--verify"):
        return f"cannot prepare again: {(folder / 'stderr-again').read_text().strip()}"
    left = [path.name for path in (folder / "home/stores").iterdir() if path.name.startswith(".")]
    return f"left {left}" if left else ""


# A whole training, with its end: model, curves, report.md, result.json.


class _NoPicture:
    """Replaces the curves, which take longer to draw than these trainings."""

    def encode(self) -> bytes:
        return b"curves"


def _train(folder: Path) -> int:
    with (
        mock.patch("alexnet.report.build.add", lambda *given: None),
        mock.patch("alexnet.plots.curves.plot_curves", lambda runs: _NoPicture()),
    ):
        return _command(folder, "train", "small-digits", "--out", str(folder / "run"), *TINY)


def _train_once(folder: Path) -> None:
    """Train without a failing call; the result is what each trial must end with."""

    def run(send: Callable[[int], None]) -> int:
        _redirect(folder / "stderr")
        return _train(folder)

    if Child(run).wait()[0]:
        raise RuntimeError((folder / "stderr").read_text())
    (folder / "run").rename(folder / "expected")


def _remove_run(folder: Path) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)


def _check_run(folder: Path, trial: Trial) -> str:
    """The same command ends with the bits of a training without failures, and leaves nothing unfinished."""
    if fault := _unclear(trial):
        return fault

    def again(send: Callable[[int], None]) -> int:
        _redirect(folder / "stderr-again")
        return _train(folder)

    if Child(again).wait()[0]:
        return f"cannot be continued: {(folder / 'stderr-again').read_text().strip()}"
    for name in ("model/model.safetensors", "metrics.jsonl"):
        if sha256_file(folder / "run" / name) != sha256_file(folder / "expected" / name):
            return f"{name} differs"
    for path in (folder / "run").rglob(".*"):
        if path.name != ".lock":
            return f"left {path.name}"
    return ""


# The report of a finished run, which has one already.


def _make_reported_run(folder: Path) -> None:
    _train_once(folder)
    (folder / "expected").rename(folder / "run")
    (folder / "run/report.html").write_text("the report before")
    shutil.copytree(folder / "run", folder / "run-before")


def _restore_run(folder: Path) -> None:
    shutil.rmtree(folder / "run")
    shutil.copytree(folder / "run-before", folder / "run")


def _report(folder: Path) -> int:
    with mock.patch(
        "alexnet.report.build.report_figures", lambda task: []
    ):  # figures are made in memory, and take seconds
        return _command(folder, "show", "report", str(folder / "run"))


def _check_report(folder: Path, trial: Trial) -> str:
    if fault := _unclear(trial):
        return fault
    page = (folder / "run/report.html").read_text()
    if trial.status and trial.call not in ("close", "fsync", "open64") and page != "the report before":
        return "the report before is gone"
    if page != "the report before" and not page.rstrip().endswith("</html>"):
        return "report.html is not whole"
    before = _digests(folder / "run-before")
    after = _digests(folder / "run")
    differs = [name for name in before | after if name != "report.html" and before.get(name) != after.get(name)]
    return f"changed {differs}" if differs else ""


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


WORKS = (
    Work("a system call fails while a checkpoint is saved: the last good one stays",
         _save_the_first, _forget_the_second, _save_the_second, _check_checkpoints, ("run",)),
    Work("a system call fails while images are prepared: earlier datasets stay",
         _make_images, _restore_home, _prepare, _check_prepared, ("home", "images")),
    Work("a system call fails during a training: the same command ends with the same bits",
         _train_once, _remove_run, _train, _check_run, ("run", "home")),
    Work("a system call fails while a report is written: the run and its report stay",
         _make_reported_run, _restore_run, _report, _check_report, ("run", "home")),
)  # fmt: skip


def trials_with_library(folder: Path, every: int) -> Iterator[FaultResult]:
    """The trials of all works, in a process that was started with the library."""
    library = FailingCalls()
    source_commit()  # asks git, once a process
    for number, work in enumerate(WORKS):
        place = folder / f"work-{number}"
        place.mkdir()
        # a checkpoint is quick: all its calls
        yield fail_calls_of(work, place, every if number else 1, library)
