"""``alexnet probe``: how well a linear classifier on each layer tells classes apart."""

from __future__ import annotations

import argparse
import dataclasses

from alexnet.analysis.probe import ProbeResult, ProbeScore
from alexnet.api import probe
from alexnet.cli.console import print_json, print_text
from alexnet.report.tables import table


def main(arguments: argparse.Namespace) -> int:
    """Fit the probes and print a row for each layer; returns the exit status."""
    result = probe(
        arguments.model, arguments.data, arguments.layers, labels=arguments.labels, images=arguments.images,
        seed=arguments.seed, device=arguments.device, precision=arguments.precision, reference=arguments.reference,
        data_root=arguments.data_root, weights_root=arguments.weights_root,
    )  # fmt: skip
    if arguments.json:
        document = dataclasses.asdict(result)
        for row, layer in zip(document["layers"], result.layers, strict=True):
            row["trained"]["accuracy"] = layer.trained.accuracy
            row["untrained"]["accuracy"] = layer.untrained.accuracy
        print_json(document)
        return 0
    header = ("layer", "features", "accuracy", "95 % interval", "untrained", "95 % interval")
    rows = [
        (layer.layer, f"{layer.units:,}", *_cells(layer.trained), *_cells(layer.untrained)) for layer in result.layers
    ]
    print_text(table(header, rows), "", *_lines(result))
    return 0


def _cells(score: ProbeScore) -> tuple[str, str]:
    low, high = score.interval
    return f"{score.accuracy:.1%}", f"{low:.1%} – {high:.1%}"


def _lines(result: ProbeResult) -> list[str]:
    used = f" ({', '.join(result.splits)})" if result.splits else ""
    lines = [
        f"{result.images:,} images{used} of {result.classes} classes, {result.folds} folds; the largest class has "
        f"{result.largest_class:.1%} of the images"
    ]
    if result.copies:
        lines.append(f"note: {result.copies:,} images are copies of others; copies are in one fold")
    if result.trained_on:
        lines.append(f"note: the model was trained on {result.trained_on:,} of these images: its figures are too high")
    if result.unreadable:
        lines.append(f"note: {result.unreadable:,} images could not be read and were left out")
    scores = [score for layer in result.layers for score in (layer.trained, layer.untrained)]
    if not all(score.converged for score in scores):
        lines.append("note: the logistic regression did not converge for some layers: their accuracies may be too low")
    return lines
