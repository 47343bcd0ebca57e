"""``alexnet prepare``: decode a source once into a store, and list what was refused and why."""

from __future__ import annotations

import argparse
from typing import Any

from alexnet.cli.console import print_json
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset, verify_prepared
from alexnet.data.sources import open_source
from alexnet.runtime.progress import make_reporter
from alexnet.training.datasets import prepare, remarks


def main(arguments: argparse.Namespace) -> int:
    """Prepare (or verify) and print what the store holds."""
    reporter = make_reporter()
    source = open_source(arguments.source, arguments.data_root, reporter.log)
    dataset, seconds = prepare(source, arguments.size, arguments.channels, reporter, strict=arguments.strict)
    damage = verify_prepared(dataset.path) if arguments.verify else []
    if arguments.json:
        print_json({**_facts(dataset), "seconds": seconds, "damage": damage})
    else:
        _print_store(dataset, seconds)
    if damage:
        raise UserError(damage[0], damage[1:])
    if arguments.verify and not arguments.json:
        print("verified: every file is what was written")
    return 0


def _facts(dataset: PreparedDataset) -> dict[str, Any]:
    kept = ("images", "splits", "classes", "mean", "eigenvalues", "refused", "notes", "warnings")
    facts = {name: dataset.meta[name] for name in kept}
    return {"store": str(dataset.path), "size": dataset.side, "channels": dataset.channels, **facts}


def _print_store(dataset: PreparedDataset, seconds: float | None) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in dataset.meta["splits"].items() if count)
    shape = f"{dataset.side} × {dataset.side} × {dataset.channels}"
    print(f"{dataset.name}: {len(dataset.targets):,} images of {shape} in {len(dataset.classes):,} classes ({splits})")
    if seconds is None:
        for line in remarks(dataset):
            print(line)
    else:
        handled = len(dataset.targets) + len(dataset.meta["refused"])
        print(f"prepared in {seconds:.1f} s, {handled / seconds:,.0f} images/s")
    print(f"the store is {dataset.path}")
