"""``alexnet features``: the outputs of layers for many images, in files; with ``--rdm`` and ``--cka``, compared.

With ``--nproc N``, N processes share the images; the first one writes and prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from alexnet.api import compare_features, extract_features, rdm_path
from alexnet.cli.console import print_json, print_text
from alexnet.cli.processes import run_in_processes
from alexnet.core.files import size_in_words
from alexnet.inference.feature_files import Features
from alexnet.report.tables import dimensions, table


def main(arguments: argparse.Namespace) -> int:
    """Extract the features and print which array has which shape; returns the exit status."""
    return run_in_processes(arguments, lambda: _extract(arguments))


def _extract(arguments: argparse.Namespace) -> Callable[[], int]:
    features = extract_features(
        arguments.model, arguments.images, arguments.layers, arguments.out, pool=arguments.pool,
        untrained=arguments.untrained, rdm=arguments.rdm, batch=arguments.batch, names=arguments.names,
        device=arguments.device, precision=arguments.precision, reference=arguments.reference,
        data_root=arguments.data_root, weights_root=arguments.weights_root,
    )  # fmt: skip
    return lambda: _print(features, arguments)


def _print(features: Features, arguments: argparse.Namespace) -> int:
    pairs = None if arguments.cka is None else compare_features(features, arguments.cka)
    matrices = {key: str(rdm_path(features, key)) for key in features.layers} if arguments.rdm else {}
    described = features.description
    if arguments.json:
        more = ({"rdm": matrices} if arguments.rdm else {}) | ({} if pairs is None else {"cka": pairs})
        print_json({"path": str(features.path), **described, **more})
        return 0
    rows = []
    for key in features.layers:
        layer = described["layers"][key.rpartition("/")[2]]
        shape = (features.rows, *layer["shape"])
        rows.append((key, layer["layer"], dimensions(shape), size_in_words(features.bytes_of(key))))
    print_text(table(("array", "layer", "shape", "size"), rows), f"\nwritten to {features.path}", *matrices.values())
    if pairs is not None:
        cells = [(pair["a"], pair["b"], f"{pair['cka']:.3f}", f"{pair['cka_unbiased']:.3f}") for pair in pairs]
        print_text("", table(("array", "compared with", "CKA", "unbiased CKA"), cells))
    return 0
