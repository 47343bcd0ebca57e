"""Which image at which step, and batches that are there before they are needed.

The order of an epoch is a permutation keyed by (seed, epoch), so a step number says everything: any step's batch can be
had without the steps before it. A thread gathers the next batches from the store while the network works on this one,
and copies them to a GPU on a stream of their own, past the work that waits in the network's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.randomness import derive_key, permutation

DEPTH = 3  # batches kept ready
RESIDENT = 2 * 2**30  # bytes of pixels that a GPU keeps whole; more are copied to it batch by batch
Read = Callable[[NDArray[np.int64]], NDArray[np.uint8] | Tensor]


@dataclass(frozen=True)
class Batch:
    """One step's images. ``index`` ``(N,)`` is each image's number in the store, ``position`` ``(N,)`` its place in the
    epoch's order; ``pixels`` ``(N, H, W, C)`` uint8 and ``targets`` ``(N,)`` int64 are on the device.
    """

    step: int
    epoch: int
    index: NDArray[np.int64]
    position: NDArray[np.int64]
    pixels: Tensor
    targets: Tensor


class Sampler:
    """The images of each step: every image once an epoch, a new order each epoch, a short batch at its end."""

    def __init__(self, subset: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._subset = subset
        self._batch_size = batch_size
        self._key = derive_key(seed, "order")
        self._epoch = -1
        self._order = subset

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the short one included."""
        return -(-len(self._subset) // self._batch_size)

    def at(self, step: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """(epoch, index, position) of ``step``: see :class:`Batch`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._subset[permutation(self._key, epoch, len(self._subset))]
        start = batch * self._batch_size
        index = self._order[start : start + self._batch_size]
        return epoch, index, np.arange(start, start + len(index))


class Loader:
    """Batches for steps ``start … stop − 1``, in order, each given once; a context, so that its thread ends with it.

    ``read``: from image numbers to fresh pixels ``(N, H, W, C)``, here or on the device; called in that thread.
    ``depth``: how many batches are kept ready; at 0 there is no thread and each is read when it is asked for.
    """

    def __init__(
        self,
        read: Read,
        targets: NDArray[np.int64],
        order: Sampler,
        device: torch.device,
        start: int,
        stop: int,
        depth: int = DEPTH,
    ) -> None:
        self._read, self._targets, self._order = read, targets, order
        self._device, self._steps = device, range(start, stop)
        self._left, self._depth = len(self._steps), depth
        self._ready: queue.Queue[tuple[Batch, torch.cuda.Event | None] | BaseException] = queue.Queue(depth)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)

    def __enter__(self) -> Loader:
        if self._depth:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        if self._depth:
            self._thread.join()

    def __iter__(self) -> Iterator[Batch]:
        """The batches still to be given. Raises what the thread met, e.g. ``MemoryError``."""
        if not self._depth:
            yield from map(self._batch, self._steps)
            return
        while self._left:
            if not self._thread.ident or self._closed.is_set():
                raise RuntimeError("a loader gives batches inside its with block only")
            item = self._ready.get()
            if isinstance(item, BaseException):
                self._left = 0  # the thread has ended
                raise item
            self._left -= 1
            batch, copied = item
            if copied:
                self._hand_over(batch, copied)
            yield batch

    def _work(self) -> None:
        try:
            for step in self._steps:
                with torch.cuda.stream(self._stream):  # nothing without one
                    batch = self._batch(step)
                    copied = self._stream.record_event() if self._stream else None
                if not self._put((batch, copied)):
                    return
        except BaseException as error:
            self._put(error)

    def _hand_over(self, batch: Batch, copied: torch.cuda.Event) -> None:
        """Have the network's stream wait for the copy, and its memory kept until that stream is done with it."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in (batch.pixels, batch.targets):
            tensor.record_stream(stream)

    def _put(self, item: tuple[Batch, torch.cuda.Event | None] | BaseException) -> bool:
        """Put an item into the queue; False if nobody will take it any more."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _batch(self, step: int) -> Batch:
        epoch, index, position = self._order.at(step)
        pixels = self._read(index)
        pixels = pixels if isinstance(pixels, Tensor) else to_device(pixels, self._device)
        targets = to_device(self._targets[index], self._device)
        return Batch(step, epoch, index, position, pixels, targets)


def pixels_of(images: NDArray[np.uint8], read: Read, device: torch.device) -> Read:
    """What reads ``images`` for a device: a small set stays on a GPU whole, all else is ``read`` batch by batch."""
    return resident(images, device) if device.type == "cuda" and images.nbytes <= RESIDENT else read


def resident(images: NDArray[np.uint8], device: torch.device) -> Read:
    """What reads ``images`` ``(N, H, W, C)`` after they were copied to the device as a whole: no pixels cross over in a
    step.
    """
    whole = torch.from_numpy(np.array(images)).to(device)
    return lambda index: whole[torch.from_numpy(index).to(device)]


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A fresh array as a tensor on the device, by way of pinned memory where that lets the copy overlap."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
