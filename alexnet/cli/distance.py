"""``alexnet distance``: the perceptual distance of two images, of pairs in two folders, or of all with all."""

from __future__ import annotations

import argparse
import sys

from alexnet.api import distance
from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.report.tables import csv_rows


def main(arguments: argparse.Namespace) -> int:
    """Measure and print; status 2, after all other pairs, if an image was refused."""
    if arguments.csv and arguments.json:
        raise UserError("--csv and --json are two forms of the same result: give one of them")
    measured = distance(
        arguments.model, arguments.first, arguments.second, matrix=arguments.matrix, resize=arguments.resize,
        heads=arguments.heads, weights_root=arguments.weights_root,
    )  # fmt: skip
    refused = [pair for pair in measured.pairs if pair.error]
    if arguments.json:
        print_json(measured.to_json())
    elif arguments.csv:
        values = ["" if pair.distance is None else f"{pair.distance:.6f}" for pair in measured.pairs]
        rows = [(pair.first, pair.second, value) for pair, value in zip(measured.pairs, values, strict=True)]
        print(csv_rows([("first", "second", "distance"), *rows]), end="")
    else:
        print_text(*(f"{pair.distance:.6f}  {pair.first}  {pair.second}" for pair in measured.pairs if not pair.error))
        if measured.mean is not None and len(measured.pairs) > 1:
            print_text(f"{measured.mean:.6f}  mean of {len(measured.pairs) - len(refused)} pairs")
        if measured.mean is not None:
            print_text(measured.about_heads)
    for line in dict.fromkeys(pair.error for pair in refused):
        print(f"alexnet: {printable(line)}", file=sys.stderr)
    return 2 if refused else 0
