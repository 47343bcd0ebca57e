"""``alexnet convert``: a weights file of another framework as a model folder, with a report of what was done."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

from alexnet.api import convert
from alexnet.cli.console import print_json, print_text
from alexnet.report.tables import dimensions, table
from alexnet.weights.convert import ConversionReport


def main(arguments: argparse.Namespace) -> int:
    """Convert, write the model folder, and print the report."""
    folder, report = convert(
        arguments.file, arguments.out, variant=arguments.variant, mean=arguments.mean,
        weights_root=arguments.weights_root,
    )  # fmt: skip
    if arguments.json:
        print_json({"file": arguments.file, "folder": str(folder), **dataclasses.asdict(report)})
    else:
        print_text(*_lines(report), f"written to {folder}")
    return 0


def _lines(report: ConversionReport) -> Iterator[str]:
    yield f"{report.variant}, from {report.format}"
    header = ("layer", "in the file", "shape in the file", "shape", "norm", "changes")
    yield table(
        header,
        [
            (
                row.layer,
                row.source,
                dimensions(row.shape_in_file),
                dimensions(row.shape),
                f"{row.norm:.4g}",
                ", ".join(row.steps),
            )
            for row in report.rows
        ],
    )
    for title, lines in (("because", report.reasons), ("assumed", report.assumptions), ("note", report.notes)):
        yield from (f"{title}: {line}" for line in lines)
