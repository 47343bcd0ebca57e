"""``alexnet reproduce``: what the documents say of AlexNet, beside what was measured."""

from __future__ import annotations

import argparse
import statistics
import textwrap

from alexnet.cli.console import print_json
from alexnet.core.errors import UserError
from alexnet.report.tables import table
from alexnet_lab.claims.claim_result import ClaimResult, Results, Statement, results_folder
from alexnet_lab.claims.registry import DOCUMENTS, STATEMENTS, get_statement
from alexnet_lab.experiments import textbook
from alexnet_lab.experiments.job_queue import TIMED, run_queue
from alexnet_lab.experiments.registry import EXPERIMENTS, Experiment

WIDTH = 100
VERDICT = 70  # characters of it in the table of all


def main(arguments: argparse.Namespace) -> int:
    """Check the statements asked for, or all of them, and print what was found."""
    if arguments.missing and not arguments.run:
        raise UserError("--missing says what --run trains: give both")
    chosen = [get_statement(name) for name in arguments.claims] or list(STATEMENTS.values())
    results = Results(results_folder())
    if arguments.run:
        run_queue(results, arguments)
        results = Results(results_folder())
    findings = [(statement, statement.check(results)) for statement in chosen]
    if arguments.json:
        print_json([_document(statement, finding) for statement, finding in findings])
    elif arguments.claims:
        print("\n\n".join(_page(statement, finding, results) for statement, finding in findings))
    else:
        rows = [(s.id, s.says, s.source, textwrap.shorten(finding.verdict, VERDICT)) for s, finding in findings]
        print(table(("claim", "says", "in", "verdict"), rows))
        print("\n" + "\n".join(f"{name}: {what}" for name, what in DOCUMENTS.items()))
        print("\nalexnet reproduce CLAIM shows the figures and the evidence")
        if not results_folder().is_dir():
            print("there are no results/ beside the package: a checkout of the project answers claims about trainings")
    return 0


def _minutes(experiment: Experiment, results: Results) -> float:
    """What an experiment costs on a CPU: as its newest runs measured it, else as it is estimated."""
    seconds = [run["seconds"] for run in results.runs(experiment.name, "cpu")]
    each = statistics.median(seconds) / 60 if seconds else experiment.minutes
    return each * len(experiment.seeds("cpu"))


def _document(statement: Statement, finding: ClaimResult) -> dict[str, str]:
    return {
        "id": statement.id,
        "claim": statement.says,
        "source": statement.source,
        "claimed": statement.claimed,
        "measured": finding.measured,
        "verdict": finding.verdict,
        "evidence": finding.evidence,
    }


def _page(statement: Statement, finding: ClaimResult, results: Results) -> str:
    """One statement with everything about it, in lines that fit a terminal."""
    fields = {"in": statement.source, "claimed": statement.claimed, "measured": finding.measured}
    fields |= {"verdict": finding.verdict, "evidence": finding.evidence}
    trainings = [EXPERIMENTS[name] for name in statement.trainings]
    minutes = textbook.MINUTES if statement.id == TIMED else sum(_minutes(item, results) for item in trainings)
    if minutes:
        fields["anew"] = f"alexnet reproduce {statement.id} --run: about {minutes:.0f} minutes on two CPU cores"
        if on_gpu := sum(len(item.seeds("cuda")) for item in trainings):
            fields["anew"] += f"; on a GPU {on_gpu} trainings, not timed yet"
    lines = [f"{statement.id}  {statement.says}"]
    for name, text in fields.items():
        lines.append(textwrap.fill(text, WIDTH, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join([*lines, *([textwrap.indent(f"\n{finding.details}", "  ")] if finding.details else [])])
