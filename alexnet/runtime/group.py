"""The processes that train together, seen from one of them: the interface, and the group of one process.

Each process does its part of every step, and what belongs to the whole batch is summed. So the training does not depend
on the number of processes but for the last bits (``distributed/`` has groups of several).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")
Parallel = Literal["data", "hybrid", "columns"]
"""How the work is divided: see ``distributed/``."""


class Group:
    """A group of one process: it does not communicate.

    ``rank``: the number of this process, from 0. ``size``: the number of processes. ``device``: the device of this
    process, as ``resolve_device`` takes it; None if the user chooses. ``weight``: the factor of the loss of this
    process, so that the losses of all processes add up to that of the batch.
    """

    rank = 0
    size = 1
    device: str | None = None
    weight = 1.0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """The images of this process among the ``count`` images of a batch: contiguous, and perhaps none."""
        return slice(count)

    def prepare(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        """Let ``copies`` of ``network``, which share its parameters, do the part of this process, in place."""

    def start_step(self, images: int) -> None:
        """Begin a step whose batch has so many images in all processes together."""

    def masks(self, masks: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
        """The part of the dropout masks ``(images, units)`` of the whole batch that this process needs.

        ``part``: the images of this process.
        """
        return {site: mask[part] for site, mask in masks.items()}

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes, in place. All processes get equal bits."""

    def totals(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the number of correct predictions of the whole batch, from those of this process; 0-d."""
        return loss, right

    def everywhere(self, flag: Tensor) -> Tensor:
        """Whether a 0-d bool tensor is True in all processes."""
        return flag

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring parameters and optimizer states that are divided among the processes up to date, in place."""

    def largest(self, *numbers: float) -> tuple[float, ...]:
        """The largest value of each number over all processes."""
        return numbers

    def rows(self, own: Tensor | None, counts: Sequence[int]) -> list[Tensor]:
        """The rows of each process, in the order of the processes, on all of them.

        ``counts``: the number of rows of each process; those without rows have 0 and ``own`` None, and are left out.
        """
        return [] if own is None else [own]

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What ``make`` returns in the first process. The others wait for it, however long it takes."""
        return make()

    def to_first(self, own: bytes) -> list[bytes]:
        """The bytes of each process in the first one, in the order of the processes; an empty list in the others."""
        return [own]

    def wait_for_all(self) -> None:
        """Wait until all processes have called this method, however long it takes."""

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """What ``function`` returns. The first process calls it before the others, which then find its files."""
        return function()


ONE = Group()
