"""What runs in the child process for HDF5 files: the weights of a Keras model as arrays, all else as JSON.

Only data in the file itself is read: links to other files, datasets whose bytes are elsewhere, and virtual datasets are
refused. The caller (``keras_files.py``) makes layers of it. See ``child.py`` for the limits.
"""

from __future__ import annotations

import io
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import h5py

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.weights.child import Exchange
from alexnet.weights.hdf5_arrays import give_dataset

CONFIG_LIMIT = 1 << 20  # bytes of a model's description
MAX_MEMBERS, MAX_DEPTH, MAX_NODES = 1000, 8, 10_000
CHUNK = 1 << 20
WEIGHTS = "model.weights.h5"
ROOTS = ("layers", "_layer_checkpoint_dependencies")
"""The group of the layers: of Keras 3 and of TensorFlow 2.12 and 2.13."""


def read_keras(path: Path, exchange: Exchange) -> dict[str, Any]:
    """The contents of a ``.keras``, ``.weights.h5`` or ``.h5`` file.

    ``form``: ``"keras"``, ``"weights"`` or ``"legacy"``. ``config``: the text of the model's description, or "".
    ``groups``: for each layer ``{"path", "name", "variables"}``, in the order of the file (legacy) or of the names. An
    array is called ``path|variable``.
    """
    with open_regular(path) as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path, exchange)
        file.seek(0)
        with h5py.File(file, "r") as opened:
            return _read_h5(opened, exchange)


def _read_zip(path: Path, exchange: Exchange) -> dict[str, Any]:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) > MAX_MEMBERS or "config.json" not in members:
            raise UserError("is no Keras file: it has no config.json")
        if WEIGHTS not in members:
            raise UserError(f"has no {WEIGHTS}: save the whole model with Keras's model.save")
        for name, limit in (("config.json", CONFIG_LIMIT), (WEIGHTS, exchange.limit)):
            if members[name].file_size > limit:
                raise UserError(f"is damaged: its {name} has {members[name].file_size:,} bytes")
        config = archive.read("config.json").decode("utf-8")
        with archive.open(WEIGHTS) as source:
            if members[WEIGHTS].compress_type == zipfile.ZIP_STORED:
                part = _stored(file, members[WEIGHTS])
                exchange.start = part.begin
                with h5py.File(io.BufferedReader(part), "r") as opened:
                    found = _read_h5(opened, exchange)
            else:
                exchange.start = None
                unpacked = exchange.folder / WEIGHTS
                with unpacked.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK)
                with h5py.File(unpacked, "r") as opened:
                    found = _read_h5(opened, exchange)
                unpacked.unlink()
    return {**found, "form": "keras", "config": config}


class _Part(io.RawIOBase):
    """``size`` bytes of a file from ``begin`` on, as a file."""

    def __init__(self, file: IO[bytes], begin: int, size: int) -> None:
        self.file, self.begin, self.size, self.at = file, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.begin + self.at)
        data = self.file.read(max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def _stored(file: IO[bytes], member: zipfile.ZipInfo) -> _Part:
    """The bytes of a member that is not compressed. Raises ``UserError`` if they differ from their checksum."""
    file.seek(member.header_offset)
    header = file.read(30)  # its last two numbers are the lengths of a name and of more fields, then the bytes follow
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    part = _Part(file, member.header_offset + 30 + lengths, member.file_size)
    left, checksum = part.size, 0
    while data := part.read(min(CHUNK, left)):
        left, checksum = left - len(data), zlib.crc32(data, checksum)
    if left or checksum != member.CRC:
        raise UserError(f"is damaged: its {WEIGHTS} differs from its checksum")
    return part


def _read_h5(file: h5py.File, exchange: Exchange) -> dict[str, Any]:
    root = _group(file, "model_weights") if _has(file, "model_weights") else file
    if names := _texts(root, "layer_names"):
        config = _text(file.attrs["model_config"]) if "model_config" in file.attrs else ""
        if len(config.encode("utf-8", "replace")) > CONFIG_LIMIT:
            raise UserError(f"is damaged: its model_config has more than {CONFIG_LIMIT:,} bytes")
        groups = [_legacy_layer(root, name, exchange) for name in names]
        return {"form": "legacy", "config": config, "groups": groups}
    for name in ROOTS:
        if _has(file, name):
            groups = []
            _layers(_group(file, name), "", 0, groups, exchange)
            return {"form": "weights", "config": "", "groups": groups}
    raise UserError("is an HDF5 file, but not of Keras: it has neither layers nor layer_names")


def _legacy_layer(root: h5py.Group, name: str, exchange: Exchange) -> dict[str, Any]:
    group, variables = _group(root, name), []
    for weight in _texts(group, "weight_names"):
        variable = weight.split("/")[-1].split(":")[0]
        _add(group, weight, f"{name}|{variable}", exchange)
        variables.append(variable)
    return {"path": name, "name": name, "variables": variables}


def _layers(root: h5py.Group, path: str, depth: int, found: list[dict[str, Any]], exchange: Exchange) -> None:
    """Add the layers of a model, and of the models in it, to ``found``."""
    if depth > MAX_DEPTH or len(found) > MAX_NODES:
        raise UserError("is damaged: its groups are nested too deeply, or there are too many")
    for name in root:
        layer = _group(root, name)
        place = f"{path}{name}"
        if _has(layer, "vars"):
            variables = _group(layer, "vars")
            names = sorted(variables, key=lambda key: (len(key), key))
            for variable in names:
                _add(variables, variable, f"{place}|{variable}", exchange)
            shown = _text(variables.attrs["name"]) if "name" in variables.attrs else ""
            found.append({"path": place, "name": shown, "variables": names})
        for inner in ROOTS:
            if _has(layer, inner):
                _layers(_group(layer, inner), f"{place}/", depth + 1, found, exchange)


def _has(group: h5py.Group, name: str) -> bool:
    """Whether a group has a member; unlike ``in`` it follows no link."""
    return bool(group.id.links.exists(name.encode()))


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    found = _inside(parent, name)
    if not isinstance(found, h5py.Group):
        raise UserError(f"is damaged: {name!r} is no group")
    return found


def _inside(parent: h5py.Group, name: str) -> Any:
    """A member of a group by its path, if the way to it is in this file."""
    for part in filter(None, name.split("/")):
        if not isinstance(parent, h5py.Group) or not _has(parent, part):
            raise UserError(f"is damaged: {name!r} is missing")
        if parent.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"is refused: {name!r} is a link to another place or file")
        parent = parent[part]
    return parent


def _add(parent: h5py.Group, name: str, key: str, exchange: Exchange) -> None:
    found = _inside(parent, name)
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise UserError(f"is refused: the bytes of {name!r} are not in this file")
    if found.shape is None or found.dtype.kind not in "fiub":
        if found.shape is not None and found.dtype.kind in "OSV":
            return  # the state of a random generator, or a text
        raise UserError(f"is damaged: {name!r} holds no array of numbers")
    give_dataset(exchange, key, found)


def _texts(group: h5py.Group, name: str) -> list[str]:
    """An attribute that is a list of texts; Keras writes a long list in parts, ``layer_names0``, ``layer_names1``, …"""
    values = list(group.attrs[name]) if name in group.attrs else []
    part = 0
    while f"{name}{part}" in group.attrs and part < MAX_NODES:
        values += list(group.attrs[f"{name}{part}"])
        part += 1
    if len(values) > MAX_NODES:
        raise UserError(f"is damaged: it has {len(values):,} {name}")
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise UserError("is damaged: a name in it is no text")
    return text
