"""``alexnet prepare``: decode a source once into a store, and list what was refused and why."""

from __future__ import annotations

import argparse
import time
from typing import Any

from alexnet.commands.console import print_json
from alexnet.commands.progress import make_reporter
from alexnet.core.errors import UserError
from alexnet.data.sources import Source, open_source
from alexnet.data.store import Store, open_or_prepare, verify_store
from alexnet.runtime.log import Reporter

REFUSALS_SHOWN = 20


def prepare(
    source: Source, side: int | None, channels: int | None, reporter: Reporter, *, strict: bool = False
) -> tuple[Store, float | None]:
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

    store = open_or_prepare(source, side, channels, strict=strict, progress=progress)
    if not begun:
        return store, None
    reporter.finish()
    for line in remarks(store):
        reporter.say(line)
    return store, time.monotonic() - start


def remarks(store: Store, most: int = REFUSALS_SHOWN) -> list[str]:
    """Lines on what was refused or is worth knowing, the first ``most`` refusals by name."""
    refused = store.meta["refused"]
    lines = [f"note: {warning}" for warning in store.meta["warnings"]]
    lines += [f"note: {count:,} × {what}" for what, count in store.meta["notes"].items()]
    if refused:
        lines.append(f"refused {len(refused):,} file(s):")
        lines += [f"  {item['name']}: {item['reason']}" for item in refused[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most:,} more, all named in {store.path / 'store.json'}")
    return lines


def main(arguments: argparse.Namespace) -> int:
    """Prepare (or verify) and print what the store holds."""
    reporter = make_reporter()
    source = open_source(arguments.source, arguments.data_root, reporter.say)
    store, seconds = prepare(source, arguments.size, arguments.channels, reporter, strict=arguments.strict)
    damage = verify_store(store.path) if arguments.verify else []
    if arguments.json:
        print_json({**_facts(store), "seconds": seconds, "damage": damage})
    else:
        _print_store(store, seconds)
    if damage:
        raise UserError(damage[0], damage[1:])
    if arguments.verify and not arguments.json:
        print("verified: every file is what was written")
    return 0


def _facts(store: Store) -> dict[str, Any]:
    kept = ("images", "splits", "classes", "mean", "eigenvalues", "refused", "notes", "warnings")
    facts = {name: store.meta[name] for name in kept}
    return {"store": str(store.path), "size": store.side, "channels": store.channels, **facts}


def _print_store(store: Store, seconds: float | None) -> None:
    splits = ", ".join(f"{count:,} {name}" for name, count in store.meta["splits"].items() if count)
    shape = f"{store.side} × {store.side} × {store.channels}"
    print(f"{store.name}: {len(store.labels):,} images of {shape} in {len(store.classes):,} classes ({splits})")
    if seconds is None:
        for line in remarks(store):
            print(line)
    else:
        handled = len(store.labels) + len(store.meta["refused"])
        print(f"prepared in {seconds:.1f} s, {handled / seconds:,.0f} images/s")
    print(f"the store is {store.path}")
