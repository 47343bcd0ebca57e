"""Batches of a prepared dataset on the device, read ahead by a thread.

While the network computes one step, the thread reads the next batches. For a GPU it also copies them, on a separate
CUDA stream, so that the copies overlap with the computation.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.data.sampler import Sampler

DEPTH = 3  # batches that are read ahead
LOOK_SECONDS = 0.001  # between two looks at a GPU that is still busy
RESIDENT = 0.4  # of the free memory of a GPU: a dataset of up to this size is copied to it as a whole
BLOCK = 2**26  # bytes of pixels that are copied at once
LOOK_AHEAD = 8192  # images, counted in whole batches, that are requested before they are read, from a network
Read = Callable[[NDArray[np.int64]], NDArray[np.uint8] | Tensor]
"""From image numbers ``(N,)`` to new pixels ``(N, H, W, C)`` uint8."""


class Pixels(Protocol):
    """The pixels of all images of a prepared dataset: in a file on this disk, or in shards."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, S, S, C)``: the number of images, their side twice, and the channels."""

    @property
    def address(self) -> str | None:
        """Where the shards are, perhaps with a signature, which is not for messages; None for images on this disk."""

    @property
    def prefetch(self) -> Callable[[NDArray[np.int64]], None] | None:
        """A function that begins to download the images ``index`` and does not wait; None for images on this disk."""

    def whole(self) -> NDArray[np.uint8]:
        """All images ``(N, S, S, C)``: memory-mapped, or read into memory if they are in shards."""

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """New pixels ``(len(index), S, S, C)`` of the images ``index``; see ``PreparedDataset.read``."""


@dataclass(frozen=True)
class Batch:
    """The images of one step, or the part of them that one of several processes has.

    ``all_index`` ``(B,)`` int64: the positions of all images of the step in the prepared dataset; ``part``: the slice
    of this process; ``index`` ``(N,)`` int64: ``all_index[part]``; ``position`` ``(N,)`` int64: their positions in the
    epoch. ``pixels`` ``(N, H, W, C)`` uint8 and ``targets`` ``(N,)`` int64 are on the device.
    """

    step: int
    epoch: int
    all_index: NDArray[np.int64]
    part: slice
    position: NDArray[np.int64]
    pixels: Tensor
    targets: Tensor

    @property
    def index(self) -> NDArray[np.int64]:
        """The numbers of the images of this process in the prepared dataset, ``(N,)``."""
        return self.all_index[self.part]


