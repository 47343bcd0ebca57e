"""The report of ``alexnet verify``: findings, layers, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from alexnet.analysis.layer_statistics import LayerStatistics
from alexnet.analysis.preprocessing_trials import Trials

Fault = Literal[
    "not-finite", "dead-units", "untrained", "initial-layer", "initial-bias", "foreign-layer", "fc6-order",
    "channel-order", "batch-norm-statistics", "retouched", "changed-file", "shapes", "preprocessing",
    "huge-weights", "pixel-normalization", "resize", "dropout-scaling", "lrn-alpha",
]  # fmt: skip
Verdict = Literal["right", "wrong", "unknown"]
Training = Literal["trained", "untrained", "partly trained", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One result. ``sentence``: for people. ``fault``: its name if ``verdict`` is ``"wrong"``. ``layers``: concerned.

    ``figures``: the numbers behind it.
    """

    verdict: Verdict
    sentence: str
    fault: Fault | None = None
    layers: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """A layer: its name here and in the file, its shape in this program's layout, statistics (None if not finite)."""

    layer: str
    source: str
    shape: tuple[int, ...]
    statistics: LayerStatistics | None
    bias: str
    sha256: str


@dataclass(frozen=True)
class VerifyReport:
    """What was found. ``status``: 0 consistent, 1 suspicious. ``summary``: the verdict in a sentence.

    ``variant``: None if no variant has these shapes. ``trials``: accuracies under other preprocessings, if images were
    given.
    """

    model: str
    format: str
    framework: str
    variant: str | None
    reasons: tuple[str, ...]
    training: Training
    summary: str
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    trials: Trials | None = None

    @property
    def status(self) -> int:
        """0 if no fault was found, 1 otherwise."""
        return int(bool(self.faults))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The names of the faults, each once."""
        return tuple(dict.fromkeys(finding.fault for finding in self.findings if finding.fault))


def summarize_report(report: VerifyReport) -> str:
    """The verdict in one sentence."""
    what = {
        "trained": "trained", "untrained": "not trained", "partly trained": "partly trained",
        "unknown": "trained or not: the weights are too few to tell",
    }[report.training]  # fmt: skip
    name = report.variant or "no variant of this program"
    if report.faults:
        known = () if what == "not trained" and "untrained" in report.faults else (what,)
        return f"SUSPICIOUS: {', '.join(report.faults)}; {', '.join((*known, name))}"
    return f"consistent: {what}, whole, {name}"
