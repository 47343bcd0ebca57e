"""``alexnet prepare``: decode a source once into a store, and list what was refused and why."""

from __future__ import annotations

import argparse
import time
from typing import Any

from alexnet.cli.console import print_json
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset, open_or_prepare, verify_prepared
from alexnet.data.sources import Source, open_source
from alexnet.runtime.log import Reporter
from alexnet.runtime.progress import make_reporter

REFUSALS_SHOWN = 20


def prepare(
    source: Source, side: int | None, channels: int | None, reporter: Reporter, *, strict: bool = False
) -> tuple[PreparedDataset, float | None]:
    """The source's store, and the seconds that building it took, None if it was there already.

    ``reporter`` sees progress, refusals and remarks while it is built. Raises ``UserError``; see ``open_or_prepare``.
    """
    start = time.monotonic()
    begun = False

    def progress(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(f"preparing {source.name}", total or 0)
            begun = True
        reporter.advance(done, images_per_second=done / max(1e-9, time.monotonic() - start))

    dataset = open_or_prepare(source, side, channels, strict=strict, progress=progress)
    if not begun:
        return dataset, None
    reporter.finish()
    for line in remarks(dataset):
        reporter.log(line)
    return dataset, time.monotonic() - start


def remarks(dataset: PreparedDataset, most: int = REFUSALS_SHOWN) -> list[str]:
    """Lines on what was refused or is worth knowing, the first ``most`` refusals by name."""
    refused = dataset.meta["refused"]
    lines = [f"note: {warning}" for warning in dataset.meta["warnings"]]
    lines += [f"note: {count:,} × {what}" for what, count in dataset.meta["notes"].items()]
    if refused:
        lines.append(f"refused {len(refused):,} file(s):")
        lines += [f"  {item['name']}: {item['reason']}" for item in refused[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most:,} more, all named in {dataset.path / 'store.json'}")
    return lines


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
