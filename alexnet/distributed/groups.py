"""The group that a process belongs to: alone, or one of several that divide the work in one of three ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from alexnet.config import Recipe
from alexnet.core.errors import UserError
from alexnet.distributed.divided_layers import COLUMNS, ColumnGroup, HybridGroup, check_columns, divided_linear_layers
from alexnet.distributed.process_group import ProcessGroup, exchange, local_device, place_in_group
from alexnet.runtime.group import ONE, Group, Parallel

GROUPS: dict[Parallel, type[ProcessGroup]] = {"data": ProcessGroup, "hybrid": HybridGroup, "columns": ColumnGroup}


@contextlib.contextmanager
def open_group(device: str | None, parallel: Parallel = "data") -> Iterator[Group]:
    """The group that this process belongs to: a context. Of a process that was started alone, the group of one.

    ``device``: as ``resolve_device`` takes it. Raises ``UserError`` if there are more processes than GPUs or if
    ``parallel`` needs another number of processes, and ``ConnectionLostError`` if the others cannot be reached.
    """
    place = place_in_group()
    check_processes(1 if place is None else place.size, parallel)
    if place is None:
        yield ONE
        return
    with exchange():
        group = GROUPS[parallel](place, local_device(device, place))
    try:
        yield group
    finally:
        group.close()


def check_processes(processes: int, parallel: Parallel) -> None:
    """Raise ``UserError`` if work cannot be divided among so many processes in this way."""
    if processes == 1 and parallel != "data":
        raise UserError(f"--parallel {parallel} needs several processes: add --nproc 2")
    if parallel == "columns" and processes != COLUMNS:
        raise UserError(f"--parallel columns needs two processes, not {processes}: give --nproc 2")


def check_divisible(network: nn.Module, parallel: Parallel) -> None:
    """Raise ``UserError`` if a network cannot be divided in this way."""
    if parallel == "hybrid":
        divided_linear_layers(network)
    elif parallel == "columns":
        check_columns(network)


def check_settings(recipe: Recipe, parallel: Parallel) -> None:
    """Raise ``UserError`` if settings of a recipe do not allow to divide the work in this way."""
    if parallel == "data":
        return
    if recipe.optim.optimizer == "lars":
        raise UserError(f"optim.optimizer=lars needs whole weight tensors: leave out --parallel {parallel}")
    if recipe.train.accumulate_steps > 1:
        raise UserError(f"train.accumulate_steps cannot be used with --parallel {parallel}: leave one of them out")
