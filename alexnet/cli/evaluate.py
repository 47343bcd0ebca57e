"""``alexnet evaluate``: accuracy and loss of trained models, a row each, and a row for their ensemble.

With ``--nproc N``, N processes share the images; the first one prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from alexnet.api import evaluate
from alexnet.cli.console import print_json, print_text
from alexnet.cli.processes import run_in_processes
from alexnet.metrics.counts import Metrics
from alexnet.metrics.detection import DetectionMetrics
from alexnet.metrics.segmentation import SegmentationMetrics
from alexnet.report.text import describe_evaluation


def main(arguments: argparse.Namespace) -> int:
    """Evaluate and print; returns the exit status."""
    return run_in_processes(arguments, lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> Callable[[], int]:
    measured = evaluate(
        arguments.models, data=arguments.data, labels=arguments.labels, views=arguments.views, device=arguments.device,
        precision=arguments.precision or "auto", reference=arguments.reference, data_root=arguments.data_root,
        predictions=arguments.predictions, weights_root=arguments.weights_root,
    )  # fmt: skip
    return lambda: _print(measured, arguments)


def _print(measured: Sequence[Metrics | SegmentationMetrics | DetectionMetrics], arguments: argparse.Namespace) -> int:
    rows = [metrics.to_json() for metrics in measured]
    if arguments.json:
        print_json(rows if len(rows) > 1 else rows[0])
    else:
        print_text(describe_evaluation(rows))
        if arguments.predictions:
            print_text(f"\nthe prediction for each image is in {arguments.predictions}")
    return 0
