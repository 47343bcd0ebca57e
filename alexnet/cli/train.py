"""``alexnet train``: prepare the images if needed, train, evaluate, and write the run folder with its report.

With ``--nproc N``, this process prepares the images, starts N processes that train together, and prints the result.
"""

from __future__ import annotations

import argparse
from typing import Any

from alexnet.api import plan_training, train
from alexnet.cli.console import print_json, print_text
from alexnet.config import assignments
from alexnet.core.errors import DivergedError, StoppedError
from alexnet.core.files import folder_bytes
from alexnet.distributed.groups import check_processes
from alexnet.distributed.launch import end_with_parent, is_launched, launch
from alexnet.distributed.process_group import Place, local_device, place_in_group
from alexnet.recipes import DEFAULT, get_recipe
from alexnet.report.markdown import readings
from alexnet.report.text import describe_measure
from alexnet.runtime.group import Parallel
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run
from alexnet.training.build import fits_probe_only

SHOWN = ("report.html", "report.md", "curves.png")
LARGE = 100e6  # bytes: checkpoints of a finished run above this size are mentioned


def main(arguments: argparse.Namespace) -> int:
    """Train and print the result; returns the exit status. ``--set help`` prints the fields of the recipe instead."""
    if "help" in arguments.set:
        default = "photos" if arguments.data or arguments.labels else DEFAULT
        print("\n".join(assignments(get_recipe(arguments.recipe or default))))
        return 0
    shorthands = {"train.precision": arguments.precision, "train.freeze": arguments.freeze}
    overrides = [*arguments.set, *(f"{field}={value}" for field, value in shorthands.items() if value)]
    settings = {
        "data": arguments.data, "labels": arguments.labels, "out": arguments.out, "init": arguments.init,
        "overrides": overrides, "device": arguments.device, "reference": arguments.reference,
        "data_root": arguments.data_root, "weights_root": arguments.weights_root,
        "keep_checkpoints": arguments.keep_checkpoints,
    }  # fmt: skip
    end_with_parent()
    place = place_in_group()
    if place and place.rank:
        return _train_quietly(arguments, settings)
    launching = arguments.nproc > 1 and not place
    found = _train_in_processes(arguments, settings) if launching else None
    if isinstance(found, int):
        return found
    parallel: Parallel = "data" if launching else arguments.parallel  # after launching, one process is enough
    run = found or train(arguments.recipe, seed=arguments.seed, parallel=parallel, **settings)
    return 0 if is_launched() else _print_result(run, arguments)


def _train_in_processes(arguments: argparse.Namespace, settings: dict[str, Any]) -> Run | int | None:
    """Train in several processes; returns the finished run, or the exit status if the training has not finished.

    None if one process is enough: the run has finished before, or only a linear probe has to be fitted.
    """
    check_processes(arguments.nproc, arguments.parallel)
    local_device(arguments.device, Place(arguments.nproc - 1, arguments.nproc, arguments.nproc - 1))
    # On the CPU: the memory of a GPU belongs to the processes that train.
    plan = plan_training(arguments.recipe, **{**settings, "device": "cpu"}, reporter=make_reporter())
    if plan.run.finished or fits_probe_only(plan.recipe, plan.dataset):
        return None
    plan.check_parallel(arguments.parallel, arguments.nproc or 1)
    return launch(arguments.words, arguments.nproc, arguments.max_restarts) or Run(plan.run.folder)


def _train_quietly(arguments: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train without output in a process that is not the first of its group; returns the exit status."""
    try:
        train(arguments.recipe, seed=arguments.seed, parallel=arguments.parallel, **settings)
    except StoppedError as stopped:
        return stopped.status
    except DivergedError:
        return 2
    return 0


def _print_result(run: Run, arguments: argparse.Namespace) -> int:
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
        return 0
    if result["split"]:
        print_text(describe_measure(result), *readings(run.recipe, result))
    print_text(f"the run is in {run.folder}: {', '.join(n for n in SHOWN if (run.folder / n).exists())}, model/")
    if not arguments.keep_checkpoints and (size := folder_bytes(run.checkpoints)) > LARGE:
        print_text(
            f"{run.checkpoints} has {size / 1e9:.1f} GB that a finished run does not need: you can remove that folder"
        )
    return 0
