"""The number of images by which a kernel is chosen.

Some kernels are faster for large batches. If several processes divide a batch, the choice follows the whole batch, so
that it does not depend on the number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

_whole: ContextVar[int | None] = ContextVar("whole", default=None)


@contextlib.contextmanager
def part_of_batch(images: int) -> Iterator[None]:
    """A context in which tensors are parts of a batch of so many images."""
    token = _whole.set(images)
    try:
        yield
    finally:
        _whole.reset(token)


def batch_of(x: Tensor) -> int:
    """The number of images of the batch that ``x`` ``(N, …)`` is, or is a part of."""
    whole = _whole.get()
    return len(x) if whole is None else whole
