"""Checkpoints that something has happened to: each is noticed, no code in it runs, and the one before it is used."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alexnet.core.files import sha256_file
from alexnet.runtime.checkpoint import load_newest, save_checkpoint
from alexnet_lab.faults.trial import Tally

PAGE = 4096
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def damage_checkpoints(folder: Path, times: int, draws: random.Random) -> Tally:
    """So many checkpoints, each damaged in one way at random."""
    tally = Tally("a checkpoint is damaged: noticed, named, the one before it used, nothing run")
    whole = folder / "whole"
    for step in (1, 2):
        _write(whole, step)
    for number in range(times):
        kind = list(DAMAGES)[number % len(DAMAGES)]
        root, flag = folder / "damaged", folder / "code-ran"
        shutil.copytree(whole, root)
        DAMAGES[kind](root / "step-00000002", draws, flag)
        try:
            found, damaged = load_newest(root)
            complaints = list(map(str, damaged))
        except Exception as error:  # whatever it is, nobody was to see it
            found, complaints = None, [repr(error)]
        named = len(complaints) == 1 and _names_a_file(complaints[0], root / "step-00000002")
        survived = found is not None and found.step == 1 and named and not flag.exists()
        tally.count(survived=survived, otherwise=f"{kind}: found {found and found.step}, {complaints}")
        shutil.rmtree(root)
    tally.remark = f"{len(DAMAGES)} kinds: {', '.join(DAMAGES)}"
    return tally


def _names_a_file(complaint: str, path: Path) -> bool:
    """Whether the complaint says of one of the checkpoint's files what is wrong, or of the whole what it lacks."""
    return complaint.startswith(str(path)) and ": " in complaint


def _write(root: Path, step: int) -> None:
    draws = torch.Generator().manual_seed(step)
    tensors = {"weight": torch.randn(100, 40, generator=draws), "bias": torch.randn(100, generator=draws)}
    save_checkpoint(root, step, {"model": tensors, "optimizer": tensors}, {"seconds": 1.0})


def _any_file(path: Path, draws: random.Random) -> Path:
    return path / draws.choice(FILES)


def _flip_bit(path: Path, draws: random.Random, flag: Path) -> None:
    file = _any_file(path, draws)
    data = bytearray(file.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    file.write_bytes(data)


def _zero_page(path: Path, draws: random.Random, flag: Path) -> None:
    file = _any_file(path, draws)
    data = bytearray(file.read_bytes())
    start = draws.randrange(0, len(data), PAGE)
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))
    file.write_bytes(data)


def _truncate(path: Path, draws: random.Random, flag: Path) -> None:
    file = _any_file(path, draws)
    os.truncate(file, draws.randrange(file.stat().st_size - 1))  # a last line break alone says nothing


def _lengthen(path: Path, draws: random.Random, flag: Path) -> None:
    with _any_file(path, draws).open("ab") as file:
        file.write(b"x" + draws.randbytes(draws.randrange(100)))


def _swap(path: Path, draws: random.Random, flag: Path) -> None:
    one, other = (path / name for name in draws.sample(FILES, 2))
    one_data, other_data = one.read_bytes(), other.read_bytes()
    if one_data == other_data:  # nothing is swapped: the optimizer's tensors are the model's
        other_data += b"x"
    one.write_bytes(other_data)
    other.write_bytes(one_data)


def _of_another_step(path: Path, draws: random.Random, flag: Path) -> None:
    name = draws.choice(FILES)
    shutil.copy(path.with_name("step-00000001") / name, path / name)


def _remove(path: Path, draws: random.Random, flag: Path) -> None:
    _any_file(path, draws).unlink()


def _add(path: Path, draws: random.Random, flag: Path) -> None:
    (path / f"{draws.randrange(10**6)}.safetensors").write_bytes(draws.randbytes(draws.randrange(100)))


def _another_schema(path: Path, draws: random.Random, flag: Path) -> None:
    manifest = _manifest(path)
    manifest["schema"] = draws.choice([0, 2, 99, None, "1", [], -1])
    _put(path, manifest)


def _lie(path: Path, draws: random.Random, flag: Path) -> None:
    """A manifest that agrees with the damage, in a form that nothing could have written."""
    manifest = _manifest(path)
    name = draws.choice(FILES[:3])
    key = draws.choice(["bytes", "sha256"])
    manifest["files"][name][key] = draws.choice([None, "x", [], {}, -1, 10**30])
    _put(path, manifest)


def _nest(path: Path, draws: random.Random, flag: Path) -> None:
    """JSON that opens brackets and never closes them, where the manifest or the state was; the manifest agrees."""
    file = path / draws.choice(["manifest.json", "state.json"])
    file.write_bytes(b"[" * 10**6)
    if file.name == "state.json":
        _agree(path, file)


def _pickle(path: Path, draws: random.Random, flag: Path) -> None:
    """A pickle in place of a file, with a true manifest; whoever loads it runs ``os.mkdir(flag)``."""
    file = path / draws.choice(FILES[:3])
    file.write_bytes(f"cos\nmkdir\n(V{flag}\ntR.".encode())
    _agree(path, file)


def _agree(path: Path, file: Path) -> None:
    """Have the manifest say of a file what it is now."""
    manifest = _manifest(path)
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    _put(path, manifest)


def _manifest(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    return value


def _put(path: Path, manifest: dict[str, Any]) -> None:
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


DAMAGES: dict[str, Callable[[Path, random.Random, Path], None]] = {
    "a bit flipped": _flip_bit,
    "a page zeroed": _zero_page,
    "cut off": _truncate,
    "lengthened": _lengthen,
    "two files swapped": _swap,
    "a file of another step": _of_another_step,
    "a file removed": _remove,
    "a file added": _add,
    "another schema": _another_schema,
    "a manifest of another form": _lie,
    "a million brackets": _nest,
    "a pickle in disguise": _pickle,
}
