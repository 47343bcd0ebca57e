"""``alexnet prepare``: decode a source once into a store, and list what was refused and why."""

from __future__ import annotations

import argparse
import time
from typing import Any

from alexnet.commands.console import make_reporter, print_json
from alexnet.core.errors import UserError
from alexnet.data.sources import open_source
from alexnet.data.store import Store, open_or_prepare, verify_store


def main(arguments: argparse.Namespace) -> int:
    """Prepare (or verify) and print what the store holds; status 1 if ``--verify`` finds damage."""
    source = open_source(arguments.source, arguments.data_root)
    reporter = make_reporter()
    start = time.monotonic()
    begun = False

    def progress(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(f"preparing {source.name}", total or 0)
            begun = True
        reporter.advance(done, images_per_second=done / max(1e-9, time.monotonic() - start))

    store = open_or_prepare(source, arguments.size, arguments.channels, strict=arguments.strict, progress=progress)
    seconds = time.monotonic() - start
    reporter.finish()
    damage = verify_store(store.path) if arguments.verify else []
    if arguments.json:
        print_json({**_facts(store), "built": begun, "seconds": seconds if begun else None, "damage": damage})
    else:
        _print_store(store, seconds if begun else None)
        if arguments.verify and not damage:
            print("verified: every file is what was written")
    if damage:
        raise UserError(damage[0], damage[1:])
    return 0


def _facts(store: Store) -> dict[str, Any]:
    kept = ("images", "splits", "classes", "mean", "eigenvalues", "refused", "warnings")
    return {"store": str(store.path), "size": store.side, "channels": store.channels,
            **{name: store.meta[name] for name in kept}}  # fmt: skip


def _print_store(store: Store, seconds: float | None) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in store.meta["splits"].items() if count)
    shape = f"{store.side} × {store.side} × {store.channels}"
    print(f"{store.name}: {len(store.labels):,} images of {shape} in {len(store.classes):,} classes ({splits})")
    refused = store.meta["refused"]
    if seconds is not None:
        print(f"prepared in {seconds:.1f} s, {(len(store.labels) + len(refused)) / seconds:,.0f} images/s")
    for warning in store.meta["warnings"]:
        print(f"note: {warning}")
    if refused:
        print(f"refused {len(refused):,} file(s):")
        for item in refused:
            print(f"  {item['name']}: {item['reason']}")
    print(f"the store is {store.path}")
