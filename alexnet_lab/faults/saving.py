"""SIGKILL while a checkpoint is saved: the newest readable one is whole, and no finished one is lost.

For comparison, ``torch.save`` over the same file. What a killed process wrote is still in the system's memory. So this
does not simulate a power cut, after which only synced data remains.
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
from alexnet_lab.faults.trial import Child, FaultResult

FLOATS = 2_500_000  # 10 MB


def kill_while_saving(folder: Path, kills: int, draws: random.Random) -> FaultResult:
    """``kills`` processes that save one checkpoint after another, each killed at a random time."""
    result = FaultResult("SIGKILL while saving a checkpoint of 10 MB")
    seconds = _seconds(lambda: save_numbered(folder, 1, FLOATS))
    step, skipped = 1, 0
    for _ in range(kills):
        child = Child(save_on(folder, step, FLOATS))
        _, done = child.signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
        newest, whole, messages = newest_numbered(folder)
        skipped += len(messages)
        expected = max([step, *done])
        result.count(passed=whole and newest >= expected, failure=f"{expected} was saved, {newest} found: {messages}")
        step = newest or step
    result.remark = (
        f"{skipped} incomplete folders skipped; {_with_torch_save(folder / 'torch-save.pt', kills // 10 + 1, draws)}"
    )
    return result


def _with_torch_save(path: Path, kills: int, draws: random.Random) -> str:
    """The same with ``torch.save``, as a remark."""
    path.parent.mkdir(exist_ok=True)
    values = {"values": torch.ones(FLOATS)}
    seconds = _seconds(lambda: torch.save(values, path))
    lost = 0

    def save(send: Callable[[int], None]) -> int:
        while True:
            torch.save(values, path)

    for _ in range(kills):
        Child(save).signal_after(draws.uniform(0, 3 * seconds), signal.SIGKILL)
        lost += not _is_whole_zip(path)
    return f"torch.save over the same file: {lost} of {kills} unreadable"


def _is_whole_zip(path: Path) -> bool:
    """Whether the file of ``torch.save`` is a whole zip file; nothing in it is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
