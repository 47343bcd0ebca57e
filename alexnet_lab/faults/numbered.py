"""Checkpoints in which every value is the step, so that a checkpoint that is read can be checked by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from alexnet.runtime.checkpoint import load_newest, save_checkpoint


def save_numbered(folder: Path, step: int, floats: int) -> None:
    """Write the checkpoint of a step with ``floats`` fp32 values. Raises ``OSError`` if the disk fails."""
    save_checkpoint(folder, step, {"model": {"values": torch.full((floats,), float(step))}}, {})


def save_on(folder: Path, step: int, floats: int) -> Callable[[Callable[[int], None]], int]:
    """The work of a ``Child``: it saves the checkpoints after ``step`` without end, and sends each step when saved."""

    def work(send: Callable[[int], None]) -> int:
        after = step
        while True:
            after += 1
            save_numbered(folder, after, floats)
            send(after)

    return work


def newest_numbered(folder: Path) -> tuple[int, bool, list[str]]:
    """The step of the newest checkpoint (0 without any), whether it has the right values, and what was skipped."""
    found, messages = load_newest(folder)  # its tensors map the files, so the disk cannot be unmounted while they exist
    if found is None:
        return 0, True, list(map(str, messages))
    whole = bool((found.tensors["model"]["values"] == found.step).all())
    return found.step, whole, list(map(str, messages))
