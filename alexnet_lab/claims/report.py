"""Results of claims as text: a table of all, a page for one, and JSON."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence

from alexnet.report.tables import table
from alexnet_lab.bench import textbook
from alexnet_lab.claims.claim_result import INCONCLUSIVE, PENDING, ClaimResult, Statement
from alexnet_lab.claims.registry import SOURCES, TIMED, TUTORIALS
from alexnet_lab.experiments.registry import EXPERIMENTS, Experiment
from alexnet_lab.results.reader import Results

WIDTH = 100
STATEMENT_WIDTH, FIGURE_WIDTH = 62, 56  # characters in the table of all claims

Checked = tuple[Statement, ClaimResult]


def check(statements: Sequence[Statement], results: Results) -> list[Checked]:
    """Every statement with the result of its check."""
    return [(statement, statement.check(results)) for statement in statements]


def describe_all(checked: Sequence[Checked]) -> str:
    """A table with a row for each claim, then the reasons of inconclusive and pending verdicts."""
    rows = [
        (
            s.id,
            textwrap.shorten(s.statement, STATEMENT_WIDTH, placeholder=" …"),
            result.verdict,
            textwrap.shorten(result.figure or "–", FIGURE_WIDTH, placeholder=" …"),
        )
        for s, result in checked
    ]
    reasons = [f"{s.id}: {result.reason}" for s, result in checked if result.verdict in (INCONCLUSIVE, PENDING)]
    why = "\n".join(textwrap.fill(reason, WIDTH, subsequent_indent="     ") for reason in reasons)
    parts = [table(("claim", "statement", "verdict", "figure"), rows), *([why] if why else [])]
    return "\n\n".join(parts)


def full_sources(statement: Statement) -> str:
    """The sources of a statement, each as a description."""
    if set(TUTORIALS) <= set(statement.sources):
        return "all five tutorials"
    return "; ".join(SOURCES[name] for name in statement.sources)


def describe_claim(statement: Statement, result: ClaimResult, results: Results) -> str:
    """Everything about one claim, in lines that fit a terminal."""
    fields = {"source": full_sources(statement), "claimed": statement.claimed, "measured": result.measured}
    fields |= {"verdict": result.in_short, "reason": result.reason, "evidence": result.evidence}
    trainings = [EXPERIMENTS[name] for name in statement.trainings]
    minutes = textbook.MINUTES if statement.id == TIMED else sum(_minutes(item, results) for item in trainings)
    if minutes:
        fields["measure"] = f"alexnet reproduce {statement.id} --run: about {minutes:.0f} minutes on two CPU cores"
        if on_gpu := sum(len(item.seeds("cuda")) for item in trainings):
            fields["measure"] += f"; on a GPU {on_gpu} trainings, not timed yet"
    lines = [f"{statement.id}  {statement.statement}"]
    for name, text in fields.items():
        if text:
            lines.append(
                textwrap.fill(
                    text,
                    WIDTH,
                    initial_indent=f"  {name:10}",
                    subsequent_indent=" " * 12,
                    break_on_hyphens=False,
                    break_long_words=False,
                )
            )
    return "\n".join([*lines, *([textwrap.indent(f"\n{result.details}", "  ")] if result.details else [])])


def _minutes(experiment: Experiment, results: Results) -> float:
    """The time of an experiment on a CPU: measured in its newest runs, else estimated."""
    seconds = [run["seconds"] for run in results.runs(experiment.name, "cpu")]
    each = statistics.median(seconds) / 60 if seconds else experiment.minutes
    return each * len(experiment.seeds("cpu"))


def to_document(statement: Statement, result: ClaimResult) -> dict[str, str]:
    """One claim for ``--json``."""
    return {
        "id": statement.id,
        "statement": statement.statement,
        "source": full_sources(statement),
        "claimed": statement.claimed,
        "measured": result.measured,
        "verdict": result.verdict,
        "figure": result.figure,
        "reason": result.reason,
        "evidence": result.evidence,
    }
