"""``alexnet reproduce``: what the documents say of AlexNet, beside what was measured."""

from __future__ import annotations

import argparse
import textwrap

from alexnet.commands.console import print_json
from alexnet.commands.queue import TIMED, run_queue
from alexnet.reproduce import textbook
from alexnet.reproduce.claims import DOCUMENTS, STATEMENTS, get_statement
from alexnet.reproduce.experiments import EXPERIMENTS
from alexnet.reproduce.finding import Finding, Results, Statement, results_folder
from alexnet.visualize.tables import table

WIDTH = 100
VERDICT = 70  # characters of it in the table of all


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
        rows = [(s.id, s.says, s.source, textwrap.shorten(finding.verdict, VERDICT)) for s, finding in findings]
        print(table(("claim", "says", "in", "verdict"), rows))
        print("\n" + "\n".join(f"{name}: {what}" for name, what in DOCUMENTS.items()))
        print("\nalexnet reproduce CLAIM shows the figures and the evidence")
        if not results_folder().is_dir():
            print("there are no results/ beside the package: a checkout of the project answers claims about trainings")
    return 0


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
    trainings = [EXPERIMENTS[name] for name in statement.trainings]
    minutes = sum(training.minutes * len(training.seeds("cpu")) for training in trainings)
    if statement.id == TIMED:
        minutes = textbook.MINUTES
    if minutes:
        fields["anew"] = f"alexnet reproduce {statement.id} --run: about {minutes:.0f} minutes on two CPU cores"
    lines = [f"{statement.id}  {statement.says}"]
    for name, text in fields.items():
        lines.append(textwrap.fill(text, WIDTH, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join([*lines, *([textwrap.indent(f"\n{finding.details}", "  ")] if finding.details else [])])
