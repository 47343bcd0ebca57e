"""The outputs of layers for many images, in files: the same bits whatever batch size is asked for, resumable.

The network always computes chunks of the same number of images (``CHUNKS``), and chunks begin at fixed rows. The last
chunk is filled up with black images, whose outputs are dropped. So the result depends neither on the batch size nor on
where an extraction was interrupted: on one machine, with one number of threads, it has the same bits. Several processes
compute different chunks and give them to the first one, which writes them in order: the bits are again the same.

An extraction works in ``OUT.partial/``. There ``features.json`` states how many rows are complete, with their sha256.
When all rows are there, that folder becomes ``OUT``: ``OUT`` is complete or absent. The files are written, not
memory-mapped: on a full disk a write raises ``OSError``, but a memory-mapped file ends the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError, unknown
from alexnet.core.files import folder_bytes, json_text, read_json, size_in_words, write_json
from alexnet.core.platform import check_platform, fcntl
from alexnet.core.schema import to_json
from alexnet.core.tensors import digest_tensors
from alexnet.data.image_lists import ImageList, Row
from alexnet.data.writer import array_header
from alexnet.inference.feature_files import (
    DESCRIPTION,
    TABLE,
    TABLE_HEADER,
    Features,
    Format,
    array_keys,
    file_format,
    layer_path,
    open_features,
    read_table,
)
from alexnet.inference.predictor import Predictor
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig, describe_hardware
from alexnet.runtime.group import ONE, Group
from alexnet.runtime.log import Reporter, stage

Pool = Literal["none", "mean", "max"]
CHUNKS = {"cpu": 32, "cuda": 256}
"""Device type → images that the network computes at a time, always."""
Chunk = tuple[list[Row], dict[str, NDArray[np.float32]]]
OTHER_CHUNK = 32  # of any other device
BATCH = 256  # images that are read at a time
SCHEMA = 1
PARTIAL = ".partial"  # the suffix of the folder of an unfinished extraction
SAVE_SECONDS = 10.0  # between two states from which an extraction can be resumed
ROW_BYTES = 128  # of a row in the CSV file, an estimate
BLOCK_BYTES = 16 << 20  # read at a time when rows are hashed again
WORDS = {  # for an error: a field of the identity → how the features differ
    "schema": "were written by another version", "model": "are of another model", "layers": "are of other layers",
    "pool": "have another --pool", "images": "are of other images, or the images have changed",
    "rows": "are of other images, or the images have changed", "untrained": "have another --untrained",
    "device": "were computed on another --device", "chunk": "were computed on another --device",
    "precision": "have another --precision", "reference": "were computed with another setting of --reference",
    "preprocessing": "are of another model",
}  # fmt: skip


class LayerExtractor:
    """The outputs of some layers for chunks of images: ``extractor(pixels)["relu5"]`` is ``(n, 256, 13, 13)`` float32.

    ``layers``: name in the result → module. ``pool``: ``"mean"`` or ``"max"`` over the positions of feature maps gives
    ``(n, C)``; ``"none"`` keeps ``(n, C, H, W)``. ``chunk``: the number of images that the network computes at a time.
    """

    def __init__(
        self, model: Classifier, layers: Mapping[str, str], pool: Pool = "none", device: DeviceConfig | None = None
    ) -> None:
        if pool not in get_args(Pool):
            raise unknown("--pool", pool, get_args(Pool))
        self.layers, self.pool = dict(layers), pool
        self._predictor = Predictor(model, device)
        self.device = self._predictor.device_config
        self.chunk = CHUNKS.get(self.device.device.type, OTHER_CHUNK)
        all_shapes = model.layer_shapes()
        maps = {name: all_shapes[module] for name, module in self.layers.items()}
        self.shapes = {name: shape if pool == "none" else shape[:1] for name, shape in maps.items()}

    def __call__(self, pixels: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Name → output for at most ``chunk`` images ``(S, S, C)`` uint8, as :meth:`Predictor.read` gives them."""
        black = np.zeros_like(pixels[0])
        filled = [*pixels, *itertools.repeat(black, self.chunk - len(pixels))]
        with self.device.deterministic():
            outputs = self._predictor.outputs(filled, set(self.layers.values()))
            kept = {name: self._pooled(outputs[module])[: len(pixels)] for name, module in self.layers.items()}
            return {name: output.cpu().contiguous().numpy() for name, output in kept.items()}

    def _pooled(self, output: Tensor) -> Tensor:
        output = output.float()
        if output.dim() != 4 or self.pool == "none":
            return output.contiguous(memory_format=torch.contiguous_format)
        return output.mean((2, 3)) if self.pool == "mean" else output.amax((2, 3))


