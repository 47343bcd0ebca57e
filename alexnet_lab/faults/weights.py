"""Changed weights files of every format: each is refused, or gives a finite network of the right shapes.

``python -m alexnet_lab.faults weights --format F --count 10000`` changes a small valid file of a format at random. The
change of each number is always the same, so ``--first`` and ``--count`` run a part. With ``--out FILE`` the figures are
written to a JSON file as it goes on, and the same command continues from there.

A trial passes if the reader raises ``UserError`` or gives a network with finite parameters and outputs of the right
shape, within ``SECONDS`` and with at most 4 × the file + 64 MB of memory. A child process that a reader starts has this
limit of its own.
"""

from __future__ import annotations

import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.core.errors import UserError, unknown
from alexnet.core.files import read_json, write_json
from alexnet.models.classifier import Classifier
from alexnet.models.registry import create_model
from alexnet.weights.child import MEMORY_EXTRA, MEMORY_FACTOR
from alexnet.weights.convert import convert_file
from alexnet.weights.export import ExportOptions, get_exporter
from alexnet_lab.faults.mutations import mutated
from alexnet_lab.faults.trial import Child, FaultResult

VARIANT, CLASSES, WIDTH = "torchvision", 10, 1 / 32
SECONDS = 60  # for one file; a child process of a reader starts slowly on a busy machine
PER_PROCESS = 25  # files that one process reads
MAX_FAILURES = 100
LARGEST_IMAGE = 512  # pixels of a network that is run


@functools.cache
def _network() -> Classifier:
    return create_model(VARIANT, num_classes=CLASSES, width=WIDTH, seed=0).eval()


def _parameters(name: str) -> tuple[Tensor, Tensor]:
    state = _network().state_dict()
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _layers() -> dict[str, list[Any]]:
    """Layer → weight and bias as TensorFlow has them: H, W, in, out; in, out; fc6's inputs row, column, channel."""
    found = {}
    for name, module in _network().named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias = _parameters(name)
            if name == "fc6":
                weight = weight.reshape(len(weight), -1, 6, 6).permute(0, 2, 3, 1).flatten(1)
            weight = weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight.T
            found[name] = [weight.contiguous().numpy(), bias.numpy()]
    return found


def _cell(values: list[Any]) -> Any:
    cell = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        cell[0, place] = value
    return cell


def _simplenn() -> dict[str, Any]:
    """The network as MatConvNet has it."""
    layers: list[Any] = []
    for name, module in _network().named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias = _parameters(name)
            if isinstance(module, nn.Linear):
                side = 6 if name == "fc6" else 1
                weight = weight.reshape(len(weight), -1, side, side)
            arrays = [weight.permute(2, 3, 1, 0).contiguous().numpy(), bias.numpy()[None]]
            pad, stride = (module.padding[0], module.stride[0]) if isinstance(module, nn.Conv2d) else (0, 1)
            layers.append({
                "name": name, "type": "conv", "weights": _cell(arrays), "stride": np.array([[float(stride)] * 2]),
                "pad": np.array([[float(pad)] * 4]),
            })  # fmt: skip
        elif isinstance(module, nn.ReLU):
            layers.append({"name": name, "type": "relu"})
        elif isinstance(module, nn.MaxPool2d):
            sides = {"pool": np.array([[3.0, 3.0]]), "stride": 2.0, "pad": np.zeros((1, 4))}
            layers.append({"name": name, "type": "pool", "method": "max", **sides})
    normalization = {"imageSize": np.array([[224.0, 224, 3]]), "averageImage": np.full((1, 1, 3), 100.0)}
    return {"layers": _cell([*layers, {"type": "softmax"}]), "meta": {"normalization": normalization}}


def _write_matlab(path: Path) -> None:
    import scipy.io

    scipy.io.savemat(path, _simplenn())


