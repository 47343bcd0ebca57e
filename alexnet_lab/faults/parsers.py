"""Fuzzing of the parsers of this project: each input is read or refused, without any other error.

There are two ways to run them. ``python -m alexnet_lab.faults`` changes whole files at random, by a seed. ``python -m
alexnet_lab.faults.parsers NAME`` uses Atheris, which looks for inputs that reach new code (``pip install atheris``).
Further words go to libFuzzer: options such as ``-max_total_time=60``, and a folder for the inputs that it finds. Some
of them are kept in ``corpus/NAME/``.

An attacker can compute the hashes of a changed file. So hashes in files are computed again before the files are read.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import io
import itertools
import json
import os
import random
import signal
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from PIL import Image

from alexnet.config import Preprocessing, Recipe
from alexnet.core.errors import UserError
from alexnet.core.files import sha256_file, sha256_json
from alexnet.core.schema import to_json
from alexnet.data import containers, png
from alexnet.data.decode import ImageRefusedError, image_size, read_pixels
from alexnet.data.sources import open_source
from alexnet.data.sources.array_files import idx_count, read_idx
from alexnet.models.bundle import load_model, save_model
from alexnet.models.classifier import ModelInfo
from alexnet.models.registry import create_model
from alexnet.recipes import get_recipe
from alexnet.runtime.checkpoint import DamagedError, load_checkpoint, save_checkpoint
from alexnet.runtime.run import Run
from alexnet_lab.faults.images import damage, whole_files
from alexnet_lab.faults.trial import Child, FaultResult

CORPUS = Path(__file__).with_name("corpus")
INSTRUMENTED = ("alexnet.", "tarfile", "zipfile", "gzip")  # modules whose branches Atheris counts
SECONDS = 20  # for one input
PER_PROCESS = 100  # inputs that one process reads
RECORDS = 100  # of an archive that are read
SIDE = 28  # of the images in idx files
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf"), "", "x", "0", "\ud800"),
    *("../..", [], [[]], {}, {"": None}, [0] * 50, "9" * 5000),
)
Inputs = Iterator[bytes]


@dataclass(frozen=True)
class Parser:
    """``read(data, folder)`` reads an input, with files in a folder of its own; ``wholes`` are valid inputs."""

    read: Callable[[bytes, Path], None]
    wholes: Callable[[], Inputs]


def read_or_refuse(name: str, data: bytes, folder: Path) -> bool:
    """Read an input with a parser of ``PARSERS``; False if it was refused. Any other error is a fault: it is raised."""
    try:
        PARSERS[name].read(data, folder)
    except (UserError, ImageRefusedError, DamagedError):
        return False
    return True


# idx files of images and of labels.


def _read_idx(data: bytes, folder: Path) -> None:
    given, other = folder / "given", folder / "other"
    given.write_bytes(data)
    idx_count(given)
    is_labels = data[3:4] == b"\x01"
    other.write_bytes(_idx((2, SIDE, SIDE)) if is_labels else _idx((2,)))
    read_idx(*((other, given) if is_labels else (given, other)))


def _idx(shape: tuple[int, ...]) -> bytes:
    count = int(np.prod(shape))
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(n % 10 for n in range(count))


def _whole_idx() -> Inputs:
    import gzip

    yield _idx((2,))
    yield _idx((2, SIDE, SIDE))
    yield gzip.compress(_idx((2, SIDE, SIDE)), mtime=0)


# Tar and zip files of class folders.


def _read_archive(data: bytes, folder: Path) -> None:
    path = folder / "archive.tar"
    path.write_bytes(data)
    for _ in itertools.islice(open_source(str(path)).records(), RECORDS):
        pass


def _whole_archives() -> Inputs:
    picture = whole_files()["PNG"][:64]
    names = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", f"test/dog/{'long' * 40}.png", "train/cat/é.png")
    for kind, compression in ((tarfile.GNU_FORMAT, "w"), (tarfile.PAX_FORMAT, "w"), (tarfile.USTAR_FORMAT, "w:gz")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=compression, format=kind, encoding="utf-8") as archive:  # type: ignore[call-overload]
            for name in names[: 3 if kind == tarfile.USTAR_FORMAT else 5]:
                member = tarfile.TarInfo(name)
                member.size = len(picture)
                archive.addfile(member, io.BytesIO(picture))
        yield buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in names:
            zipped.writestr(zipfile.ZipInfo(name), picture)
    yield buffer.getvalue()


# Image files: the checks of PNG files, the other containers, and all of it with Pillow's decoders.


def _read_png(data: bytes, folder: Path) -> None:
    png.fault(data)
    containers.orientation(png.exif(data))


def _whole_pngs() -> Inputs:
    image = Image.fromarray(np.arange(300, dtype=np.uint16).astype(np.uint8).reshape(10, 10, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, options in (("RGB", {"exif": exif}), ("P", {}), ("1", {}), ("RGBA", {})):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "PNG", **options)
        yield buffer.getvalue()


def _read_container(data: bytes, folder: Path) -> None:
    if containers.kind_of(data) is None:
        containers.foreign_fault(data)
    containers.orientation(data)
    containers.gif_frames(data)


def _whole_containers() -> Inputs:
    exif = Image.Exif()
    exif[0x0112] = 6
    yield exif.tobytes()
    yield whole_files()["GIF"][:400]
    yield b"\0\0\0\x18ftypavif\0\0\0\0"
    yield b"<?xml version='1.0'?><svg/>"


def _read_image(data: bytes, folder: Path) -> None:
    image_size(data)
    read_pixels(data, SIDE, 3)


def _whole_images() -> Inputs:
    yield from whole_files().values()


# Models: the description with correct hashes, and the tensors.


@functools.cache
def _model() -> tuple[bytes, bytes]:
    """``model.json`` and ``model.safetensors`` of a small network."""
    network = create_model("small", num_classes=2, image_size=16, in_channels=1, width=0.05, seed=0)
    preprocessing = Preprocessing(
        channels=1, resize_size=16, crop=16, image_size=16, pixel_normalization="channel", mean=(0.5,), std=(0.5,)
    )
    network.info = ModelInfo("small", ("a", "b"), ("a", "b"), preprocessing, None, torch.zeros(0, dtype=torch.int64))
    with tempfile.TemporaryDirectory() as folder:
        save_model(network, Path(folder) / "model")
        files = [Path(folder) / "model" / name for name in ("model.json", "model.safetensors")]
        description, tensors = (file.read_bytes() for file in files)
    return description, tensors


def _read_description(data: bytes, folder: Path) -> None:
    _load_model(data, _model()[1], folder)


def _read_weights(data: bytes, folder: Path) -> None:
    _load_model(_model()[0], data, folder)


def _load_model(description: bytes, tensors: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(tensors)
    try:
        value = json.loads(description)
        value["sha256"] = hashlib.sha256(tensors).hexdigest()
        value.pop("sha256_of_the_rest", None)
        value["sha256_of_the_rest"] = sha256_json(value)
        description = json.dumps(value).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON object: it is read as it is
        pass
    (folder / "model.json").write_bytes(description)
    load_model(folder)


# Checkpoints: the state with a correct manifest, or the manifest.


def _read_checkpoint(data: bytes, folder: Path) -> None:
    root = folder / "checkpoints"
    if not root.exists():
        save_checkpoint(root, 1, {"model": {"values": torch.ones(3)}}, {})
        (root / "good.json").write_bytes((root / "step-00000001/manifest.json").read_bytes())
        (root / "state.json").write_bytes((root / "step-00000001/state.json").read_bytes())
    path, good = root / "step-00000001", (root / "good.json").read_bytes()
    if b'"files"' in data:
        (path / "state.json").write_bytes((root / "state.json").read_bytes())
        (path / "manifest.json").write_bytes(data)
    else:
        (path / "state.json").write_bytes(data)
        manifest = json.loads(good)
        manifest["files"]["state.json"] = {"bytes": len(data), "sha256": sha256_file(path / "state.json")}
        (path / "manifest.json").write_text(json.dumps(manifest))
    load_checkpoint(path)


def _whole_checkpoints() -> Inputs:
    yield b'{"step": 1, "seconds": 1.5, "errors": [0.5]}'
    files = {name: {"bytes": 3, "sha256": "0" * 64} for name in ("model.safetensors", "state.json")}
    yield json.dumps({"schema": 1, "files": files}).encode()


# Recipes, and the JSON files of a run.


def _read_recipe(data: bytes, folder: Path) -> None:
    (folder / "recipe.json").write_bytes(data)
    get_recipe(str(folder / "recipe.json"))


def _whole_recipes() -> Inputs:
    yield json.dumps(to_json(get_recipe("small-digits"))).encode()


def _read_run(data: bytes, folder: Path) -> None:
    run = Run(folder)
    (folder / "events.jsonl").write_bytes(data)
    (folder / "metrics.jsonl").write_bytes(data)
    (folder / "run.json").write_bytes(data)
    (folder / "result.json").write_bytes(data)
    for read in (lambda: run.divergence, run.metrics, lambda: run.result, lambda: run.recipe):
        try:
            read()
        except UserError:
            continue


def _whole_runs() -> Inputs:
    recipe = to_json(Recipe(name="mine"))
    yield json.dumps({"schema": 1, "recipe": recipe, "seed": 0, "source": "digits", "data": "0" * 64}).encode()
    result = {"split": "test", "steps": 2, "seconds": 1.0, "hardware": {"device": "cpu"}, "top1": 0.5}
    yield json.dumps(result).encode()
    yield b'{"time": 1.5, "event": "diverged", "step": 2}\n{"event": "start"}\n'


PARSERS: dict[str, Parser] = {
    "idx": Parser(_read_idx, _whole_idx),
    "archive": Parser(_read_archive, _whole_archives),
    "png": Parser(_read_png, _whole_pngs),
    "container": Parser(_read_container, _whole_containers),
    "image": Parser(_read_image, _whole_images),
    "model": Parser(_read_description, lambda: iter(_model()[:1])),
    "weights": Parser(_read_weights, lambda: iter(_model()[1:])),
    "checkpoint": Parser(_read_checkpoint, _whole_checkpoints),
    "recipe": Parser(_read_recipe, _whole_recipes),
    "run": Parser(_read_run, _whole_runs),
}


def fuzz_parsers(folder: Path, times: int, seed: int) -> FaultResult:
    """``times`` changed files for each parser, read by child processes."""
    result = FaultResult("changed file: each parser reads or refuses it, without any other error")
    refused = 0
    for name in PARSERS:
        inputs = whole_inputs(name)
        for start in range(0, times, PER_PROCESS):
            numbers = range(start, min(times, start + PER_PROCESS))
            place = folder / f"{name}-{start}"
            place.mkdir()

            def read(
                send: Callable[[int], None], name: str = name, inputs: list[bytes] = inputs,
                numbers: range = numbers, place: Path = place,
            ) -> int:  # fmt: skip
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints messages
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                for number in numbers:
                    signal.alarm(SECONDS)
                    try:
                        send(int(read_or_refuse(name, changed_input(inputs, f"{seed}/{name}/{number}"), place)))
                    except BaseException as error:
                        (place / "error").write_text(repr(error)[:300], encoding="utf-8", errors="replace")
                        return 1
                return 0

            status, received = Child(read).wait()
            refused += received.count(0)
            result.trials += len(received)
            if status:
                why = (place / "error").read_text() if (place / "error").exists() else f"status {status}"
                result.count(passed=False, failure=f"{name}, input {start + len(received)} of seed {seed}: {why}")
    result.remark = f"{refused:,} refused; {', '.join(PARSERS)}"
    return result


def whole_inputs(name: str) -> list[bytes]:
    """The valid inputs of a parser, and those in ``corpus/``."""
    kept = sorted((CORPUS / name).glob("*"))
    return [*PARSERS[name].wholes(), *(file.read_bytes() for file in kept)]


def changed_input(inputs: Sequence[bytes], key: str) -> bytes:
    """One of the inputs, with damaged bytes, or if it is JSON with another value somewhere. A function of ``key``."""
    draws = random.Random(key)
    data = draws.choice(inputs)
    if data[:1] in (b"{", b"[") and draws.random() < 0.7:
        try:
            return _changed_json(json.loads(data), draws)
        except ValueError:
            pass
    if len(data) > 16 and data[8:9] == b"{" and draws.random() < 0.7:  # the header of safetensors
        length = int.from_bytes(data[:8], "little")
        try:
            header = _changed_json(json.loads(data[8 : 8 + length]), draws)
        except ValueError:
            pass
        else:
            return len(header).to_bytes(8, "little") + header + data[8 + length :]
    return damage(data, draws) if len(data) > 1 else draws.randbytes(draws.randrange(50))


def _changed_json(value: Any, draws: random.Random) -> bytes:
    """The JSON text of ``value`` with one to three values replaced or removed."""
    for _ in range(draws.randint(1, 3)):
        value = _with_odd_value(value, draws)
    return json.dumps(value).encode()


def _with_odd_value(value: Any, draws: random.Random) -> Any:
    inside: list[Any] = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        inside = list(range(len(value)))
    if not inside or draws.random() < 0.1:
        return draws.choice(ODD_VALUES)
    key = draws.choice(inside)
    changed = value.copy()
    if draws.random() < 0.1:
        del changed[key]
    else:
        changed[key] = _with_odd_value(value[key], draws)
    return changed


def main(words: Sequence[str]) -> int:
    """Fuzz one parser with Atheris until it finds a fault, or the options of libFuzzer end it."""
    if not words or words[0] not in PARSERS:
        print(f"give one of {', '.join(PARSERS)}, then options of libFuzzer", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError:
        print("coverage-guided fuzzing needs Atheris: pip install atheris", file=sys.stderr)
        return 2
    name, *options = words
    torch.set_num_threads(1)
    _model()  # made before functions are instrumented
    for function in [found for found in gc.get_objects() if isinstance(found, FunctionType)]:
        if str(function.__module__).startswith(INSTRUMENTED):
            atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = Path(temporary) / "files", Path(temporary) / "inputs"
        folder.mkdir()
        found.mkdir()
        for number, data in enumerate(whole_inputs(name)):
            (found / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], *options, str(found)], lambda data: void(read_or_refuse(name, data, folder)))
        atheris.Fuzz()
    return 0


def void(value: object) -> None:
    """Returns nothing, because libFuzzer interprets the return value of a test."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
