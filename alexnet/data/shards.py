"""Shards: a prepared dataset in files of equal size at an address, read through the cache of ``shard_cache.py``.

The folder at the address holds ``manifest.json``, the small files of the prepared dataset (labels, splits, hashes,
names, mean, ``store.json``) and the shards. The manifest has the size and the sha256 of each file, and a sha256 of
itself. The images are in the order of :func:`~alexnet.data.sampler.block_order`.

A shard of ``uint8`` records holds the pixels of its images, one after another, as ``images.npy`` does. A shard of
``encoded`` records holds the files of the source (JPEG or any other format): first for each record the position of its
end, ``uint64``, and the CRC-32 of its pixels, ``uint32``, both little-endian; then the records. They are decoded as
they were for the prepared dataset, and the CRC-32 shows a decoder that gives other pixels.

On this computer such a dataset is a folder among the prepared ones, with ``shards.json`` in place of ``images.npy``.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.config import MAX_SIDE, Resize
from alexnet.core.errors import UserError
from alexnet.core.files import TEXT_LIMIT, read_json, sha256_json, write_json
from alexnet.core.platform import cpu_count
from alexnet.data.decode import ImageRefusedError, read_pixels
from alexnet.data.remote import AbsentError, download, join, read, shown
from alexnet.data.sampler import block_order
from alexnet.data.shard_cache import ShardCache, Wanted, shard_cache
from alexnet.data.uses import SHARDS

MANIFEST = "manifest.json"
KIND, SCHEMA = "alexnet shards", 1
SHARD_LIMIT = 4 << 30
"""Bytes of the largest shard, and of the largest other file, that is read."""
SIDE_FILES = ("store.json", "labels.npy", "hashes.npy", "splits.npy", "mean.npy", "groups.npy", "names.txt")
INDEX = np.dtype([("end", "<u8"), ("crc", "<u4")])  # of a record of encoded images
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")

Records = Literal["uint8", "encoded"]


@dataclass(frozen=True)
class Shard:
    """A file of ``records`` images."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SideFile:
    """A small file of the prepared dataset."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    ``data``: the hash of the prepared dataset, ``PreparedDataset.digest``; ``name``, ``classes``, ``descriptions``,
    ``splits``, ``mean``: as there; ``shape`` ``(N, S, S, C)`` of all images.
    """

    records: Records
    data: str
    name: str
    classes: tuple[str, ...]
    descriptions: tuple[str, ...] | None
    shape: tuple[int, int, int, int]
    resize: Resize
    splits: dict[str, int]
    mean: tuple[float, ...]
    files: tuple[SideFile, ...]
    shards: tuple[Shard, ...]

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON value, with its own sha256."""
        content = {"kind": KIND, "schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}
        return {**content, "sha256": sha256_json(content)}

    @property
    def sha256(self) -> str:
        """The hash of the manifest."""
        return str(self.to_json()["sha256"])

    @property
    def bytes(self) -> int:
        """The size of all shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class Shards:
    """A manifest and the address of its folder, which may have a signature: it is not part of any message."""

    address: str = field(repr=False)
    manifest: Manifest


def open_shards(address: str) -> Shards | None:
    """The shards at an address; None if it holds no manifest. Raises ``UserError`` if it cannot be read or used."""
    place = join(address, MANIFEST)
    try:
        text = read(place, TEXT_LIMIT)
    except AbsentError:
        return None
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        value = None
    return Shards(address, parse_manifest(value, shown(place)))


