"""Which images each training step uses.

The permutation of an epoch depends on (seed, epoch) only, so the batch of any step can be computed without the steps
before it, and resuming needs a step number only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet.core.randomness import derive_key, permutation


class Sampler:
    """Every image once an epoch, in a new random order each epoch; the last batch of an epoch may be smaller.

    ``subset``: ``(N,)`` int64, the numbers of the images in the prepared dataset. ``batch_size``: images a step, 1 or
    more. ``seed``: the random seed of the run. Several threads may use one sampler, for different epochs too.
    """

    def __init__(self, subset: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._subset = subset
        self._batch_size = batch_size
        self._key = derive_key(seed, "order")
        self._current = (-1, subset)  # an epoch and its images: one value, so that threads cannot mix epochs

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, with the smaller last one."""
        return -(-len(self._subset) // self._batch_size)

    def at(self, step: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """``(epoch, index, position)`` of the batch of ``step``, counted from 0.

        ``index`` ``(n,)`` int64: the numbers of its images; ``position`` ``(n,)`` int64: their positions in the epoch.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        current = self._current
        if current[0] != epoch:
            current = self._current = (epoch, self._subset[permutation(self._key, epoch, len(self._subset))])
        start = batch * self._batch_size
        index = current[1][start : start + self._batch_size]
        return epoch, index, np.arange(start, start + len(index))
