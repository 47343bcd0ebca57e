"""``alexnet reproduce``: what the documents say of AlexNet, beside what was measured."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from alexnet.commands.console import print_json
from alexnet.core.errors import UserError
from alexnet.reproduce.claims import DOCUMENTS, STATEMENTS, get_statement
from alexnet.reproduce.finding import Finding, Results, Statement
from alexnet.visualize.tables import table

WIDTH = 100


def results_folder() -> Path:
    """``results/`` here, else beside the package. Raises ``UserError`` if there is none."""
    for folder in (Path("results"), Path(__file__).parents[2] / "results"):
        if folder.is_dir():
            return folder
    raise UserError("there is no folder results/ here: run this in a checkout of the project")


def main(arguments: argparse.Namespace) -> int:
    """Check the statements asked for, or all of them, and print what was found."""
    chosen = [get_statement(name) for name in arguments.claims] or list(STATEMENTS.values())
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
    lines = [f"{statement.id}  {statement.says}"]
    for name, text in fields.items():
        lines.append(textwrap.fill(text, WIDTH, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join(lines)
