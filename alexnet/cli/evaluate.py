"""``alexnet evaluate``: accuracy and loss of trained models, a row each, and a row for their ensemble."""

from __future__ import annotations

import argparse

from alexnet.api import evaluate
from alexnet.cli.console import print_json, print_text
from alexnet.report.text import describe_counts


def main(arguments: argparse.Namespace) -> int:
    """Evaluate and print; returns the exit status."""
    measured = evaluate(
        arguments.models, data=arguments.data, labels=arguments.labels, views=arguments.views, device=arguments.device,
        precision=arguments.precision or "auto", reference=arguments.reference, data_root=arguments.data_root,
        predictions=arguments.predictions, weights_root=arguments.weights_root,
    )  # fmt: skip
    rows = [metrics.to_json() for metrics in measured]
    if arguments.json:
        print_json(rows if len(rows) > 1 else rows[0])
    else:
        print_text(describe_counts(rows))
        if arguments.predictions:
            print_text(f"\nthe prediction for each image is in {arguments.predictions}")
    return 0
