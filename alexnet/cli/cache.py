"""``alexnet cache``: what the cache folder keeps, with size and age; or remove some of it by name."""

from __future__ import annotations

import argparse
import dataclasses
import time

from alexnet.api import cache, clear_cache
from alexnet.cli.console import print_json
from alexnet.data.cache import CacheEntry
from alexnet.data.home import data_home
from alexnet.report.tables import table

HEADER = ("name", "what", "size", "age", "made from", "used by")
UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60))


def main(arguments: argparse.Namespace) -> int:
    """List the cache, or remove the entries that were named; returns the exit status."""
    entries = clear_cache(arguments.remove) if arguments.remove else cache()
    if arguments.json:
        listed = [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in entries]
        print_json({"home": str(data_home()), "removed" if arguments.remove else "entries": listed})
        return 0
    size = describe_bytes(sum(entry.bytes for entry in entries))
    if arguments.remove:
        print("\n".join(f"removed {entry.name}: {describe_bytes(entry.bytes)}" for entry in entries))
    elif entries:
        print(f"{table(HEADER, [_row(entry) for entry in entries])}\n\n{size} in {data_home()}")
        print("remove one with: alexnet cache --remove NAME")
    else:
        print(f"{data_home()} holds no prepared datasets and no downloads")
    return 0


def _row(entry: CacheEntry) -> tuple[str, ...]:
    age = describe_age(time.time() - entry.made)
    return entry.name, entry.kind, describe_bytes(entry.bytes), age, entry.source, entry.used_by or "–"


def describe_bytes(size: int) -> str:
    """A number of bytes as "1.2 GB", "3.4 MB" or "5.6 kB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def describe_age(seconds: float) -> str:
    """A duration in its largest whole unit: "3 days", "5 hours", "2 minutes", "1 minute" or "0 minutes"."""
    unit, length = next(((unit, length) for unit, length in UNITS if seconds >= length), UNITS[-1])
    number = max(0, int(seconds // length))
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"