class Loader:
    """The batches of steps ``start`` to ``stop − 1``, in order, once each. A context: its thread ends with it.

    ``read``: returns the pixels of a batch, on the CPU or on the device; it is called in the thread. ``targets``:
    ``(N,)`` int64, the labels of all images; ``sampler``: chooses the images of each step. ``depth``: the number of
    batches that are read ahead; with 0 there is no thread, and a batch is read when it is requested. ``part``: a
    function from the number of images of a step to the slice that this process reads; by default all. ``prefetch``: is
    called with the images of later steps, about ``LOOK_AHEAD`` of them, so that they can be downloaded meanwhile.

    ``waited``: the seconds for which the device has had nothing to do because no batch was ready.
    """

    def __init__(
        self,
        read: Read,
        targets: NDArray[np.int64],
        sampler: Sampler,
        device: torch.device,
        start: int,
        stop: int,
        depth: int = DEPTH,
        part: Callable[[int], slice] = slice,
        prefetch: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        self._read, self._targets, self._sampler, self._part = read, targets, sampler, part
        self._device, self._steps = device, range(start, stop)
        self._prefetch, self._requested = prefetch, start  # the first step whose images were not requested yet
        self._left, self._depth = len(self._steps), depth
        self.waited = 0.0
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
        """The remaining batches. Raises the exception of the thread, e.g. ``MemoryError``."""
        if not self._depth:
            for step in self._steps:
                with self._waiting():
                    batch = self._batch(step)
                yield batch
            return
        while self._left:
            if not self._thread.ident or self._closed.is_set():
                raise RuntimeError("a loader gives batches inside its with block only")
            item = self._take()
            if isinstance(item, BaseException):
                self._left = 0  # the thread has ended
                raise item
            self._left -= 1
            batch, copied = item
            if copied:
                self._wait_for_copy(batch, copied)
            yield batch

    def _take(self) -> tuple[Batch, torch.cuda.Event | None] | BaseException:
        """The next item. The wait for it counts from when the device has finished its work."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._ready.get(block=self._busy(), timeout=LOOK_SECONDS)
            if not self._busy():
                with self._waiting():
                    return self._ready.get()

    def _busy(self) -> bool:
        """Whether the device still computes. A CPU has always finished when the next batch is requested."""
        return self._stream is not None and not torch.cuda.current_stream(self._device).query()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def _work(self) -> None:
        try:
            for step in self._steps:
                with torch.cuda.stream(self._stream):  # no effect if it is None
                    batch = self._batch(step)
                    copied = self._stream.record_event() if self._stream else None
                if not self._put((batch, copied)):
                    return
        except BaseException as error:
            self._put(error)

    def _wait_for_copy(self, batch: Batch, copied: torch.cuda.Event) -> None:
        """Let the network's stream wait for the copy, and keep the memory until that stream has used it."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in (batch.pixels, batch.targets):
            tensor.record_stream(stream)

    def _put(self, item: tuple[Batch, torch.cuda.Event | None] | BaseException) -> bool:
        """Put an item into the queue; False if the loader was closed meanwhile."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _look_ahead(self, step: int) -> None:
        """Request the images of the steps that follow."""
        while self._prefetch and self._requested < self._steps.stop:
            _, all_index, _ = self._sampler.at(self._requested)
            if self._requested > step + LOOK_AHEAD // len(all_index):
                return
            self._prefetch(all_index[self._part(len(all_index))])
            self._requested += 1

    def _batch(self, step: int) -> Batch:
        self._look_ahead(step)
        epoch, all_index, position = self._sampler.at(step)
        part = self._part(len(all_index))
        index = all_index[part]
        pixels = self._read(index)
        pixels = pixels if isinstance(pixels, Tensor) else to_device(pixels, self._device)
        targets = to_device(self._targets[index], self._device)
        return Batch(step, epoch, all_index, part, position[part], pixels, targets)


def pixels_of(pixels: Pixels, device: torch.device, count: int) -> Read:
    """The function that reads batches of a dataset for a device, ``count`` images in all.

    A dataset of up to ``resident_limit`` bytes is copied to a GPU as a whole, if at least as many images are read as it
    has. Otherwise the result is ``pixels.read``.
    """
    if count < pixels.shape[0] or math.prod(pixels.shape) > resident_limit(device):
        return pixels.read
    try:
        return resident(pixels.whole(), device)
    except torch.OutOfMemoryError:  # another process took the memory meanwhile
        return pixels.read


def resident_limit(device: torch.device) -> int:
    """The largest number of bytes of a dataset that is copied to the device as a whole; 0 on a CPU.

    It is a share of the memory that is free when the network is already there. Trainings that share a GPU therefore
    take less each; the processes of one training have a GPU each. The rest is for the activations of a step.
    """
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(RESIDENT * free)


def resident(images: NDArray[np.uint8], device: torch.device) -> Read:
    """Copy all ``images`` ``(N, H, W, C)`` to the device; returns the function that reads batches of them there.

    They are copied in blocks, so that the dataset, which may be memory-mapped, need not fit into the main memory.
    """
    whole = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, BLOCK * len(images) // max(1, images.nbytes))
    for start in range(0, len(images), step):
        whole[start : start + step] = torch.from_numpy(np.array(images[start : start + step]))
    return lambda index: whole[torch.from_numpy(index).to(device)]


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A new array as a tensor on the device; on a GPU through pinned memory, so that the copy can overlap with work.

    On the CPU the tensor shares the memory of the array.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
