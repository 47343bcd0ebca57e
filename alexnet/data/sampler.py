"""Which images each training step uses.

The order of an epoch depends on (seed, epoch) only, so the batch of any step can be computed without the steps before
it, and resuming needs a step number only.

By default all images are shuffled together. Images that are read from shards over a network may be shuffled in blocks
instead: the blocks of an epoch come in random order, and the images of a block too. A block is a random sample of the
images, fixed by :func:`block_order`; shards hold the images in this order, so a block lies in few shards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet.core.randomness import derive_key, permutation


def block_order(splits: NDArray[np.int8]) -> NDArray[np.int64]:
    """The numbers of all images ``(N,)`` in the order that is cut into blocks and into shards.

    ``splits`` ``(N,)``: the split of each image. The images of a split are together, and in random order in it, because
    many datasets are sorted by class. The order depends on ``splits`` only, so it is the same for every copy.
    """
    shuffled = permutation(derive_key("block order"), 0, len(splits))
    return shuffled[np.argsort(splits[shuffled], kind="stable")]


class Sampler:
    """Every image once an epoch, in a new random order each epoch; the last batch of an epoch may be smaller.

    ``subset``: ``(N,)`` int64, the numbers of the images in the prepared dataset. ``batch_size``: images a step, 1 or
    more. ``seed``: the random seed of the run. ``block``: the number of images of a block, None to shuffle all of them
    together; it needs ``splits``, the split of each image of the dataset. Several threads may use one sampler, for
    different epochs too.
    """

    def __init__(
        self,
        subset: NDArray[np.int64],
        batch_size: int,
        seed: int,
        block: int | None = None,
        splits: NDArray[np.int8] | None = None,
    ) -> None:
        self._block = block if block and block < len(subset) else None
        if self._block and splits is not None:
            place = np.empty(len(splits), np.int64)
            place[block_order(splits)] = np.arange(len(splits))
            subset = subset[np.argsort(place[subset])]
        self._subset = subset
        self._batch_size = batch_size
        self._key, self._block_key = derive_key(seed, "order"), derive_key(seed, "blocks")
        # Epochs and their images, the two newest ones: a loader looks ahead into the next epoch. It is one value, so
        # that threads cannot mix epochs.
        self._recent: tuple[tuple[int, NDArray[np.int64]], ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, with the smaller last one."""
        return -(-len(self._subset) // self._batch_size)

    def at(self, step: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """``(epoch, index, position)`` of the batch of ``step``, counted from 0.

        ``index`` ``(n,)`` int64: the numbers of its images; ``position`` ``(n,)`` int64: their positions in the epoch.
        """
        epoch, batch = divmod(step, self.steps_per_epoch)
        recent = self._recent
        images = next((images for number, images in recent if number == epoch), None)
        if images is None:
            images = self._order(epoch)
            self._recent = ((epoch, images), *recent[:1])
        start = batch * self._batch_size
        index = images[start : start + self._batch_size]
        return epoch, index, np.arange(start, start + len(index))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The images of an epoch in their order."""
        count = len(self._subset)
        order = permutation(self._key, epoch, count)
        if self._block:
            turn = np.argsort(permutation(self._block_key, epoch, -(-count // self._block)))  # of each block
            order = order[np.argsort(turn[order // self._block], kind="stable")]
        return self._subset[order]
