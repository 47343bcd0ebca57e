"""The processes that train together, seen from one of them: the interface, and the group of one process.

Each process computes the gradients of its own part of a batch; their sum is the gradient of the whole batch. So the
training does not depend on the number of processes but for the last bits (``distributed/`` has groups of several).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Group:
    """A group of one process: it communicates with nobody.

    ``rank``: the number of this process, from 0. ``size``: the number of processes.
    """

    rank = 0
    size = 1
    device: str | None = None
    """The device of this process, as ``resolve_device`` takes it; None if the user's choice is free."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """The items of this process when ``count`` items are divided among all: contiguous, and perhaps empty."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the sum of the tensors of all processes, in place. All processes get equal bits."""

    def totals(self, *numbers: Tensor) -> tuple[Tensor, ...]:
        """The sums of 0-d tensors over all processes; those of one process keep their dtype."""
        return numbers

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

    def use_global_statistics(self, network: nn.Module) -> None:
        """Let batch normalization in training use the statistics of the whole batch, in place."""


ONE = Group()
