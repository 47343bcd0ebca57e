"""Write a prepared dataset as shards to an address: a folder, or an object store such as ``s3://bucket/prefix``.

Each shard is written to a temporary file, then copied to the address, where it is whole or absent; its name has its
hash. The manifest is written last, so shards without a manifest are those of an interrupted command: the next one
copies only what is missing. See ``shards.py`` for the format.
"""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError, cannot_write
from alexnet.core.files import sha256_file, write_json
from alexnet.data.decode import ImageRefusedError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.remote import check_address, join, shown, size_at, upload
from alexnet.data.sampler import block_order
from alexnet.data.shards import (
    INDEX,
    MANIFEST,
    SHARD_LIMIT,
    SIDE_FILES,
    Manifest,
    Shard,
    SideFile,
    open_shards,
)
from alexnet.data.sources import Source
from alexnet.data.splits import content_hash
from alexnet.data.writer import Progress, file_bytes

SHARD_BYTES = 512 * 10**6
READ = 256  # images at a time


def write_shards(
    dataset: PreparedDataset,
    address: str,
    *,
    encoded: Source | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Write a prepared dataset to an address as shards of about ``shard_bytes``, and return their manifest.

    ``encoded``: the source of the dataset, whose image files are written then in place of pixels: the shards are
    smaller, and each image is decoded each time that it is read. ``progress(done, total)`` counts images. If the
    address has these shards already, they are left as they are. Raises ``UserError`` if it has other shards, or cannot
    be written.
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
            files = None if encoded is None else _collected(dataset, encoded, Path(folder))
            return _write(dataset, files, address, shard_bytes, Path(folder), progress)
    except OSError as error:
        raise cannot_write(error.filename or dataset.path.parent, error, "free some space on that disk") from error


@dataclass(frozen=True)
class _Files:
    """The image files of a dataset, one after another in the file ``path``; ``ends`` ``(N,)``: where each ends."""

    path: Path
    ends: NDArray[np.int64]

    def read(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """The files with these numbers."""
        starts = np.concatenate([[0], self.ends[:-1]])
        with self.path.open("rb") as file:
            spans = zip(starts[numbers].tolist(), self.ends[numbers].tolist(), strict=True)
            return [os.pread(file.fileno(), end - start, start) for start, end in spans]


def _collected(dataset: PreparedDataset, source: Source, folder: Path) -> _Files:
    """Copy the image files of a dataset, in its order, into one file. Raises ``UserError`` if they have changed."""
    if source.pixel_shape:
        raise UserError(f"{source.name} is a set of arrays without image files: write shards of uint8 records")
    path, size = folder / "files", 0
    ends: list[int] = []
    with path.open("wb") as file:
        for record in source.records():
            try:
                data = file_bytes(record)
            except (ImageRefusedError, OSError):
                continue
            if len(ends) < len(dataset.hashes) and content_hash(data) == dataset.hashes[len(ends)]:
                size += file.write(data)
                ends.append(size)
    if len(ends) != len(dataset.hashes):
        raise UserError(f"{source.location} has changed since it was prepared: run the command again")
    return _Files(path, np.array(ends, np.int64))


def _encoded_records(dataset: PreparedDataset, files: _Files, numbers: NDArray[np.int64]) -> Iterator[bytes]:
    """The content of a shard of encoded records: its index, then the files."""
    index = np.empty(len(numbers), INDEX)
    lengths = np.diff(files.ends, prepend=0)[numbers]
    index["end"] = index.nbytes + np.cumsum(lengths)
    for first in range(0, len(numbers), READ):
        pixels = dataset.read(numbers[first : first + READ])
        index["crc"][first : first + READ] = [zlib.crc32(image.data) for image in pixels]
    yield index.tobytes()
    for first in range(0, len(numbers), READ):
        yield from files.read(numbers[first : first + READ])


def _write(
    dataset: PreparedDataset, files_of: _Files | None, address: str, shard_bytes: int, folder: Path, progress: Progress
) -> Manifest:
    order = block_order(dataset.splits)
    size = math.prod(dataset.shape[1:]) if files_of is None else int(files_of.ends[-1]) // len(order)
    each = max(1, shard_bytes // max(1, size))
    shards = []
    for number, start in enumerate(range(0, len(order), each)):
        index = order[start : start + each]
        path = folder / "shard"
        with path.open("wb") as file:
            if files_of is None:
                for first in range(0, len(index), READ):
                    file.write(dataset.read(index[first : first + READ]).data)
            else:
                file.writelines(_encoded_records(dataset, files_of, index))
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
        records="uint8" if files_of is None else "encoded",
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
