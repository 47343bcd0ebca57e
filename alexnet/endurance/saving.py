"""SIGKILL while a checkpoint is written: the newest one that can be read is whole, and none that was done is lost.

Beside it the naive way, ``torch.save`` over the file of the last time. A killed process leaves what it wrote in the
system's memory, so this says nothing about a power cut, where only what was synced survives.
"""

from __future__ import annotations

import random
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alexnet.endurance.trial import Child, Tally
from alexnet.runtime.checkpoint import load_newest, save_checkpoint

FLOATS = 2_500_000  # 10 MB


def kill_while_saving(folder: Path, kills: int, draws: random.Random) -> Tally:
    """So many processes that write one checkpoint after another, each killed at some instant."""
    tally = Tally("SIGKILL while saving a checkpoint of 10 MB")
    seconds = _seconds(lambda: _save(folder, 1))
    step, passed_over = 1, 0
    for _ in range(kills):

        def save_on(tell: Callable[[int], None], after: int = step) -> int:
            while True:
                after += 1
                _save(folder, after)
                tell(after)

        _, done = Child(save_on).signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
        found, complaints = load_newest(folder)
        passed_over += len(complaints)
        expected = max([step, *done])
        whole = found is not None and _is_of(found.tensors["model"]["values"], found.step) and found.step >= expected
        tally.count(survived=whole, otherwise=f"step {expected} was done, found {found and found.step}: {complaints}")
        step = found.step if found else step
    tally.remark = f"{passed_over} folders passed over; {_naively(folder / 'naive.pt', kills // 10 + 1, draws)}"
    return tally


def _save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, {"model": _values(step)}, {})


def _values(step: int) -> dict[str, Tensor]:
    return {"values": torch.full((FLOATS,), float(step))}


def _is_of(values: Tensor, step: int) -> bool:
    return values.shape == (FLOATS,) and bool((values == step).all())


def _naively(path: Path, kills: int, draws: random.Random) -> str:
    """The same with ``torch.save``, in words."""
    path.parent.mkdir(exist_ok=True)
    seconds = _seconds(lambda: torch.save(_values(1), path))
    lost = 0

    def save_on(tell: Callable[[int], None]) -> int:
        while True:
            torch.save(_values(1), path)

    for _ in range(kills):
        Child(save_on).signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
        lost += not _is_whole_zip(path)
    return f"torch.save over the same file: {lost} of {kills} unreadable"


def _is_whole_zip(path: Path) -> bool:
    """Whether what ``torch.save`` left is the zip that it should be; nothing in it is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
