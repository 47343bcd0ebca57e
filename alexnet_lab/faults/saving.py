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

from alexnet_lab.faults.numbered import newest_numbered, save_numbered, save_on
from alexnet_lab.faults.trial import Child, Tally

FLOATS = 2_500_000  # 10 MB


def kill_while_saving(folder: Path, kills: int, draws: random.Random) -> Tally:
    """So many processes that write one checkpoint after another, each killed at some instant."""
    tally = Tally("SIGKILL while saving a checkpoint of 10 MB")
    seconds = _seconds(lambda: save_numbered(folder, 1, FLOATS))
    step, passed_over = 1, 0
    for _ in range(kills):
        child = Child(save_on(folder, step, FLOATS))
        _, done = child.signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
        newest, whole, complaints = newest_numbered(folder)
        passed_over += len(complaints)
        expected = max([step, *done])
        tally.count(
            survived=whole and newest >= expected, otherwise=f"{expected} was done, {newest} found: {complaints}"
        )
        step = newest or step
    tally.remark = f"{passed_over} folders passed over; {_naively(folder / 'naive.pt', kills // 10 + 1, draws)}"
    return tally


def _naively(path: Path, kills: int, draws: random.Random) -> str:
    """The same with ``torch.save``, in words."""
    path.parent.mkdir(exist_ok=True)
    values = {"values": torch.ones(FLOATS)}
    seconds = _seconds(lambda: torch.save(values, path))
    lost = 0

    def save(tell: Callable[[int], None]) -> int:
        while True:
            torch.save(values, path)

    for _ in range(kills):
        Child(save).signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
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
