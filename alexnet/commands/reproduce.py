"""``alexnet reproduce``: what the documents say of AlexNet, beside what was measured."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet.commands.console import print_json
from alexnet.commands.progress import make_reporter
from alexnet.commands.train import train
from alexnet.core.errors import UserError
from alexnet.reproduce.claims import DOCUMENTS, STATEMENTS, get_statement
from alexnet.reproduce.experiments import EXPERIMENTS, Device, Experiment, needed
from alexnet.reproduce.finding import Finding, Results, Statement, results_folder
from alexnet.reproduce.results import keep
from alexnet.runtime.device import choose_machine
from alexnet.runtime.log import Reporter
from alexnet.visualize.tables import table

WIDTH = 100
RUNS = Path("runs") / "reproduce"


def main(arguments: argparse.Namespace) -> int:
    """Check the statements asked for, or all of them, and print what was found."""
    chosen = [get_statement(name) for name in arguments.claims] or list(STATEMENTS.values())
    results = Results(results_folder())
    if arguments.run:
        run_queue(results, arguments)
        results = Results(results_folder())
    findings = [(statement, statement.check(results)) for statement in chosen]
    if arguments.json:
        print_json([_document(statement, finding) for statement, finding in findings])
    elif arguments.claims:
        print("\n\n".join(_page(statement, finding) for statement, finding in findings))
    else:
        rows = [(s.id, s.says, s.source, finding.verdict) for s, finding in findings]
        print(table(("claim", "says", "in", "verdict"), rows))
        print("\n" + "\n".join(f"{name}: {what}" for name, what in DOCUMENTS.items()))
        print("\nalexnet reproduce CLAIM shows the figures and the evidence")
        if not results_folder().is_dir():
            print("there is no results/ here: claims about trainings are answered in a checkout of the project")
    return 0


def run_queue(results: Results, arguments: argparse.Namespace) -> None:
    """Train each seed of each experiment and keep its results; what was finished or begun earlier is not done again."""
    device: Device = "cuda" if choose_machine(arguments.device, "auto").device.type == "cuda" else "cpu"
    queue = needed(arguments.claims, results, device, missing=arguments.missing)
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


def _document(statement: Statement, finding: Finding) -> dict[str, str]:
    return {
        "id": statement.id,
        "claim": statement.says,
        "source": statement.source,
        "claimed": statement.claimed,
        "measured": finding.measured,
        "verdict": finding.verdict,
        "evidence": finding.evidence,
    }


def _page(statement: Statement, finding: Finding) -> str:
    """One statement with everything about it, in lines that fit a terminal."""
    fields = {"in": statement.source, "claimed": statement.claimed, "measured": finding.measured}
    fields |= {"verdict": finding.verdict, "evidence": finding.evidence}
    if minutes := sum(EXPERIMENTS[name].minutes for name in statement.trainings if name in EXPERIMENTS):
        fields["anew"] = f"alexnet reproduce {statement.id} --run: about {minutes:.0f} minutes a seed on two CPU cores"
    lines = [f"{statement.id}  {statement.says}"]
    for name, text in fields.items():
        lines.append(textwrap.fill(text, WIDTH, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join(lines)
