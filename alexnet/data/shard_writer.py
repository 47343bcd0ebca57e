"""Write a prepared dataset as shards to an address: a folder, or an object store such as ``s3://bucket/prefix``.

Each shard is written to a temporary file, then copied to the address, where it is whole or absent; its name has its
hash. The manifest is written last, so shards without a manifest are those of an interrupted command: the next one
copies only what is missing. See ``shards.py`` for the format.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from alexnet.core.errors import UserError, cannot_write
from alexnet.core.files import sha256_file, write_json
from alexnet.data.prepared import PreparedDataset
from alexnet.data.remote import check_address, join, shown, size_at, upload
from alexnet.data.sampler import block_order
from alexnet.data.shards import (
    MANIFEST,
    SHARD_LIMIT,
    SIDE_FILES,
    Manifest,
    Shard,
    SideFile,
    open_shards,
)
from alexnet.data.writer import Progress

SHARD_BYTES = 512 * 10**6
READ = 256  # images at a time


def write_shards(
    dataset: PreparedDataset,
    address: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Write a prepared dataset to an address as shards of about ``shard_bytes``, and return their manifest.

    ``progress(done, total)`` counts images. If the address has these shards already, they are left as they are. Raises
    ``UserError`` if it has other shards, or cannot be written.
    """
    check_address(address)
    if dataset.prefetch is not None:
        raise UserError(f"the images of {dataset.path} are in shards already: give the source that they were made from")
    if not 1 <= shard_bytes <= SHARD_LIMIT // 2:
        raise UserError(f"a shard has 1 to {SHARD_LIMIT // 2:,} bytes, not {shard_bytes:,}")
    there = open_shards(address)
    if there is not None:
        if there.manifest.data == dataset.digest:
            return there.manifest
        raise UserError(f"{shown(address)} holds shards of other images: give another address")
    try:
        with tempfile.TemporaryDirectory(prefix=".shards.", dir=dataset.path.parent) as folder:
            return _write(dataset, address, shard_bytes, Path(folder), progress)
    except OSError as error:
        raise cannot_write(error.filename or dataset.path.parent, error, "free some space on that disk") from error


def _write(dataset: PreparedDataset, address: str, shard_bytes: int, folder: Path, progress: Progress) -> Manifest:
    order = block_order(dataset.splits)
    each = max(1, shard_bytes // math.prod(dataset.shape[1:]))
    shards = []
    for number, start in enumerate(range(0, len(order), each)):
        index = order[start : start + each]
        path = folder / "shard"
        with path.open("wb") as file:
            for first in range(0, len(index), READ):
                file.write(dataset.read(index[first : first + READ]).data)
        sha256 = sha256_file(path)
        shard = Shard(f"shard-{number:05d}-{sha256[:16]}.bin", len(index), path.stat().st_size, sha256)
        _copy(path, address, shard)
        shards.append(shard)
        progress(start + len(index), len(order))
    files = []
    for name in SIDE_FILES:
        if (path := dataset.path / name).exists():
            files.append(SideFile(name, path.stat().st_size, sha256_file(path)))
            upload(path, join(address, name))
    manifest = Manifest(
        records="uint8",
        data=dataset.digest,
        name=dataset.name,
        classes=tuple(dataset.classes),
        descriptions=tuple(dataset.meta["descriptions"]) if dataset.meta["descriptions"] else None,
        shape=dataset.shape,
        resize=dataset.meta["preprocessing"].get("resize", "short-side"),
        splits=dict(dataset.meta["splits"]),
        mean=dataset.mean,
        files=tuple(files),
        shards=tuple(shards),
    )
    write_json(folder / MANIFEST, manifest.to_json())
    upload(folder / MANIFEST, join(address, MANIFEST))
    return manifest


def _copy(path: Path, address: str, shard: Shard) -> None:
    """Copy a shard to the address, unless an interrupted command did so: its name has its hash."""
    place = join(address, shard.name)
    if size_at(place) != shard.bytes:
        upload(path, place)
