"""``alexnet evaluate``: exact counts of finished runs, a row each, and one for their ensemble."""

from __future__ import annotations

import argparse

from alexnet.api import evaluate
from alexnet.cli.console import print_json
from alexnet.report.text import describe_counts
from alexnet.runtime.progress import make_reporter


def main(arguments: argparse.Namespace) -> int:
    """Count and print."""
    rows = evaluate(
        *arguments.runs, data=arguments.data, views=arguments.views, device=arguments.device, reference=arguments.reference,
        precision=arguments.precision or "auto", data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    if arguments.json:
        print_json(rows if len(rows) > 1 else rows[0])
        return 0
    print(describe_counts(rows))
    return 0
