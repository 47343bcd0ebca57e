"""Commands whose images several processes can share, with ``--nproc N``: ``alexnet evaluate``, ``alexnet features``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from alexnet.core.errors import UserError
from alexnet.distributed.launch import end_with_parent, launch
from alexnet.distributed.process_group import Place, local_device, place_in_group


def run_in_processes(arguments: argparse.Namespace, run: Callable[[], Callable[[], int]]) -> int:
    """Run a command in ``arguments.nproc`` processes; returns its exit status.

    ``run``: does the work in each process and returns a function that prints the result, which the first process calls
    for the exit status. Raises ``UserError`` if there are more processes than GPUs.
    """
    end_with_parent()
    place = place_in_group()
    if arguments.nproc > 1 and not place:
        local_device(arguments.device, Place(arguments.nproc - 1, arguments.nproc, arguments.nproc - 1))
        return launch(arguments.words, arguments.nproc, max_restarts=0)
    if not place or not place.rank:
        return run()()
    try:
        run()
    except UserError:  # the first process has printed it
        return 2
    return 0
