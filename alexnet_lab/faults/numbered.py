"""Checkpoints whose every value is their step, so that what is read back says by itself whether it is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from alexnet.runtime.checkpoint import load_newest, save_checkpoint


def save_numbered(folder: Path, step: int, floats: int) -> None:
    """Write the checkpoint of a step, of so many fp32 values. Raises ``OSError`` where the disk refuses."""
    save_checkpoint(folder, step, {"model": {"values": torch.full((floats,), float(step))}}, {})


def save_on(folder: Path, step: int, floats: int) -> Callable[[Callable[[int], None]], int]:
    """A child's work that never ends: the checkpoints after ``step``, each told when it is done."""

    def work(tell: Callable[[int], None]) -> int:
        after = step
        while True:
            after += 1
            save_numbered(folder, after, floats)
            tell(after)

    return work


def newest_numbered(folder: Path) -> tuple[int, bool, list[str]]:
    """The newest checkpoint's step, 0 without any; whether it is what was written; what was passed over."""
    found, complaints = load_newest(folder)  # its tensors are the files' pages: while they live nothing is unmounted
    if found is None:
        return 0, True, list(map(str, complaints))
    whole = bool((found.tensors["model"]["values"] == found.step).all())
    return found.step, whole, list(map(str, complaints))
