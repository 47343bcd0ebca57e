"""Damaged checkpoints: each is detected, no code in it runs, and the previous checkpoint is used."""

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
from alexnet_lab.faults.trial import FaultResult

PAGE = 4096
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def damage_checkpoints(folder: Path, times: int, draws: random.Random) -> FaultResult:
    """``times`` checkpoints, each damaged at random in one of the ways of ``DAMAGES``."""
    result = FaultResult("damaged checkpoint: detected, named, the previous one used, no code in it run")
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
            messages = list(map(str, damaged))
        except Exception as error:  # load_newest must not raise
            found, messages = None, [repr(error)]
        named = len(messages) == 1 and _names_a_file(messages[0], root / "step-00000002")
        passed = found is not None and found.step == 1 and named and not flag.exists()
        result.count(passed=passed, failure=f"{kind}: found {found and found.step}, {messages}")
        shutil.rmtree(root)
    result.remark = f"{len(DAMAGES)} kinds: {', '.join(DAMAGES)}"
    return result


def _names_a_file(message: str, path: Path) -> bool:
    """Whether the message names the checkpoint or one of its files, and what is wrong."""
    return message.startswith(str(path)) and ": " in message


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
    os.truncate(file, draws.randrange(file.stat().st_size - 1))  # a missing last line break is no damage


def _lengthen(path: Path, draws: random.Random, flag: Path) -> None:
    with _any_file(path, draws).open("ab") as file:
        file.write(b"x" + draws.randbytes(draws.randrange(100)))


def _swap(path: Path, draws: random.Random, flag: Path) -> None:
    one, other = (path / name for name in draws.sample(FILES, 2))
    one_data, other_data = one.read_bytes(), other.read_bytes()
    if one_data == other_data:  # otherwise nothing changes: the optimizer's tensors equal the model's
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


def _invalid_manifest(path: Path, draws: random.Random, flag: Path) -> None:
    """A manifest with a value of a wrong type or range."""
    manifest = _manifest(path)
    name = draws.choice(FILES[:3])
    key = draws.choice(["bytes", "sha256"])
    manifest["files"][name][key] = draws.choice([None, "x", [], {}, -1, 10**30])
    _put(path, manifest)


def _nest(path: Path, draws: random.Random, flag: Path) -> None:
    """A million open brackets instead of the manifest or the state; the manifest's hash is right."""
    file = path / draws.choice(["manifest.json", "state.json"])
    file.write_bytes(b"[" * 10**6)
    if file.name == "state.json":
        _update_manifest(path, file)


def _pickle(path: Path, draws: random.Random, flag: Path) -> None:
    """A pickle instead of a file, with the right hash in the manifest; unpickling it runs ``os.mkdir(flag)``."""
    file = path / draws.choice(FILES[:3])
    file.write_bytes(f"cos\nmkdir\n(V{flag}\ntR.".encode())
    _update_manifest(path, file)


def _update_manifest(path: Path, file: Path) -> None:
    """Write the present size and hash of a file to the manifest."""
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
    "a page set to zero": _zero_page,
    "truncated": _truncate,
    "lengthened": _lengthen,
    "two files swapped": _swap,
    "a file of another step": _of_another_step,
    "a file removed": _remove,
    "a file added": _add,
    "another schema version": _another_schema,
    "an invalid manifest": _invalid_manifest,
    "deeply nested JSON": _nest,
    "a pickle file": _pickle,
}