def _write_matlab_73(path: Path) -> None:
    """HDF5 behind 512 bytes; axes in reverse order, cells as references."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        stored = file.create_group("#refs#")

        def put(group: Any, name: str, value: Any) -> None:
            if isinstance(value, dict):
                made = group.create_group(name)
                for key, item in value.items():
                    put(made, key, item)
                kind = "struct"
            elif isinstance(value, np.ndarray) and value.dtype == object:
                names = [f"r{len(stored) + place}" for place in range(value.size)]
                for each in names:
                    stored.create_group(each)
                for each, item in zip(names, value.ravel(), strict=True):
                    del stored[each]
                    put(stored, each, item)
                made = group.create_dataset(name, (len(names), 1), h5py.ref_dtype)
                made[:, 0] = [stored[each].ref for each in names]
                kind = "cell"
            elif isinstance(value, str):
                made = group.create_dataset(name, data=np.array([[ord(letter)] for letter in value], "u2"))
                kind = "char"
            else:
                made = group.create_dataset(name, data=np.atleast_2d(value).T)
                kind = "single" if made.dtype == np.float32 else "double"
            made.attrs["MATLAB_class"] = np.bytes_(kind)

        for name, value in _simplenn().items():
            put(file, name, value)
    with path.open("r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


def _save_torch(path: Path, **settings: Any) -> None:
    torch.save(_network().state_dict(), path, **settings)


def _export(path: Path, name: str) -> None:
    get_exporter(name).write(_network(), path, ExportOptions())


def _save_keras(path: Path) -> None:
    """A file that Keras writes, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _export(whole := Path(folder) / "a.keras", "keras")
        save = "save_weights" if path.name.endswith(".weights.h5") else "save"
        code = f"import keras, sys; keras.saving.load_model(sys.argv[1], compile=False).{save}(sys.argv[2])"
        environment = {**os.environ, "KERAS_BACKEND": "torch"}
        command = [sys.executable, "-W", "ignore", "-c", code, str(whole), str(path)]
        subprocess.run(command, check=True, capture_output=True, env=environment)


def _save_npz(path: Path) -> None:
    arrays = {
        f"{name}/{part}": array for name, pair in _layers().items() for part, array in zip("wb", pair, strict=True)
    }
    np.savez(path, **arrays)


FORMATS: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "torch": ("a.pth", _save_torch),
    "torch-legacy": ("a.pth", functools.partial(_save_torch, _use_new_zipfile_serialization=False)),
    "safetensors": ("a.safetensors", functools.partial(_export, name="safetensors")),
    "onnx": ("a.onnx", functools.partial(_export, name="onnx")),
    "caffe": ("a.caffemodel", functools.partial(_export, name="caffe")),
    "keras": ("a.keras", _save_keras),
    "keras-h5": ("a.h5", _save_keras),
    "keras-weights": ("a.weights.h5", _save_keras),
    "npy": ("a.npy", lambda path: np.save(path, _layers(), allow_pickle=True)),  # type: ignore[arg-type]
    "npz": ("a.npz", _save_npz),
    "pickle": ("a.pkl", lambda path: path.write_bytes(pickle.dumps(_layers(), protocol=4))),
    "matlab": ("a.mat", _write_matlab),
    "matlab-7.3": ("a.mat", _write_matlab_73),
}
"""Format → the name of a file, and what writes a valid one."""


def damage_weights(folder: Path, name: str, numbers: range, seed: int, out: Path | None = None) -> FaultResult:
    """Read changed files of a format. ``out``: a JSON file with the figures, from which an earlier run is continued.

    Raises ``UserError`` for an unknown format, for a library that is absent, and if the valid file is refused.
    """
    if name not in FORMATS:
        raise unknown("format of weights files", name, FORMATS)
    file, write = FORMATS[name]
    path = folder / file
    try:
        write(path)
    except (ImportError, subprocess.CalledProcessError) as error:
        raise UserError(f"no file of the format {name} can be written here: a library is absent") from error
    data = path.read_bytes()
    _check(convert_file(path, variant=VARIANT)[0])  # it imports what a reader needs
    figures = _continued(out, name, numbers, seed, len(data))
    while figures["next"] < numbers.stop:
        batch = range(figures["next"], min(numbers.stop, figures["next"] + PER_PROCESS))
        _read_batch(path, data, batch, seed, figures)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, figures)
    remark = f"{figures['refused']:,} refused, largest memory {figures['memory'] / 2**20:.0f} MiB"
    remark += f", longest {figures['longest']:.1f} s"
    count = figures["next"] - numbers.start
    return FaultResult(f"changed weights file, {name}", count, list(figures["failures"]), remark)