def parse_manifest(value: object, place: str) -> Manifest:
    """The manifest in a JSON value. ``place``: where it is, for errors. Raises ``UserError`` if it cannot be used."""
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UserError(f"{place} is not a manifest of shards: give the folder to which alexnet prepare wrote them")
    if value.get("schema") != SCHEMA:
        raise UserError(f"{place} has schema {value.get('schema')!r}, and this version reads {SCHEMA}: write it again")
    try:
        content = {name: item for name, item in value.items() if name != "sha256"}
        if value["sha256"] != sha256_json(content):
            raise ValueError("it was changed: its sha256 differs")
        return _checked(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{place} is damaged ({error}): write the shards again") from error


def _checked(content: dict[str, Any]) -> Manifest:
    """The manifest with these values. Raises an exception for a value of a wrong type or size."""
    manifest = Manifest(
        records=content["records"],
        data=str(content["data"]),
        name=str(content["name"]),
        classes=tuple(map(str, content["classes"])),
        descriptions=None if content["descriptions"] is None else tuple(map(str, content["descriptions"])),
        shape=tuple(map(_count, content["shape"])),  # type: ignore[arg-type]
        resize=content["resize"],
        splits={str(name): _count(number) for name, number in content["splits"].items()},
        mean=tuple(map(float, content["mean"])),
        files=tuple(SideFile(**_file(item, ("name", "bytes", "sha256"))) for item in content["files"]),
        shards=tuple(Shard(**_file(item, ("name", "records", "bytes", "sha256"))) for item in content["shards"]),
    )
    count, height, width, channels = manifest.shape
    if not 1 <= height == width <= MAX_SIDE or channels not in (1, 3) or not count:
        raise ValueError(f"images of {manifest.shape}")
    if manifest.records not in ("uint8", "encoded") or manifest.resize not in get_args(Resize):
        raise ValueError(f"records of {manifest.records!r}, {manifest.resize!r}")
    if sum(shard.records for shard in manifest.shards) != count:
        raise ValueError("its shards do not hold all images")
    names = {each.name for each in manifest.files}
    if not names <= set(SIDE_FILES) or len(names) != len(manifest.files):
        raise ValueError("unknown files")
    for shard in manifest.shards:
        least = shard.records * (math.prod(manifest.shape[1:]) if manifest.records == "uint8" else INDEX.itemsize)
        if not shard.records or shard.bytes < least or (manifest.records == "uint8" and shard.bytes != least):
            raise ValueError(f"{shard.name} has {shard.bytes} bytes for {shard.records} images")
    return manifest


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a valid count")
    return value


def _file(item: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a file in a manifest. ``ValueError`` for a name that leads elsewhere, or a large file."""
    if not _NAME.fullmatch(item["name"]) or not _SHA256.fullmatch(item["sha256"]):
        raise ValueError(f"the file {item['name']!r} cannot be used")
    if _count(item["bytes"]) > SHARD_LIMIT:
        raise ValueError(f"{item['name']} has {item['bytes']} bytes, and {SHARD_LIMIT} are the limit")
    return {name: _count(item[name]) if name == "records" else item[name] for name in names}


def fetch_description(shards: Shards, folder: Path) -> None:
    """Write the small files of the dataset into ``folder``, and ``shards.json``. Raises ``UserError``, ``OSError``."""
    for item in shards.manifest.files:
        with (folder / item.name).open("w+b") as file:
            download(join(shards.address, item.name), file, item.bytes, item.sha256)
    write_json(folder / SHARDS, {"address": shown(shards.address), "manifest": shards.manifest.to_json()})


def read_shards(folder: Path, address: str | None = None) -> Shards:
    """The shards of a prepared dataset on this computer. Raises ``OSError``, or ``ValueError`` if it is damaged.

    ``address``: where they are, None for the recorded address, which has no signature.
    """
    value = read_json(folder / SHARDS, TEXT_LIMIT)
    try:
        recorded, manifest = str(value["address"]), value["manifest"]
    except (LookupError, TypeError) as error:
        raise ValueError(f"{SHARDS} has no address or manifest") from error
    return Shards(address or recorded, parse_manifest(manifest, str(folder / SHARDS)))


class ShardPixels:
    """The pixels of all images, ``(N, S, S, C)`` uint8, in shards that are downloaded when they are needed."""

    def __init__(self, shards: Shards, splits: NDArray[np.int8], cache: ShardCache | None = None) -> None:
        manifest = shards.manifest
        self.address: str | None = shards.address
        self.shape, self._encoded, self._resize = manifest.shape, manifest.records == "encoded", manifest.resize
        self._cache = cache or shard_cache()
        self._wanted = [Wanted(join(shards.address, each.name), each.bytes, each.sha256) for each in manifest.shards]
        self._names = [each.name for each in manifest.shards]
        self._first = np.array([0, *itertools.accumulate(each.records for each in manifest.shards)], np.int64)
        self._place = np.empty(len(splits), np.int64)  # of each image in the order of the shards
        self._place[block_order(splits)] = np.arange(len(splits))
        self.bytes = manifest.bytes

    def whole(self) -> NDArray[np.uint8]:
        """All images, in memory."""
        return self.read(np.arange(self.shape[0]))

    def prefetch(self, index: NDArray[np.int64]) -> None:
        """Begin to download the shards of the images ``index``, if they are not here; does not wait."""
        for number in self._shards(self._place[index]):
            self._cache.request(self._wanted[number])

    def read(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """New pixels ``(len(index), S, S, C)`` uint8 of the images ``index``. Raises ``UserError``."""
        pixels = np.empty((len(index), *self.shape[1:]), np.uint8)
        places = self._place[index]
        order = np.argsort(places, kind="stable")
        numbers = self._shards(places)
        ends = np.searchsorted(places[order], self._first[numbers + 1])
        if len(numbers) > 1:
            self.prefetch(index)
        start = 0
        for number, end in zip(numbers.tolist(), ends.tolist(), strict=True):
            rows = order[start:end]
            with self._cache.use(self._wanted[number]) as descriptor:
                self._read_rows(descriptor, number, pixels, rows, places[rows] - self._first[number])
            start = end
        return pixels

    def _shards(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the shards that hold these places, ascending."""
        return np.unique(np.searchsorted(self._first, places, "right") - 1)

    def _read_rows(
        self,
        descriptor: int,
        number: int,
        pixels: NDArray[np.uint8],
        rows: NDArray[np.int64],
        records: NDArray[np.int64],
    ) -> None:
        """Read the images ``records`` of shard ``number`` into the rows ``rows`` of ``pixels``."""
        if self._encoded:
            self._decode_rows(descriptor, number, pixels, rows, records)
            return
        size = math.prod(self.shape[1:])
        for row, record in zip(rows.tolist(), records.tolist(), strict=True):
            if os.preadv(descriptor, [pixels[row]], record * size) != size:
                raise self._shorter(number)

    def _decode_rows(
        self,
        descriptor: int,
        number: int,
        pixels: NDArray[np.uint8],
        rows: NDArray[np.int64],
        records: NDArray[np.int64],
    ) -> None:
        side, channels = self.shape[1], self.shape[3]
        count = int(self._first[number + 1] - self._first[number])
        header = os.pread(descriptor, count * INDEX.itemsize, 0)
        if len(header) != count * INDEX.itemsize:
            raise self._shorter(number)
        index = np.frombuffer(header, INDEX)

        def decode(pair: tuple[int, int]) -> None:
            row, record = pair
            start, end = (len(header) if record == 0 else int(index["end"][record - 1])), int(index["end"][record])
            if not len(header) <= start <= end <= self._wanted[number].bytes:
                raise UserError(f"{self._names[number]} is damaged: its index is wrong; write the shards again")
            data = os.pread(descriptor, end - start, start)
            try:
                found = read_pixels(data, side, channels, [], self._resize)
            except ImageRefusedError as error:
                raise UserError(f"an image of {self._names[number]} {error}") from error
            if zlib.crc32(np.ascontiguousarray(found).data) != index["crc"][record]:
                raise UserError(
                    f"an image of {self._names[number]} has other pixels than when the shards were written: use the "
                    "version of Pillow that store.json names, or write shards of uint8 records"
                )
            pixels[row] = found

        for _ in self._pool.map(decode, zip(rows.tolist(), records.tolist(), strict=True)):
            pass

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(cpu_count(), "decode")

    def _shorter(self, number: int) -> UserError:
        return UserError(f"{self._names[number]} in {self._cache.folder} has become shorter: run the command again")
