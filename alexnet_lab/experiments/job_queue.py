"""The queue behind ``alexnet reproduce --run``: what is missing in ``results/`` is trained or timed, cheapest first."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from alexnet.api import evaluate, train
from alexnet.core.errors import DivergedError, UserError, unknown
from alexnet.data.sources import BUILTIN_SOURCES, open_source
from alexnet.recipes import get_recipe
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import Reporter
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run, source_commit
from alexnet.training.datasets import prepare
from alexnet_lab.claims.claim_result import Results
from alexnet_lab.claims.registry import needed
from alexnet_lab.experiments import textbook
from alexnet_lab.experiments.jobs import Job, run_jobs
from alexnet_lab.experiments.registry import Device, Experiment, run_folder
from alexnet_lab.results.records import check_clean, keep, keep_comparison

TIMED = "C17"  # the claim that is about speed


def run_queue(results: Results, arguments: argparse.Namespace) -> None:
    """Train each seed of each experiment and keep its results; what was begun earlier is continued.

    With ``--missing`` only what ``results/`` lacks; without it everything asked for is measured anew. Raises
    ``UserError`` before anything is trained that could not be kept, and at the end, after all others, if some could not
    be run.
    """
    check_clean(source_commit(), "--run works only")
    places = _places(arguments.data)
    device: Device = "cuda" if resolve_device(arguments.device, "auto").device.type == "cuda" else "cpu"
    claims = [name.upper() for name in arguments.claims]
    missing, reporter = arguments.missing, make_reporter()
    jobs: list[Job] = []
    if claims != [TIMED]:
        for item in needed([name for name in claims if name != TIMED], results, device, missing=missing):
            run = partial(run_experiment, item, device, places, arguments, reporter)
            jobs.append(Job(item.cost(device), _title(item, device), run))
    if (not claims or TIMED in claims) and not (missing and results.comparison(textbook.RECIPE, device)):
        title = f"{textbook.RECIPE} beside the textbook's own loop"
        jobs.append(Job(textbook.MINUTES, title, partial(time_the_textbook, places, arguments, reporter)))
    if not jobs:
        reporter.log("there is nothing to run for this on this kind of device")
    run_jobs(jobs, reporter)


def _title(experiment: Experiment, device: Device) -> str:
    seeds = len(experiment.seeds(device))
    cost = f", about {experiment.minutes * seeds:.0f} minutes" if device == "cpu" else ""
    return f"{experiment.name}, {seeds} seed(s){cost}"


def _places(texts: list[str]) -> dict[str, str]:
    """``NAME:PATH`` by name. Raises ``UserError`` for what is neither."""
    for text in texts:
        name, colon, path = text.partition(":")
        if not (colon and path):
            raise UserError(f"--data {text}: write NAME:PATH, e.g. cifar10:{path or text}")
        if name not in BUILTIN_SOURCES:
            raise unknown("source", name, BUILTIN_SOURCES)
    return {text.partition(":")[0]: text for text in texts}


def run_experiment(
    experiment: Experiment,
    device: Device,
    places: Mapping[str, str],
    arguments: argparse.Namespace,
    reporter: Reporter,
) -> Path:
    """Train each seed, or go on with it, average them, and keep the results. ``places``: where sets are, by name.

    Checkpoints of finished runs are removed once their results are kept: a queue leaves models, not gigabytes.
    """
    recipe = experiment.build()
    folders = [run_folder(recipe, device, seed, again=not arguments.missing) for seed in experiment.seeds(device)]
    for seed, folder in zip(experiment.seeds(device), folders, strict=True):
        with contextlib.suppress(DivergedError):  # an outcome, kept as the others are
            train(
                recipe, data=places.get(recipe.data.source), out=folder, seed=seed,
                device=arguments.device, data_root=arguments.data_root, reporter=reporter,
            )  # fmt: skip
    finished = [folder for folder in folders if Run(folder).finished]
    together = None
    if len(finished) > 1:
        *_, together = evaluate(
            *finished, data=places.get(recipe.data.source), views=10 if recipe.train.views == 10 else 1,
            device=arguments.device, precision=recipe.train.precision, data_root=arguments.data_root, reporter=reporter,
        )  # fmt: skip
    path = keep(folders, ensemble=together)
    for folder in folders:
        shutil.rmtree(Run(folder).checkpoints, ignore_errors=True)
    return path


def time_the_textbook(places: Mapping[str, str], arguments: argparse.Namespace, reporter: Reporter) -> Path:
    """The textbook's own loop beside ours, kept in ``results/``."""
    place = places.get("fashion-mnist", "fashion-mnist")
    dataset, _ = prepare(open_source(place, arguments.data_root, reporter.log), None, None, reporter)
    device_config = resolve_device(arguments.device, get_recipe(textbook.RECIPE).train.precision)
    return keep_comparison(textbook.compare(dataset.path, device_config))
