"""Weights in a file of ``torch.save``: ``.pth``, ``.pt``, ``.ckpt``, of any version of PyTorch since 0.2.

Since version 1.6 it is a zip: a pickle ``data.pkl``, and the numbers of each storage in ``data/KEY``, not compressed.
Before, it was a sequence of pickles, then the storages, each with its length. Both are read here without unpickling
(``torch_pickle.py``): sizes are compared with the file before memory is allocated, and only the storages of the chosen
state dict are read. The device on which a tensor was saved does not matter. Where the zip has checksums, they are
compared: a damaged number is found.

Sources: torch/serialization.py (both formats), caffe2/serialize/inline_container.h (the zip).
"""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular, size_in_words
from alexnet.core.names import printable
from alexnet.data.sources.archives import FormatError
from alexnet.data.sources.zips import StoredMember, member_names, stored_members
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.formats import ReadOptions
from alexnet.weights.state_dict import layers_of
from alexnet.weights.torch_pickle import DAMAGE, RefusedObjectError, Storage, StoredTensor, read_pickle

ZIP: Final = b"PK\x03\x04"
MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The first number of the old format, as a pickle writes it (torch/serialization.py, ``MAGIC_NUMBER``)."""
MAX_FILE: Final = 8 << 30
"""Bytes of the largest file: an AlexNet with Adam's state in fp64 has 1.5 GB."""
MAX_PICKLE: Final = 8 << 20
MAX_MEMBERS: Final = 10_000
WEIGHTS: Final = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
"""The keys under which checkpoints hold the state dict, in the order in which they are looked for."""
DEPTH: Final = 3
INSTEAD: Final = "save model.state_dict() instead"


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a storage lie in the file. ``crc``: their CRC-32; None if the file has no checksums."""

    begin: int
    size: int
    crc: int | None = None


@dataclass(frozen=True)
class _Contents:
    """The value that was saved, and where its storages are: their keys → places."""

    value: Any
    places: Mapping[str, _Place]


class _NotReadError(ValueError):
    """Why the file is not read: the predicate of a sentence about it."""


def recognises(head: bytes, path: Path) -> bool:
    """A zip with a ``data.pkl``, or the magic number of the old format."""
    if not head.startswith(ZIP):
        return MAGIC in head[:32]
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return _is_pickle(name.decode("latin-1")) or any(map(_is_pickle, _names(path)))


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers of the file's state dict, see :func:`~alexnet.weights.state_dict.layers_of`. Raises ``UserError``."""
    tensors, notes = _read_file(path)
    return layers_of(tensors, "PyTorch", printable(str(path)), ordered=True, notes=notes)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Name → tensor of the state dict in a file of ``torch.save``. Nothing is unpickled. Raises ``UserError``."""
    return _read_file(path)[0]


def _read_file(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of the file's state dict, and notes on where it was and what is left out. Raises ``UserError``."""
    shown = printable(str(path))
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_FILE:
                raise _NotReadError(f"is larger than {size_in_words(MAX_FILE)}, the limit for such a file")
            contents = _zip_contents(file) if file.peek(4)[:4] == ZIP else _legacy_contents(file, size)
            chosen, notes = _state_dict(contents.value)
            return _read_tensors(file, chosen, contents.places), notes
    except OSError as error:
        raise cannot_read(path, error) from error
    except RefusedObjectError as error:
        raise UserError(_refused(shown, error.name)) from error
    except _NotReadError as error:
        raise UserError(f"{shown} {error}") from error
    except MemoryError as error:
        raise UserError(f"there is too little memory to read {shown}: end other programs") from error
    except DAMAGE as error:
        raise UserError(f"{shown} is damaged or no file of torch.save: use another copy", [str(error)[:200]]) from error


def _is_pickle(name: str) -> bool:
    return name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))


def _names(path: Path) -> list[str]:
    try:
        with open_regular(path) as file:
            return member_names(file, MAX_MEMBERS)
    except (OSError, FormatError):
        return []


def _refused(shown: str, name: str) -> str:
    if name.startswith("torch._utils."):
        return f"{shown} holds tensors that are sparse, quantized or have no numbers ({name}): {INSTEAD}"
    if name.startswith(("numpy.", "_codecs.")):
        return f"{shown} holds a NumPy array or number ({name}) as a Python object: {INSTEAD}"
    return f"{shown} holds a pickled Python object ({name}), which is not read because it can run code: {INSTEAD}"


