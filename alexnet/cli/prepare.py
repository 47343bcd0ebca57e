"""``alexnet prepare``: decode a source once into a prepared dataset, and list the refused files with reasons."""

from __future__ import annotations

import argparse
from typing import Any

from alexnet.api import prepare
from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.remote import shown
from alexnet.training.datasets import remarks

FACTS = ("images", "splits", "classes", "mean", "eigenvalues", "refused", "notes", "duplicates", "warnings")


def main(arguments: argparse.Namespace) -> int:
    """Prepare or verify, and print what the prepared dataset holds; returns the exit status."""
    dataset, seconds, damage = prepare(
        arguments.source, arguments.size, arguments.channels, labels=arguments.labels, strict=arguments.strict,
        verify=arguments.verify, shards=arguments.shards, records=arguments.records, names=arguments.names,
        data_root=arguments.data_root,
    )  # fmt: skip
    if arguments.json:
        print_json({**_facts(dataset), "seconds": seconds, "damage": damage})
    else:
        _print_dataset(dataset, seconds)
    if damage:
        raise UserError(damage[0], damage[1:])
    if arguments.verify and not arguments.json:
        print("verified: all files are unchanged")
    if arguments.shards and not arguments.json:
        print_text(f"the shards are in {shown(arguments.shards)}, which is a SOURCE for every command")
    return 0


def _facts(dataset: PreparedDataset) -> dict[str, Any]:
    facts = {name: dataset.meta.get(name) for name in FACTS}
    return {"store": str(dataset.path), "size": dataset.side, "channels": dataset.channels, **facts}


def _print_dataset(dataset: PreparedDataset, seconds: float | None) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in dataset.meta["splits"].items() if count)
    shape = f"{dataset.side} × {dataset.side} × {dataset.channels}"
    print_text(
        f"{dataset.name}: {len(dataset.targets):,} images of {shape} in {len(dataset.classes):,} classes ({splits})"
    )
    if seconds is None:
        print_text(*remarks(dataset))
    else:
        handled = len(dataset.targets) + len(dataset.meta["refused"])
        print(f"prepared in {seconds:.1f} s, {handled / seconds:,.0f} images/s")
    print_text(f"the prepared dataset is in {dataset.path}")
