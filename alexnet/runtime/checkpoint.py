"""Checkpoints: the state of a training on disk, written atomically and verified when read. Independent of any model.

A checkpoint is a folder ``step-00001234/``: tensors as safetensors, the rest as ``state.json``, and ``manifest.json``
with the size and sha256 of each file. The folder is written under another name and then renamed, so it is complete or
absent. No file format detects every flipped bit, so a checkpoint is read only if it matches its manifest. Nothing is
unpickled.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from alexnet.core.errors import cannot_read
from alexnet.core.files import check_place, publish_folder, read_json, sha256_file, write_json
from alexnet.core.tensors import load_tensors, save_tensors

SCHEMA = 1
KEPT = 2  # checkpoints: the newest, and the one before it in case the newest is damaged
_NAME = re.compile(r"step-\d{8,}", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the step, named groups of tensors, and the JSON state."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class DamagedError(Exception):
    """The checkpoint ``path`` does not match its manifest, or cannot be read; the message names the file."""

    def __init__(self, path: Path, file: Path, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.path = path


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint and return its folder, then remove all others but the one before it.

    ``tensors``: group → name → tensor on any device; each group becomes ``<group>.safetensors``. ``state``: JSON
    values. Raises ``OSError`` if it cannot be written; older checkpoints are then unchanged. Damaged checkpoints must
    have been renamed before, see :func:`set_aside`: here the newest older one counts as good.
    """
    path = root / f"step-{step:08d}"
    with publish_folder(path) as folder:
        for group, items in tensors.items():
            save_tensors(items, folder / f"{group}.safetensors")
        write_json(folder / "state.json", {"step": step, **state})
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in _files(folder)}
        write_json(folder / "manifest.json", {"schema": SCHEMA, "files": files})
    others = [old for old in list_checkpoints(root) if old != path]
    before = [old for old in others if _step_of(old) < step]
    check_place(path)
    for old in others:
        if old not in before[1 - KEPT :]:
            shutil.rmtree(old, ignore_errors=True)
    return path


def list_checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders, oldest first; they are not verified here."""
    return sorted((path for path in root.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def load_newest(root: Path) -> tuple[Checkpoint | None, list[DamagedError]]:
    """The newest checkpoint that matches its manifest, or None; and an error for each newer, damaged one.

    Raises ``UserError`` for a checkpoint without read permission: it may be intact, so no older one is used.
    """
    damaged: list[DamagedError] = []
    for path in reversed(list_checkpoints(root)):
        try:
            return load_checkpoint(path), damaged
        except DamagedError as error:
            damaged.append(error)
    return None, damaged


def set_aside(path: Path) -> Path:
    """Rename a checkpoint that cannot be used to ``damaged-…``, so that it is neither read again nor removed.

    Returns its new path. Raises ``OSError`` if it cannot be renamed.
    """
    check_place(path)
    number = 1
    while (aside := path.with_name(f"damaged-{path.name}" + (f"-{number}" if number > 1 else ""))).exists():
        number += 1
    return path.rename(aside)


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify and read one checkpoint; its tensors are on the CPU. Raises as :func:`verify`."""
    verify(path)
    try:
        state = read_json(path / "state.json")
        tensors = {file.stem: load_tensors(file) for file in _files(path) if file.suffix == ".safetensors"}
        step = int(state.pop("step"))
    except PermissionError as error:
        raise cannot_read(error.filename or path, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError) as error:
        raise DamagedError(path, path, f"cannot be read ({error})") from error
    if step != _step_of(path):
        raise DamagedError(path, path / "state.json", f"belongs to another step, {step}")
    return Checkpoint(step, tensors, state)


def verify(path: Path) -> None:
    """Compare each file with the manifest. Raises :class:`DamagedError` for the first file that differs.

    Raises ``UserError`` for a file without read permission.
    """
    try:
        manifest = read_json(path / "manifest.json")
        listed = {str(name): (int(item["bytes"]), str(item["sha256"])) for name, item in manifest["files"].items()}
        schema = manifest["schema"]
    except PermissionError as error:
        raise cannot_read(error.filename or path, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(path, path / "manifest.json", f"cannot be read ({error})") from error
    if schema != SCHEMA:
        raise DamagedError(path, path / "manifest.json", f"has schema {schema}, this version reads {SCHEMA}")
    try:
        present = {file.name for file in _files(path)} - {"manifest.json"}
        if differing := present ^ set(listed):
            why = f"does not list the files that are there ({_first_names(differing)})"
            raise DamagedError(path, path / "manifest.json", why)
        for name, (size, digest) in listed.items():
            file = path / name
            if file.stat().st_size != size or sha256_file(file) != digest:
                raise DamagedError(path, file, "is damaged (size or sha256 differs)")
    except PermissionError as error:
        raise cannot_read(error.filename or path, error) from error
    except OSError as error:
        raise DamagedError(path, path, f"cannot be read ({error})") from error


def _first_names(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file())