def computed_chunks(
    extractor: LayerExtractor, images: ImageList, model: Classifier, start: int = 0, batch: int = BATCH,
    group: Group = ONE,
) -> Iterator[Chunk]:  # fmt: skip
    """(Rows, name → their outputs) for one chunk of images after another; the outputs of unreadable images are NaN.

    ``start``: the first row, a multiple of the chunk. ``batch``: images that are read at a time; the result does not
    depend on it. In a ``group``, whole chunks are divided among the processes, and the first one gets all of them in
    order, without pixels; the others get none.
    """
    chunks = [
        range(first, min(first + extractor.chunk, images.count))
        for first in range(start, images.count, extractor.chunk)
    ]
    computed = _own_chunks(extractor, images, model, chunks[group.rank :: group.size], batch)
    if group.size == 1:
        yield from computed
        return
    for first in range(0, len(chunks), group.size):
        message = b"" if first + group.rank >= len(chunks) else _packed(computed)
        if not first:
            group.wait_for_all()  # finding the first image in an archive can take long
        for each in group.to_first(message):
            if each:
                yield _unpacked(each, extractor)


def _own_chunks(
    extractor: LayerExtractor, images: ImageList, model: Classifier, chunks: Sequence[range], batch: int
) -> Iterator[Chunk]:
    settings, chunk = model.preprocessing, extractor.chunk
    black = np.zeros((settings.resize_size, settings.resize_size, settings.channels), np.uint8)
    at_once = -(-min(batch, images.count) // chunk) * chunk
    with closing(images.rows(settings, [*itertools.chain.from_iterable(chunks)])) as rows:
        while read := list(itertools.islice(rows, at_once)):
            for first in range(0, len(read), chunk):
                some = read[first : first + chunk]
                outputs = extractor([black if row.pixels is None else row.pixels for row in some])
                bad = [place for place, row in enumerate(some) if row.pixels is None]
                if bad:
                    outputs = {name: output.copy() for name, output in outputs.items()}
                    for output in outputs.values():
                        output[bad] = np.nan
                yield some, outputs


def _packed(chunks: Iterator[Chunk]) -> bytes:
    """The next chunk, or the error that it raises, as a line of JSON and the bytes of its outputs."""
    try:
        rows, outputs = next(chunks)
    except UserError as error:
        return json.dumps({"error": error.line}).encode() + b"\n"
    described = [[row.name, row.class_name, row.error, row.pixels is not None] for row in rows]
    return b"".join(
        [json.dumps({"rows": described}).encode(), b"\n", *(output.tobytes() for output in outputs.values())]
    )


def _unpacked(message: bytes, extractor: LayerExtractor) -> Chunk:
    """The chunk of :func:`_packed`; its rows have pixels of no size. Raises the error that is in its place."""
    line, _, data = message.partition(b"\n")
    described = json.loads(line)
    if "error" in described:
        raise UserError(described["error"])
    rows = [
        Row(name, class_name, None, np.zeros(0, np.uint8) if read else None, error)
        for name, class_name, error, read in described["rows"]
    ]
    outputs, end = {}, 0
    for name, shape in extractor.shapes.items():
        size = len(rows) * math.prod(shape)
        outputs[name] = np.frombuffer(data, np.float32, size, end).reshape(len(rows), *shape)
        end += 4 * size
    return rows, outputs


@dataclass(frozen=True)
class Request:
    """What is extracted: ``layers`` (name → module) of ``model`` and of its untrained twins, for ``images``.

    ``networks``: folder inside the result → a function that gives the network; "" is the model itself.
    """

    model: Classifier
    networks: Mapping[str, Callable[[], Classifier]]
    images: ImageList
    layers: Mapping[str, str]
    pool: Pool
    device: DeviceConfig
    batch: int = BATCH

    def identity(self, extractor: LayerExtractor) -> dict[str, Any]:
        """What the result depends on, as JSON, but for the machine."""
        described = {
            "schema": SCHEMA,
            "model": {
                "variant": self.model.variant, "sha256": digest_tensors(self.model.state_dict()),
                "mean_image": None if self.model.mean_image is None
                else digest_tensors({"mean": self.model.mean_image}),
            },
            "pool": self.pool,  # before the layers, whose shapes depend on it: an error names the first difference
            "layers": {
                name: {"layer": module, "shape": list(extractor.shapes[name])} for name, module in self.layers.items()
            },
            "images": {"location": self.images.location, "fingerprint": self.images.fingerprint},
            "rows": self.images.count,
            "untrained": len(self.networks) - 1,
            "device": self.device.device.type,
            "precision": self.device.precision,
            "reference": self.device.reference,
            "chunk": extractor.chunk,
            "preprocessing": to_json(self.model.preprocessing),
        }  # fmt: skip
        identity: dict[str, Any] = json.loads(json_text(described))  # so that it equals what is read from a file
        return identity


def extract(request: Request, out: Path, reporter: Reporter, group: Group = ONE) -> Features:
    """Write the features to ``out``, or continue an interrupted extraction; finished features are returned unchanged.

    ``out``: a folder, or a file in one of the other formats of ``feature_files.py``. ``group``: the processes that
    share the work; the first one writes. Raises ``UserError`` if the disk is too small or cannot be written, if ``out``
    holds other features or other files, and if no image can be read.
    """
    if group.is_first:
        features = _extract(request, out, reporter, group)
        group.from_first(bytes)
        return features
    while request_of_first := group.from_first(bytes):
        folder, start, fingerprint = json.loads(request_of_first)
        images = request.images
        if images.fingerprint != fingerprint:
            images = replace(images, open=_other_images(images))
        network = request.networks[folder]()
        extractor = LayerExtractor(network, request.layers, request.pool, request.device)
        for _ in computed_chunks(extractor, images, request.model, start, request.batch, group):
            pass
    return open_features(out)


def _other_images(images: ImageList) -> Callable[[Preprocessing, Sequence[int]], Iterator[Row]]:
    """What opens images that are not those of the first process: it raises ``UserError``."""

    def rows(settings: Preprocessing, numbers: Sequence[int]) -> Iterator[Row]:
        raise UserError(f"{images.location} has other images in another process: give the same images to all")

    return rows


def _extract(request: Request, out: Path, reporter: Reporter, group: Group) -> Features:
    """What :func:`extract` does in the first process."""
    form = file_format(out)
    extractor = LayerExtractor(request.model, request.layers, request.pool, request.device)
    identity = request.identity(extractor)
    size = _array_bytes(identity)
    form.check(out, size)
    partial = out.with_name(out.name + PARTIAL)
    try:
        if _is_finished(out, form, identity):
            if partial.exists():  # left by a kill after the file was renamed
                with contextlib.suppress(UserError), _locked_folder(partial):
                    shutil.rmtree(partial)
            reporter.log(f"{out} is already finished, {identity['rows']:,} images: nothing is computed")
            return open_features(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_disk(partial, out, form.copies * size + ROW_BYTES * identity["rows"])
        with _locked_folder(partial):
            state = _begin(partial, identity, _machine(request.device))
            if "progress" in state:
                try:
                    state = _fill(request, extractor, partial, state, reporter, group)
                except UserError:
                    if not state["progress"]:  # nothing to continue
                        shutil.rmtree(partial)
                    raise
            form.publish(partial, out, state)
            if partial.exists():
                shutil.rmtree(partial)
    except OSError as error:
        kept = f"; what is complete is kept in {partial}: repeat the command to continue" if partial.exists() else ""
        raise UserError(
            f"cannot write the features to {error.filename or out}: {error.strerror or error}{kept}"
        ) from error
    return open_features(out)


def _machine(device: DeviceConfig) -> dict[str, object]:
    """On what the bits of the result depend besides the request."""
    described = describe_hardware(device)
    return {key: described[key] for key in ("hardware", "instructions", "threads", "torch")}


def _array_bytes(identity: Mapping[str, Any]) -> int:
    numbers = sum(math.prod(layer["shape"]) for layer in identity["layers"].values())
    return int(identity["rows"] * numbers * 4 * (1 + identity["untrained"]))


def _check_disk(partial: Path, out: Path, needed: int) -> None:
    """Raise ``UserError`` if the disk has less free space than the features need besides what is written already."""
    missing = needed - folder_bytes(partial) - shutil.disk_usage(out.parent).free
    if missing > 0:
        raise UserError(
            f"the features need {size_in_words(needed)}, {size_in_words(missing)} more than are free in {out.parent}: "
            "give fewer layers, --pool mean, or another --out"
        )


def _is_finished(out: Path, form: Format, identity: Mapping[str, Any]) -> bool:
    """Whether ``out`` holds these features. Raises ``UserError`` if it holds others, or anything else."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = form.describe(out)
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{out} exists and holds no features: give another --out") from error
    if different := _difference(found, identity):
        raise UserError(f"the features in {out} {different}: give another --out")
    return True


def _difference(found: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The first field that differs, in words; "" if none does."""
    return next((WORDS[key] for key, value in identity.items() if found.get(key) != value), "")


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Create a folder and lock it for this process; the system releases the lock however the process ends.

    Raises ``UserError`` if another process has locked it, and if it is a file.
    """
    check_platform()
    while True:
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{folder} is no folder: remove it, or give another --out") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{folder} is in use by another process: wait for it, or give another --out") from error
            except OSError:  # a file system without locks
                pass
            if folder.is_dir() and os.path.samestat(folder.stat(), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def _begin(partial: Path, identity: dict[str, Any], machine: dict[str, object]) -> dict[str, Any]:
    """The state of an unfinished extraction, or a new one in an empty folder.

    Raises ``UserError`` for the state of another request or of another machine, and for a folder of other files.
    """
    path = partial / DESCRIPTION
    if not path.exists():
        if others := sorted(each.name for each in partial.iterdir() if not each.name.startswith(".")):
            raise UserError(
                f"{partial} holds {others[0]!r} and no unfinished extraction: rename it, or give another --out"
            )
        state = {**identity, "machine": machine, "progress": {}}
        write_json(path, state)
        return state
    try:
        found: dict[str, Any] = read_json(path)
        different = _difference(found, identity)
        before = dict(found["machine"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: remove {partial}") from error
    if different:
        raise UserError(
            f"{partial} holds an unfinished extraction, whose features {different}: repeat its command, remove that "
            "folder, or give another --out"
        )
    for key, now in machine.items():
        if before.get(key) != now:
            hint = f"set OMP_NUM_THREADS={before.get(key)}, " if key == "threads" else ""
            raise UserError(
                f"{partial} was begun with {key} {before.get(key)}, now {now}, so its rows would differ in the last "
                f"bits: {hint}remove that folder, or give another --out"
            )
    return found


def _fill(
    request: Request, extractor: LayerExtractor, partial: Path, state: dict[str, Any], reporter: Reporter, group: Group
) -> dict[str, Any]:
    """Compute all rows that are missing, and return the final description, which is also written."""
    for folder, make in request.networks.items():
        with _Writer(partial, folder, extractor.shapes, state) as writer:
            if writer.damaged:
                reporter.log(f"note: the files in {partial / folder} were changed: they are computed again")
            if writer.rows == request.images.count:
                continue
            if folder:
                extractor = LayerExtractor(make(), request.layers, request.pool, request.device)
            _compute(request, extractor, writer, _unreadable(partial) if folder else None, folder, reporter, group)
    unreadable = _unreadable(partial)
    if len(unreadable) == request.images.count:
        first = next(read_table(partial / TABLE))
        state["progress"].clear()
        raise UserError(f"{request.images.location}: none of its images can be read", [f"{first[0]}: {first[2]}"])
    hashes = {}
    for key in array_keys(state):
        folder, _, name = key.rpartition("/")
        hashes[key] = state["progress"][folder]["files"][name]["sha256"]
    final = {name: value for name, value in state.items() if name != "progress"}
    final |= {"unreadable": len(unreadable), "sha256": hashes}
    write_json(partial / DESCRIPTION, final)
    return final


def _unreadable(partial: Path) -> set[int]:
    return {number for number, (_, _, error) in enumerate(read_table(partial / TABLE)) if error}


def _compute(
    request: Request, extractor: LayerExtractor, writer: _Writer, unreadable: set[int] | None, folder: str,
    reporter: Reporter, group: Group,
) -> None:  # fmt: skip
    """Compute and write the rows of one network. ``unreadable``: the rows that the first network could not read."""
    count, begun, start = request.images.count, time.monotonic(), writer.rows
    saved = begun
    group.from_first(lambda: json.dumps([folder, start, request.images.fingerprint]).encode())
    title = f"features of {request.model.variant or 'the model'}{f', {folder}' if folder else ''}"
    with stage(reporter, title, count, start):
        chunks = computed_chunks(extractor, request.images, request.model, start, request.batch, group)
        for rows, outputs in chunks:
            bad = {writer.rows + place for place, row in enumerate(rows) if row.pixels is None}
            if unreadable is not None and bad != unreadable & set(range(writer.rows, writer.rows + len(rows))):
                raise UserError(f"{request.images.location} changed while it was read: start again with another --out")
            writer.append(rows, outputs)
            now = time.monotonic()
            reporter.advance(writer.rows, images_per_second=(writer.rows - start) / max(1e-9, now - begun))
            if now - saved >= SAVE_SECONDS:
                writer.save()
                saved = now
        writer.save()


class _Writer:
    """The files of one network in the partial folder, opened to append after the rows that are complete; a context.

    ``folder``: "" for the model, else that of a twin. ``state``: that of the extraction; :meth:`save` updates and
    writes it. The first network also writes the table of images.
    """

    def __init__(
        self, partial: Path, folder: str, shapes: Mapping[str, tuple[int, ...]], state: dict[str, Any]
    ) -> None:
        self._partial, self._folder, self._state = partial, folder, state
        (partial / folder).mkdir(exist_ok=True)
        self.damaged = False
        saved = state["progress"].get(folder, {"rows": 0, "files": {}})
        self.rows = int(saved["rows"])
        paths = {name: layer_path(partial / folder, name) for name in shapes} | (
            {} if folder else {TABLE: partial / TABLE}
        )
        with contextlib.ExitStack() as stack:
            self._files = {name: stack.enter_context(_open(path)) for name, path in paths.items()}
            self._hashes = {name: hashlib.sha256() for name in paths}
            if self.rows and not all(self._continue(name, **entry) for name, entry in saved["files"].items()):
                self.damaged, self.rows = True, 0
            if not self.rows:
                for name in self._files:
                    shape = (int(state["rows"]), *shapes.get(name, ()))
                    self._start(name, _csv_line(TABLE_HEADER) if name == TABLE else array_header("<f4", shape))
            self._stack = stack.pop_all()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self, name: str, header: bytes) -> None:
        self._hashes[name] = hashlib.sha256()
        self._files[name].seek(0)
        self._files[name].truncate()
        self._write(name, header)

    def _continue(self, name: str, size: int, sha256: str) -> bool:
        """Cut off what follows the ``size`` complete bytes of a file; False if these are not those written before."""
        file, digest, left = self._files[name], self._hashes[name], size
        file.seek(0)
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        file.truncate()
        return not left and digest.hexdigest() == sha256

    def _write(self, name: str, data: Any) -> None:
        self._files[name].write(data)
        self._hashes[name].update(data)

    def append(self, rows: Sequence[Row], outputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Add the rows of one chunk."""
        for name in self._files:
            if name == TABLE:
                numbered = enumerate(rows, self.rows)
                cells = ((number, row.name, row.class_name, row.error) for number, row in numbered)
                self._write(name, b"".join(map(_csv_line, cells)))
            else:
                self._write(name, np.ascontiguousarray(outputs[name], np.dtype("<f4")).data.cast("B"))
        self.rows += len(rows)

    def save(self) -> None:
        """Make the rows durable, and write how many there are."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._state["progress"][self._folder] = {
            "rows": self.rows,
            "files": {
                name: {"size": file.tell(), "sha256": self._hashes[name].hexdigest()}
                for name, file in self._files.items()
            },
        }
        write_json(self._partial / DESCRIPTION, self._state)


def _open(path: Path) -> BinaryIO:
    """Open a file to read and write it; it is created if it does not exist. Raises ``OSError`` for a link."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return cast("BinaryIO", os.fdopen(handle, "r+b"))


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")
