"""A statement about AlexNet, and the result of its check: a verdict, a figure and the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet_lab.results.reader import Results, divergence

Verdict = Literal["supported", "not supported", "corrected", "inconclusive at this scale", "pending"]
SUPPORTED: Verdict = "supported"
NOT_SUPPORTED: Verdict = "not supported"
CORRECTED: Verdict = "corrected"
INCONCLUSIVE: Verdict = "inconclusive at this scale"
PENDING: Verdict = "pending"
RUN_ALL = "alexnet reproduce --run --missing"  # the command that measures what is missing


@dataclass(frozen=True)
class ClaimResult:
    """The result of checking a statement.

    ``verdict``: one of five words. ``figure``: the figure that the verdict depends on, with its range or interval;
    empty if there is none. ``reason``: why the verdict is *inconclusive*, *pending* or *corrected*, in one or two
    sentences. ``measured``: all figures. ``evidence``: the command or the file that shows them. ``details``: a table.
    """

    verdict: Verdict
    measured: str
    evidence: str
    figure: str = ""
    reason: str = ""
    details: str = ""

    @property
    def in_short(self) -> str:
        """The verdict, then the figure: "inconclusive at this scale: 5.0 × or more"."""
        return f"{self.verdict}: {self.figure}" if self.figure else self.verdict


Check = Callable[[Results], ClaimResult]


@dataclass(frozen=True)
class Statement:
    """What a source claims, and how it is checked.

    ``sources``: keys of ``SOURCES`` in ``registry.py``. ``claimed``: the claimed figure. ``trainings``: names of the
    measured trainings that ``check`` reads; empty if it computes its figures.
    """

    id: str
    statement: str
    sources: tuple[str, ...]
    claimed: str
    check: Check
    trainings: tuple[str, ...] = ()


def unmeasured(results: Results, trainings: Sequence[str]) -> ClaimResult:
    """The result of a check whose trainings have no finished run: they all diverged, or were not measured."""
    if lost := [f"{name} {divergence(results, name)}" for name in trainings if results.diverged(name)]:
        reason = "All seeds of a training that the check needs diverged."
        return ClaimResult(INCONCLUSIVE, "–", results.evidence(*trainings), "; ".join(lost), reason)
    return pending(f"Not measured yet: {', '.join(trainings)}.")


def pending(reason: str, measured: str = "–", evidence: str = RUN_ALL) -> ClaimResult:
    """The result of a check that has not been made yet."""
    return ClaimResult(PENDING, measured, evidence, reason=reason)
