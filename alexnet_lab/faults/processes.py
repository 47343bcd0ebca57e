"""SIGKILL of random ranks of a training in three processes: it ends with the bits of an undisturbed one.

PyTorch's agent starts all processes again after a kill. When its restarts are used up, the command is repeated. Two
negative controls show that the test can fail: the default ``DistributedDataParallel`` gives other bits after a resume,
and without names of its own in the store an attempt cannot start again (``pytorch_defaults.py``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.core.errors import UserError
from alexnet.core.files import read_json, write_json
from alexnet.runtime.checkpoint import list_checkpoints
from alexnet.runtime.run import Run
from alexnet_lab.faults.resuming import digest
from alexnet_lab.faults.trial import FaultResult
from alexnet_lab.results.records import code_commit

RANKS = 3
RESTARTS = 3  # of each command
CHANGES = ("train.precision=fp32", "model.width=0.25", "data.image_size=16", "train.epochs=12", "train.batch_size=240")
LONGEST = 1800.0  # seconds without a kill or an end, after which a training hangs
LOOK_SECONDS = 0.02
KILLED = f"SIGKILL of a random rank of {RANKS} at random times during alexnet train --nproc {RANKS}: same bits"
CONTROLS = {
    "ddp": f"negative control, the default DistributedDataParallel, one kill of {RANKS} ranks: other bits",
    "store": f"negative control, the default store, one kill of {RANKS} ranks: no restart succeeds",
}


def kill_ranks(folder: Path, kills: int, seed: int, out: Path | None = None) -> list[FaultResult]:
    """Trainings whose ranks are killed ``kills`` times in all, and the negative controls.

    ``out``: a JSON file with the figures, written after each training and continued if it exists. Raises ``UserError``
    if it has the figures of another run.
    """
    figures = _continued(out, seed)
    start = time.monotonic()
    _finish(_command(folder / "alone"), folder)
    seconds, wanted = time.monotonic() - start, digest(folder / "alone")
    if figures.setdefault("digest", wanted) != wanted:
        raise UserError(f"{out} has trainings with other bits than those of today: give another file with --out")
    while figures["kills"] < kills and not figures["failures"]:
        number = figures["trainings"]
        run = folder / f"killed-{number}"
        draws = random.Random(f"{seed}/{number}")
        gap = functools.partial(draws.expovariate, 3 / seconds)
        done = kill_while_training(_command(run), folder, gap, draws.randrange)
        found = done.failure or ("" if digest(run) == wanted else "other bits")
        figures["failures"] += [f"training {number}: {found}, after {done.kills} kills"] if found else []
        figures["trainings"] += 1
        figures["kills"] += done.kills
        figures["commands"] += done.commands
        shutil.rmtree(run, ignore_errors=True)
        _write(out, figures)
    for name, what in (("ddp", _default_ddp), ("store", _default_store)):
        if name not in figures:
            figures[name] = what(folder)
            _write(out, figures)
    repeated = figures["commands"] - figures["trainings"]
    remark = f"{figures['kills']:,} kills, {repeated:,} commands repeated; {seconds:.0f} s without kills"
    numbers = {name: figures[name] for name in ("kills", "trainings", "commands")}
    controls = [FaultResult(what, 1, [figures[name]] if figures[name] else []) for name, what in CONTROLS.items()]
    return [FaultResult(KILLED, figures["trainings"], figures["failures"], remark, numbers), *controls]


def _continued(out: Path | None, seed: int) -> dict[str, Any]:
    run = {"seed": seed, "commit": code_commit()}  # checkpoints name the commit
    if out is None or not out.exists():
        return {**run, "kills": 0, "trainings": 0, "commands": 0, "failures": []}
    found: dict[str, Any] = read_json(out)
    if any(found.get(key) != value for key, value in run.items()) or "trainings" not in found:
        raise UserError(f"{out} has the figures of another seed or commit: give another file with --out")
    return found


def _write(out: Path | None, figures: Mapping[str, Any]) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, figures)


class Disturbed:
    """What :func:`kill_while_training` did. ``failure``: why the training has not finished, or ""."""

    def __init__(self) -> None:
        self.kills, self.commands, self.failure = 0, 0, ""


def kill_while_training(
    command: Sequence[str], folder: Path, gap: Callable[[], float], choose: Callable[[int], int], most: int = 2**31
) -> Disturbed:
    """Run a command until it ends with status 0, and kill one of its ranks again and again, at most ``most`` times.

    ``gap``: the seconds until the next kill. ``choose``: which of n ranks, from 0.
    """
    done, end = Disturbed(), time.monotonic() + LONGEST
    while True:
        done.commands += 1
        before, status = done.kills, None
        with _started(command, folder) as process:
            while status is None and time.monotonic() < end:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(min(gap() if done.kills < most else LONGEST, end - time.monotonic()))
                while process.poll() is None and done.kills < most and not (living := ranks(process.pid)):
                    time.sleep(LOOK_SECONDS)  # all are being started
                if process.poll() is None and done.kills < most:
                    os.kill(living[sorted(living)[choose(len(living))]], signal.SIGKILL)
                    done.kills += 1
                    end = time.monotonic() + LONGEST
        if status is None:
            done.failure = f"not finished {LONGEST:.0f} s after a kill"
        elif status and done.kills == before:
            done.failure = f"status {status} without a kill: {_last_line(folder)}"
        if done.failure or status == 0:
            return done


def ranks(parent: int) -> dict[int, int]:
    """Rank → process number of the living processes that the process ``parent`` has started."""
    found: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for number in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                variables = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")  # of a dead process: empty
                found |= {int(each[5:]): int(number) for each in variables if each.startswith(b"RANK=")}
    return found


@contextlib.contextmanager
def _started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the command; it has ended after the context, and its children too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_HOME": str(folder / "home")}
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield process
        finally:
            for number in (process.pid, *ranks(process.pid).values()) if process.poll() is None else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.wait()


def _finish(command: Sequence[str], folder: Path) -> None:
    """Run a command to its end without a kill. Raises ``UserError`` if it fails."""
    if failure := kill_while_training(command, folder, lambda: LONGEST, lambda count: 0, most=0).failure:
        raise UserError(f"a training in {RANKS} processes cannot run here: {failure}")


def _last_line(folder: Path) -> str:
    lines = (folder / "errors").read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "no message"


def _words(run: Path) -> list[str]:
    changes = [word for change in CHANGES for word in ("--set", change)]
    return ["train", "small-digits", "--device", "cpu", "--keep-checkpoints", "--out", str(run), *changes]


def _command(run: Path) -> list[str]:
    several = ["--nproc", str(RANKS), "--max-restarts", str(RESTARTS)]
    return [sys.executable, "-m", "alexnet", *_words(run), *several]


def _control(part: str, run: Path, restarts: int) -> list[str]:
    agent = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "--max-restarts", str(restarts)]
    return [sys.executable, "-m", *agent, "-m", "alexnet_lab.faults.pytorch_defaults", part, *_words(run)]


def _kill_once(command: Sequence[str], run: Path, folder: Path) -> int:
    """Run a command, and kill one of its ranks after the first checkpoint; returns its exit status.

    Raises ``UserError`` if it ends before the kill, and ``TimeoutExpired`` if it does not end.
    """
    end = time.monotonic() + LONGEST
    with _started(command, folder) as process:
        while process.poll() is None and not list_checkpoints(Run(run).checkpoints) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        if not (living := ranks(process.pid)):
            raise UserError(f"a training in {RANKS} processes has ended before the kill: {_last_line(folder)}")
        os.kill(living[max(living)], signal.SIGKILL)
        return process.wait(end - time.monotonic())


def _default_ddp(folder: Path) -> str:
    """Why the control with ``DistributedDataParallel`` did not fail, or ""."""
    alone, run = folder / "ddp-alone", folder / "ddp"
    _finish(_control("ddp", alone, 0), folder)
    if status := _kill_once(_control("ddp", run, 1), run, folder):
        return f"status {status}: {_last_line(folder)}"
    return "the same bits" if digest(run) == digest(alone) else ""


def _default_store(folder: Path) -> str:
    """Why the control with the default store did not fail, or ""."""
    run = folder / "store"
    status = _kill_once(_control("store", run, 1), run, folder)
    resumed = any(event["event"] == "resume" for event in Run(run).events())
    return "a restart succeeded" if resumed or not status else ""
