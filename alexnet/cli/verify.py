"""``alexnet verify``: what the weights of a model are and whether they are right: a verdict, then the evidence."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

from alexnet.analysis.verify_images import describe_trial
from alexnet.analysis.verify_report import VerifyReport
from alexnet.api import verify
from alexnet.cli.console import print_json, print_text
from alexnet.report.tables import table

MARKS = {"wrong": "FAULT", "right": "ok", "unknown": "?"}
LEGEND = "ok: as in trained networks; FAULT: as in no healthy network; ?: cannot be known from this, or only a remark"


def main(arguments: argparse.Namespace) -> int:
    """Verify and print; returns 0 for consistent weights and 1 for suspicious ones."""
    report = verify(
        arguments.model, against=arguments.against, data=arguments.data, labels=arguments.labels,
        variant=arguments.variant, mean=arguments.mean, images=arguments.images, data_root=arguments.data_root,
        weights_root=arguments.weights_root,
    )  # fmt: skip
    if arguments.json:
        print_json({**dataclasses.asdict(report), "status": report.status, "faults": list(report.faults)})
    else:
        print_text(*_lines(report))
    return report.status


def _lines(report: VerifyReport) -> Iterator[str]:
    yield f"{report.model}: {report.summary}"
    yield f"read as {report.format}, conventions of {report.framework}" + "".join(
        f"; {line}" for line in report.reasons
    )
    yield ""
    yield LEGEND
    order = sorted(report.findings, key=lambda finding: list(MARKS).index(finding.verdict))
    yield from (f"{MARKS[finding.verdict]:<6}{finding.sentence}" for finding in order)
    yield from (f"{MARKS['unknown']:<6}{line}" for line in report.unknown)
    yield ""
    yield table(
        ("layer", "in the file", "shape", "norm", "std", "σ₁ / edge", "nearest initialization", "distance", "bias"),
        [
            (row.layer, row.source, "×".join(map(str, row.shape)), *_figures(row.statistics), row.bias)
            for row in report.layers
        ],
    )
    if report.trials is not None:
        yield ""
        yield table(
            (
                "preprocessing", "right", "images", "accuracy %", "interval", "loss", "temperature", "behind the best",
                "",
            ),
            [
                (
                    describe_trial(trial), str(trial.right), str(trial.images), f"{100 * trial.accuracy:.1f}",
                    f"{100 * trial.low:.1f} to {100 * trial.high:.1f}", f"{trial.loss:.3f}", f"{trial.temperature:.2g}",
                    f"{100 * trial.behind:.1f} ± {100 * trial.error:.1f}", "tie" if trial.tie else "",
                )
                for trial in report.trials.trials
            ],
        )  # fmt: skip


def _figures(statistics: object) -> tuple[str, ...]:
    from alexnet.analysis.layer_statistics import LayerStatistics

    if not isinstance(statistics, LayerStatistics):
        return ("not finite", "", "", "", "")
    s = statistics
    return f"{s.norm:.4g}", f"{s.std:.3g}", f"{s.edge_ratio:.2f}", s.nearest, f"{s.distance:.3f}"
