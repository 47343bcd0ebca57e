"""A source whose images are prepared already, in shards at an address, see ``alexnet/data/shards.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import read_json
from alexnet.core.names import is_url
from alexnet.data.remote import check_address, shown
from alexnet.data.shards import KIND, MANIFEST, open_shards
from alexnet.data.sources.records import Record, Source, slug


def holds_shards(folder: Path) -> bool:
    """Whether a folder on this computer holds shards."""
    try:
        value = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("kind") == KIND


def open_shard_source(address: str) -> Source:
    """The source of the shards in a folder, given by its path or by an address with ``://``.

    Raises ``UserError`` for an address without a manifest, and for one that cannot be read.
    """
    check_address(address)
    shards = open_shards(address)
    if shards is None:
        if is_url(address):
            raise UserError(
                f"source {shown(address)!r}: there is no {MANIFEST} of shards, and other URLs are not fetched: "
                "download the images and give the path of their folder"
            )
        raise UserError(f"{address} has no {MANIFEST} of shards")
    manifest = shards.manifest
    return Source(
        name=slug(manifest.name),
        location=shown(address),
        classes=manifest.classes,
        fingerprint=manifest.sha256,
        read=lambda: _no_records(shown(address)),
        count=manifest.shape[0],
        pixel_shape=manifest.shape[1:],
        descriptions=manifest.descriptions,
        trainable=bool(manifest.splits.get("train")),
        shards=shards,
    )


def _no_records(address: str) -> Iterator[Record]:
    raise UserError(f"{address} holds prepared images, and this command needs the image files: give their source")
