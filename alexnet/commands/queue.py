"""The queue behind ``alexnet reproduce --run``: what is missing in ``results/`` is trained or timed, cheapest first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet.commands.prepare import prepare
from alexnet.commands.progress import make_reporter
from alexnet.commands.train import train
from alexnet.core.errors import UserError
from alexnet.data.sources import open_source
from alexnet.recipes import get_recipe
from alexnet.reproduce import textbook
from alexnet.reproduce.experiments import Device, Experiment, needed
from alexnet.reproduce.finding import Results
from alexnet.reproduce.results import demand_clean, keep, keep_comparison
from alexnet.runtime.device import choose_machine
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import source_commit

RUNS = Path("runs") / "reproduce"
TIMED = "C17"  # the claim that is about speed


def run_queue(results: Results, arguments: argparse.Namespace) -> None:
    """Train each seed of each experiment and keep its results; what was finished or begun earlier is not done again.

    Raises ``UserError`` before anything is trained that could not be kept, and at the end, after all others, if some
    could not be run.
    """
    demand_clean(source_commit(), "--run works only")
    device: Device = "cuda" if choose_machine(arguments.device, "auto").device.type == "cuda" else "cpu"
    timed = not arguments.claims or TIMED in {name.upper() for name in arguments.claims}
    if timed and not (arguments.missing and results.comparison(textbook.RECIPE, device)):
        time_the_textbook(arguments)
    if (claims := [name for name in arguments.claims if name.upper() != TIMED]) != arguments.claims and not claims:
        return
    queue = needed(claims, results, device, missing=arguments.missing)
    reporter = make_reporter()
    places = {place.partition(":")[0]: place for place in arguments.data}
    failed: list[str] = []
    for number, experiment in enumerate(queue, 1):
        seeds = experiment.seeds(device)
        cost = f"about {experiment.minutes * len(seeds):.0f} minutes" if device == "cpu" else "on this GPU"
        reporter.say(f"{number}/{len(queue)}  {experiment.name}, {len(seeds)} seed(s), {cost}")
        try:
            reporter.say(f"kept in {run_experiment(experiment, seeds, places, arguments, reporter)}")
        except UserError as error:  # images that are not here, say: the next training may do without them
            reporter.say(f"{experiment.name}: {error.line}")
            failed.append(experiment.name)
    if failed:
        raise UserError(f"{len(failed)} of {len(queue)} trainings could not be run, see above: {', '.join(failed)}")


def run_experiment(
    experiment: Experiment,
    seeds: Sequence[int],
    places: Mapping[str, str],
    arguments: argparse.Namespace,
    reporter: Reporter,
) -> Path:
    """Train each seed, or go on with it, and keep the results. ``places``: where sets are, by name."""
    recipe = experiment.build()
    runs = [
        train(
            recipe, data=places.get(recipe.data.source), out=RUNS / f"{experiment.name}-{seed}", seed=seed,
            device=arguments.device, data_root=arguments.data_root, reporter=reporter,
        )
        for seed in seeds
    ]  # fmt: skip
    return keep([run.folder for run in runs])


def time_the_textbook(arguments: argparse.Namespace) -> None:
    """The textbook's own loop beside ours, kept in ``results/``."""
    reporter = make_reporter()
    place = next((text for text in arguments.data if text.startswith("fashion-mnist:")), "fashion-mnist")
    store, _ = prepare(open_source(place, arguments.data_root, reporter.say), None, None, reporter)
    recipe = get_recipe(textbook.RECIPE)
    reporter.say(f"{recipe.name} beside the textbook's own loop, about four minutes on two CPU cores")
    value = textbook.compare(store, choose_machine(arguments.device, recipe.train.precision))
    reporter.say(f"kept in {keep_comparison(value)}")
