"""Groups of several processes on ``torch.distributed``; here, each has its part of every batch (data parallel).

torchrun, or ``alexnet train --nproc N``, starts the processes and sets the environment variables RANK, WORLD_SIZE and
LOCAL_RANK. The gradients of all parameters are summed by one all-reduce, in the order of the parameters: unlike the
buckets of ``DistributedDataParallel``, which are arranged anew after a restart, this gives the same bits after it
(docs/devices.md). On CPUs gloo communicates, on NVIDIA GPUs NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.rendezvous import rendezvous

from alexnet.core.errors import ConnectionLostError, UserError
from alexnet.models.layers import at_least_fp32
from alexnet.runtime.group import Group, Result

TIMEOUT = datetime.timedelta(seconds=120)  # if a process does not answer for so long, the others end
PATIENCE = 7 * 86_400.0  # seconds, for work that only the first process does, such as preparing images
LOOK_SECONDS = 0.02
_groups = itertools.count()  # of this process


@dataclass(frozen=True)
class Place:
    """The place of this process among those that were started together: the values of torchrun's variables."""

    rank: int
    size: int
    local_rank: int


def place_in_group() -> Place | None:
    """The place of this process; None if it was started alone. Raises ``UserError`` for variables that do not fit."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name, "0") for name in names]
    if not all(value.isdigit() for value in values) or not int(values[0]) < int(values[1]):
        found = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UserError(f"the environment variables of torchrun do not fit: {found}")
    place = Place(*map(int, values))
    if place.size > 1 and not all(name in os.environ for name in ("MASTER_ADDR", "MASTER_PORT")):
        raise UserError("RANK and WORLD_SIZE are set, but MASTER_ADDR or MASTER_PORT is not: start with torchrun")
    return place if place.size > 1 else None


def local_device(device: str | None, place: Place) -> torch.device:
    """The device of this process: a GPU of its own, or the CPU. Raises ``UserError`` if there are too few GPUs."""
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device {device!r} cannot be used here by several processes: try --device cpu")
    if device not in (None, "cuda"):
        raise UserError(f"--device {device} is one GPU, and {place.size} processes need one each: give --device cuda")
    if place.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"there are more processes than GPUs ({torch.cuda.device_count()}): give --nproc "
            f"{torch.cuda.device_count()}, or --device cpu"
        )
    return torch.device("cuda", place.local_rank)


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """A context around exchanges, whose errors become ``ConnectionLostError``: they have many types, and are long."""
    try:
        yield
    except RuntimeError as error:  # also DistError and those of gloo
        raise ConnectionLostError(str(error).splitlines()[0]) from error


class ProcessGroup(Group):
    """Several processes. Each exchange waits for all of them, so all must call the same methods in the same order.

    Any method raises ``ConnectionLostError`` if another process has ended or does not answer within ``TIMEOUT``.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.size, self.device, self._device = place.rank, place.size, str(device), device
        self._calls, self._owned = 0, not dist.is_initialized()
        self.scatters = device.type == "cuda"  # gloo's reduce-scatter sends as much as its all-reduce
        attempt, number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), next(_groups)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = next(iter(rendezvous("env://")))[0] if self._owned else _get_default_store()  # else e.g. Ray's group
        # A restarted attempt needs names of its own: the store outlives the processes and holds their old addresses.
        self._store = PrefixStore(f"attempt-{attempt}-group-{number}", store)
        if self._owned:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)

    def close(self) -> None:
        """Leave the group. Processes that wait for this one then raise ``ConnectionLostError``."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left-{self.rank}", "")
        if self._owned and dist.is_initialized():
            dist.destroy_process_group()

    def part(self, count: int) -> slice:
        """See :class:`Group`."""
        return self.share(count)

    def share(self, count: int) -> slice:
        """The items of this process when ``count`` items are divided among all: contiguous, and perhaps none."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def shares(self, count: int) -> list[int]:
        """The number of items of each process when ``count`` items are divided among all."""
        return [(rank + 1) * count // self.size - rank * count // self.size for rank in range(self.size)]

    def prepare(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        """Let batch normalization in training use the statistics of the whole batch, in place."""
        for module in itertools.chain(*(each.modules() for each in copies)):
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GlobalBatchNorm2d
                setattr(module, "group", self)  # noqa: B010 – modules accept tensors only, for the type checker

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See :class:`Group`."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = self.reduce(_flatten_dense_tensors(gradients))  # type: ignore[no-untyped-call]
        for gradient, total in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):  # type: ignore[no-untyped-call]
            gradient.copy_(total)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place; returns it."""
        with exchange():
            dist.all_reduce(tensor)
        return tensor

    def totals(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Group`; the sums are float64."""
        total_loss, total_right = self.reduce(torch.stack([loss.double(), right.double()]))
        return total_loss, total_right

    def largest(self, *numbers: float) -> tuple[float, ...]:
        """See :class:`Group`."""
        values = torch.tensor(numbers, dtype=torch.float64)
        with exchange():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(values.tolist())

    def rows(self, own: Tensor | None, counts: Sequence[int]) -> list[Tensor]:
        """See :class:`Group`; the rows of this process are fp32 ``(counts[rank], columns)``."""
        columns = int(self.largest(0 if own is None else own.shape[1])[0])
        present = torch.zeros((0, columns), device=self._device) if own is None else own
        return [rows for rows in self.all_rows(present, counts) if len(rows)]

    def all_rows(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows of all processes, ``(counts[rank], …)`` each, in the dtype of ``own``."""
        padded = own.new_zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in counts]
        with exchange():
            dist.all_gather(found, padded)
        return [rows[:count] for rows, count in zip(found, counts, strict=True)]

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """See :class:`Group`. If the first process leaves the group, the others raise ``ConnectionLostError``."""
        self._calls += 1
        name = f"call-{self._calls}"
        if self.is_first:
            data = make()
            with exchange():
                self._store.set(name, str(len(data)))
        else:
            self._wait_for([name])
            with exchange():
                data = bytes(int(self._store.get(name)))
        tensor = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
        with exchange():
            dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def to_first(self, own: bytes) -> list[bytes]:
        """See :class:`Group`."""
        sizes = [int(size) for size in self.all_rows(torch.tensor([len(own)]), [1] * self.size)]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(own)] = torch.from_numpy(np.frombuffer(bytearray(own), np.uint8))
        found = [torch.empty_like(padded) for _ in sizes] if self.is_first else None
        with exchange():
            dist.gather(padded, found)
        return [data[:size].numpy().tobytes() for data, size in zip(found or (), sizes, strict=False)]

    def wait_for_all(self) -> None:
        """See :class:`Group`."""
        self._calls += 1
        names = [f"call-{self._calls}-{rank}" for rank in range(self.size)]
        with exchange():
            self._store.set(names[self.rank], "here")
        self._wait_for(names)

    def _wait_for(self, names: list[str]) -> None:
        """Wait until the store has these names. Raises ``ConnectionLostError`` if a process has left the group."""
        end = time.monotonic() + PATIENCE
        with exchange():
            while not self._store.check(names):  # in Python, so that signals are handled meanwhile
                left = any(self._store.check([f"left-{rank}"]) for rank in range(self.size))
                if (left or time.monotonic() > end) and not self._store.check(names):
                    raise ConnectionLostError("another process has ended")
                time.sleep(LOOK_SECONDS)

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """See :class:`Group`."""
        if not self.is_first:
            self.from_first(bytes)
            return function()
        result = function()
        self.from_first(bytes)
        return result


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the images of all processes. ``(N, C, H, W)``.

    ``torch.nn.SyncBatchNorm`` does not run on CPUs. The parameters and buffers are those of ``nn.BatchNorm2d``, and in
    evaluation mode it is one.
    """

    group: ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        y = at_least_fp32(x)
        shift = self.running_mean.to(y.dtype)
        y = y - shift[:, None, None]  # else, a mean far from 0 would cost digits of the variance
        channels, axes = x.shape[1], (0, 2, 3)
        count = torch.full((1,), y.numel() // channels, dtype=y.dtype, device=y.device)
        sums: Tensor = Sum.apply(torch.cat([y.sum(axes), (y * y).sum(axes), count]), self.group)
        total = sums[-1].detach()
        mean = sums[:channels] / total
        var = (sums[channels : 2 * channels] / total - mean * mean).clamp_min(0)
        with torch.no_grad():
            self._update_averages(mean + shift, var, total)
        scale = torch.rsqrt(var + self.eps) * self.weight
        normalized = (y - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)

    def _update_averages(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * total / (total - 1)).to(self.running_var.dtype), self.momentum)


class Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        """The sum over the processes of ``group``."""
        context.group = group
        return group.reduce(own.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum of the gradients."""
        total: Tensor = context.group.reduce(gradient.clone())
        return total, None
