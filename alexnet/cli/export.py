"""``alexnet export``: a trained model as a file for another runtime, checked there on real images."""

from __future__ import annotations

import argparse
import dataclasses

from alexnet.api import export
from alexnet.cli.console import print_json, print_text
from alexnet.core.files import size_in_words


def main(arguments: argparse.Namespace) -> int:
    """Write the file, check it, and print the figures; status 2 if the check fails."""
    exported = export(
        arguments.model, arguments.out, arguments.to, int8=arguments.int8, pixels=arguments.pixels,
        golden=arguments.golden, data=arguments.data, data_root=arguments.data_root,
        weights_root=arguments.weights_root,
    )  # fmt: skip
    files = [str(file) for file in exported.files]
    if arguments.json:
        document = {"format": exported.format, "files": files, "check": dataclasses.asdict(exported.check)}
        print_json(document | ({"address": exported.address} if exported.address else {}))
    elif exported.address:
        print_text(f"uploaded: {exported.address}", *exported.check.lines())
    else:
        sizes = [f"{file} ({size_in_words(file.stat().st_size)})" for file in exported.files]
        print_text(f"written to {', '.join(sizes)}", *exported.check.lines())
    return 0