def _zip_contents(file: io.BufferedReader) -> _Contents:
    try:
        names = member_names(file, MAX_MEMBERS)
        folder = next((name.removesuffix("data.pkl") for name in names if _is_pickle(name)), "")
        if f"{folder}constants.pkl" in names:
            raise _NotReadError(
                "is a TorchScript program, not a state dict: save the state_dict() of torch.jit.load(FILE) with "
                "torch.save"
            )
        members = {member.name: member for member in stored_members(file, MAX_MEMBERS)}
    except FormatError as error:
        raise _NotReadError(f"is a damaged or altered file of torch.save: {printable(str(error))}") from error
    pickles = [name for name in members if _is_pickle(name)]
    if len(pickles) != 1:
        raise ValueError("the zip does not hold one data.pkl")
    if (byteorder := members.get(f"{folder}byteorder")) and _bytes(file, byteorder, 16) != sys.byteorder.encode():
        raise _NotReadError(f"was written on a machine with another byte order: {INSTEAD} on this one")
    has_checksums = any(member.crc for member in members.values())
    pickle = members[pickles[0]]
    data = _bytes(file, pickle, MAX_PICKLE)
    if has_checksums and zlib.crc32(data) != pickle.crc:
        raise ValueError("data.pkl differs from its checksum")
    start = f"{folder}data/"
    places = {
        name.removeprefix(start): _Place(member.begin, member.size, member.crc if has_checksums else None)
        for name, member in members.items()
        if name.startswith(start)
    }
    return _Contents(read_pickle(io.BytesIO(data)), places)


def _bytes(file: io.BufferedReader, member: StoredMember, limit: int) -> bytes:
    if member.size > limit:
        raise _NotReadError(f"holds a pickle of {size_in_words(member.size)}, more than a state dict needs: {INSTEAD}")
    file.seek(member.begin)
    return file.read(member.size)


def _legacy_contents(file: io.BufferedReader, size: int) -> _Contents:
    data = io.BytesIO(file.read(MAX_PICKLE))
    _, _, system, value, keys = (read_pickle(data) for _ in range(5))
    if not isinstance(keys, list) or not isinstance(system, dict):
        raise TypeError("the list of storages is missing")
    if system.get("little_endian", True) != (sys.byteorder == "little"):
        raise _NotReadError(f"was written on a machine with another byte order: {INSTEAD} on this one")
    storages = {tensor.storage.key: tensor.storage for tensor in _all_tensors(value)}
    places, position = {}, data.tell()
    for key in keys:
        file.seek(position)
        numel = int.from_bytes(file.read(8), "little")
        if key not in storages:
            raise ValueError("a storage that no tensor uses")
        begin, length = position + 8, numel * storages[key].dtype.itemsize
        position = begin + length
        if position > size:
            raise ValueError("the file is incomplete")
        places[str(key)] = _Place(begin, length)
    return _Contents(value, places)


def _all_tensors(value: Any) -> list[StoredTensor]:
    """The tensors in a value, each container once."""
    found, left, seen = [], [value], set()
    while left:
        item = left.pop()
        if isinstance(item, StoredTensor):
            found.append(item)
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)
    return found


def _state_dict(value: Any) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The state dict in the saved value, and notes on where it was and what is left out."""
    notes: list[str] = []
    for _ in range(DEPTH):
        if not isinstance(value, dict):
            break
        tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, StoredTensor)}
        if any(key.rpartition(".")[2] == "weight" for key in tensors):
            return tensors, (*notes, *_left_out([key for key in value if key not in tensors]))
        inner = next((key for key in WEIGHTS if isinstance(value.get(key), dict)), None)
        if inner is None:
            break
        notes.append(f"the weights are under {inner!r} in the file")
        notes += _left_out([key for key in value if key != inner])
        value = value[inner]
    what = "a dictionary without a state dict" if isinstance(value, dict) else f"a {_kind(value)}, not a state dict"
    found = f" (keys: {', '.join(printable(str(key)) for key in list(value)[:10])})" if isinstance(value, dict) else ""
    raise _NotReadError(f"holds {what}{found}: {INSTEAD}")


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, StoredTensor) else type(value).__name__


def _left_out(keys: list[Any]) -> list[str]:
    names = [printable(str(key)[:100]) for key in keys[:10]] + (["…"] if len(keys) > 10 else [])
    return [f"not used: {', '.join(names)}"] if names else []


def _read_tensors(
    file: io.BufferedReader, chosen: Mapping[str, StoredTensor], places: Mapping[str, _Place]
) -> dict[str, Tensor]:
    """The tensors, in memory of their own. Tensors that share a storage in the file share it here."""
    storages = {tensor.storage.key: tensor.storage for tensor in chosen.values()}
    for storage in storages.values():
        place = places.get(storage.key)
        if place is None or place.size != storage.size:
            raise ValueError(f"storage {storage.key} has {place.size if place else 0:,} bytes, not {storage.size:,}")
    if any(tensor.storage != storages[tensor.storage.key] for tensor in chosen.values()):
        raise ValueError("one storage with two types or sizes")
    blocks = {key: _read_storage(file, storage, places[key]) for key, storage in storages.items()}
    return {
        name: blocks[tensor.storage.key].as_strided(tensor.shape, tensor.stride, tensor.offset)
        for name, tensor in chosen.items()
    }


def _read_storage(file: io.BufferedReader, storage: Storage, place: _Place) -> Tensor:
    block = torch.empty(storage.size, dtype=torch.uint8)
    view = memoryview(cast("Any", block.numpy()))
    file.seek(place.begin)
    if storage.size and file.readinto(view) != storage.size:
        raise ValueError("the file is incomplete")
    if place.crc is not None and zlib.crc32(view) != place.crc:
        raise ValueError(f"storage {storage.key} differs from its checksum")
    return block.view(storage.dtype)
