"""``alexnet reproduce``: what the documents say of AlexNet, beside what was measured."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from alexnet.commands.console import print_json
from alexnet.commands.progress import make_reporter
from alexnet.commands.train import train
from alexnet.reproduce.claims import DOCUMENTS, STATEMENTS, get_statement
from alexnet.reproduce.experiments import Experiment, needed
from alexnet.reproduce.finding import Finding, Results, Statement
from alexnet.reproduce.results import keep
from alexnet.visualize.tables import table

WIDTH = 100
RUNS = Path("runs") / "reproduce"


def results_folder() -> Path:
    """``results/`` here, else that of the checkout that this package stands in; it may be missing."""
    beside = Path(__file__).parents[2] / "results"
    return beside if beside.is_dir() and not Path("results").is_dir() else Path("results")


def main(arguments: argparse.Namespace) -> int:
    """Check the statements asked for, or all of them, and print what was found."""
    chosen = [get_statement(name) for name in arguments.claims] or list(STATEMENTS.values())
    results = Results(results_folder())
    if arguments.run:
        run_experiments(needed(arguments.claims, results, missing=arguments.missing), arguments)
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


def run_experiments(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> None:
    """Train each seed of each experiment and keep its results; what was finished or begun earlier is not done again."""
    reporter = make_reporter()
    places = {place.partition(":")[0]: place for place in arguments.data}
    for number, experiment in enumerate(experiments, 1):
        recipe = experiment.build()
        cost = f"about {experiment.minutes * len(experiment.seeds):.0f} minutes on two CPU cores"
        reporter.say(f"{number}/{len(experiments)}  {experiment.name}, {len(experiment.seeds)} seed(s), {cost}")
        runs = [
            train(
                recipe, data=places.get(recipe.data.source), out=RUNS / f"{experiment.name}-{seed}", seed=seed,
                device=arguments.device, data_root=arguments.data_root, reporter=reporter,
            )
            for seed in experiment.seeds
        ]  # fmt: skip
        reporter.say(f"kept in {keep([run.folder for run in runs])}")


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
    lines = [f"{statement.id}  {statement.says}"]
    for name, text in fields.items():
        lines.append(textwrap.fill(text, WIDTH, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join(lines)