def _continued(out: Path | None, name: str, numbers: range, seed: int, size: int) -> dict[str, Any]:
    """The figures of an earlier run with the same file, or of none."""
    figures = {
        "format": name, "seed": seed, "bytes": size, "first": numbers.start, "next": numbers.start, "refused": 0,
        "networks": 0, "memory": 0, "longest": 0.0, "seconds": 0.0, "failures": [],
    }  # fmt: skip
    if out is None or not out.exists():
        return figures
    earlier = read_json(out)
    if any(earlier.get(key) != figures[key] for key in ("format", "seed", "bytes", "first")):
        raise UserError(f"{out} has the figures of another run: give another file with --out")
    return dict(earlier)


def _read_batch(path: Path, data: bytes, batch: range, seed: int, figures: dict[str, Any]) -> None:
    """Read the changed files of ``batch`` in a process and add to ``figures``; it ends at the first failure."""
    limit, note = MEMORY_FACTOR * len(data) + MEMORY_EXTRA, path.with_name("error")
    note.unlink(missing_ok=True)

    def read(send: Callable[[int], None]) -> int:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number in batch:
            signal.alarm(SECONDS)
            path.write_bytes(mutated(data, random.Random(f"{seed}/{path.name}/{number}")))
            before, start = _clear_peak(), time.monotonic()
            try:
                is_network = _outcome(path)
            except BaseException as error:
                note.write_text(f"{type(error).__name__}: {error}"[:300], encoding="utf-8", errors="replace")
                return 1
            memory = max(0, _status("VmHWM") - before)  # with that of running the network
            if memory > limit:
                note.write_text(f"{memory:,} bytes of memory for a file of {len(data):,}")
                return 1
            for value in (int(is_network), memory, int(1e6 * (time.monotonic() - start))):
                send(value)
        return 0

    start = time.monotonic()
    status, received = Child(read).wait()
    done = len(received) // 3
    for place in range(done):
        is_network, memory, microseconds = received[3 * place : 3 * place + 3]
        figures["networks" if is_network else "refused"] += 1
        figures["memory"] = max(figures["memory"], memory)
        figures["longest"] = max(figures["longest"], microseconds / 1e6)
    figures["seconds"] += time.monotonic() - start
    figures["next"] = batch.start + done
    if status:
        how = f"more than {SECONDS} s" if status == 128 + signal.SIGALRM else f"status {status}"
        why = note.read_text() if note.exists() else how
        if len(figures["failures"]) < MAX_FAILURES:
            figures["failures"].append(f"file {figures['next']}: {why}")
        figures["next"] += 1


def _outcome(path: Path) -> bool:
    """Whether the file gives a network; False if it is refused. Any other error is a failure: it is raised."""
    try:
        network, _ = convert_file(path, variant=VARIANT)
    except UserError as error:
        if "\n" in error.line:
            raise ValueError("a refusal of several lines") from error
        return False
    _check(network)
    return True


def _check(network: Classifier) -> None:
    """Raise ``ValueError`` if a parameter is not finite, or the outputs do not have the right shape."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise ValueError("a parameter is not finite")
    side = network.image_size
    if side <= LARGEST_IMAGE:
        with torch.inference_mode():
            shape = network(torch.zeros(1, network.in_channels, side, side)).shape
        if tuple(shape) != (1, network.num_classes):
            raise ValueError(f"outputs of the shape {tuple(shape)}")


def _clear_peak() -> int:
    """Let the peak of this process's memory begin anew; the memory that it has now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # it is not allowed: the peak is that since the start
        return _status("VmHWM")
    return _status("VmRSS")


def _status(name: str) -> int:
    """A line of ``/proc/self/status`` that is in kB, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0
