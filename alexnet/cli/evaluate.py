"""``alexnet evaluate``: accuracy and loss of trained models, a row each, and a row for their ensemble.

With ``--nproc N``, N processes share the images; the first one prints.
"""

from __future__ import annotations

import argparse

from alexnet.api import evaluate
from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError
from alexnet.distributed.launch import end_with_parent, launch
from alexnet.distributed.process_group import Place, local_device, place_in_group
from alexnet.metrics.segmentation import SegmentationMetrics
from alexnet.report.text import describe_counts, describe_segmentations


def main(arguments: argparse.Namespace) -> int:
    """Evaluate and print; returns the exit status."""
    end_with_parent()
    place = place_in_group()
    if arguments.nproc > 1 and not place:
        local_device(arguments.device, Place(arguments.nproc - 1, arguments.nproc, arguments.nproc - 1))
        return launch(arguments.words, arguments.nproc, max_restarts=0)
    try:
        return _evaluate(arguments, quiet=bool(place and place.rank))
    except UserError:
        if place and place.rank:  # the first process has printed it
            return 2
        raise


def _evaluate(arguments: argparse.Namespace, *, quiet: bool) -> int:
    measured = evaluate(
        arguments.models, data=arguments.data, labels=arguments.labels, views=arguments.views, device=arguments.device,
        precision=arguments.precision or "auto", reference=arguments.reference, data_root=arguments.data_root,
        predictions=arguments.predictions, weights_root=arguments.weights_root,
    )  # fmt: skip
    if quiet:
        return 0
    rows = [metrics.to_json() for metrics in measured]
    if arguments.json:
        print_json(rows if len(rows) > 1 else rows[0])
    else:
        masks = isinstance(measured[0], SegmentationMetrics)
        print_text(describe_segmentations(rows) if masks else describe_counts(rows))
        if arguments.predictions:
            print_text(f"\nthe prediction for each image is in {arguments.predictions}")
    return 0
