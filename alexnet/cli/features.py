"""``alexnet features``: the outputs of layers for many images, in files."""

from __future__ import annotations

import argparse

from alexnet.api import extract_features
from alexnet.cli.console import print_json, print_text
from alexnet.core.files import size_in_words
from alexnet.report.tables import dimensions, table


def main(arguments: argparse.Namespace) -> int:
    """Extract the features and print which array has which shape; returns the exit status."""
    features = extract_features(
        arguments.model, arguments.images, arguments.layers, arguments.out, pool=arguments.pool,
        untrained=arguments.untrained, batch=arguments.batch, device=arguments.device, precision=arguments.precision,
        reference=arguments.reference, data_root=arguments.data_root, weights_root=arguments.weights_root,
    )  # fmt: skip
    described = features.description
    if arguments.json:
        print_json({"path": str(features.path), **described})
        return 0
    rows = []
    for key in features.layers:
        layer = described["layers"][key.rpartition("/")[2]]
        shape = (features.rows, *layer["shape"])
        rows.append((key, layer["layer"], dimensions(shape), size_in_words(features.bytes_of(key))))
    print_text(table(("array", "layer", "shape", "size"), rows), f"\nwritten to {features.path}")
    return 0
