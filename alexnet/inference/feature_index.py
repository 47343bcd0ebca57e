"""Features of a prepared dataset: a layer's outputs for all images, kept beside the run, and the nearest neighbours.

The paper (§6.1, figure 4) used the 4096 outputs of the last hidden layer and the Euclidean distance between them. An
index is computed once and kept in ``RUN/features/LAYER/``: ``features.npy`` ``(N, units)`` fp16, memory-mapped, and
``features.json``, which names the model, the images and the layer. An index of another model, of other images or of
another layer is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular, publish_folder, read_json, write_json
from alexnet.core.tensors import digest_tensors
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.runtime.log import Reporter, stage

BATCH = 256
BLOCK = 16384  # rows compared at once
SCHEMA = 1
FILES = ("features.npy", "features.json")


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """``features`` ``(N, units)`` of the images at the positions ``images`` ``(N,)`` of a prepared dataset."""

    images: NDArray[np.int64]
    features: NDArray[np.float16] | NDArray[np.float32]

    def nearest(self, point: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ``count`` images nearest to ``point`` ``(units,)``, nearest first, and their Euclidean distances.

        The search is exact. Of images at equal distances, the one with the lower position comes first.
        """
        squared = np.concatenate(
            [
                np.square(self.features[start : start + BLOCK].astype(np.float32) - point).sum(axis=1, dtype=np.float64)
                for start in range(0, len(self.features), BLOCK)
            ]
        )
        best = np.argsort(squared, kind="stable")[:count]
        return self.images[best], np.sqrt(squared[best])


def compute_features(
    predictor: Predictor, dataset: PreparedDataset, images: NDArray[np.int64], layer: str, reporter: Reporter
) -> Iterator[NDArray[np.float32]]:
    """Batches ``(n, units)`` of a layer's outputs for the images at these positions, in their order."""
    with stage(reporter, f"computing features, {layer}", len(images)):
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            yield predictor.features(dataset.read(some), layer)
            reporter.advance(start + len(some))


def open_index(
    folder: Path,
    predictor: Predictor,
    dataset: PreparedDataset,
    images: NDArray[np.int64],
    layer: str,
    reporter: Reporter,
) -> FeatureIndex:
    """The index of the images at the positions ``images``, read from ``folder`` or computed and written there.

    Raises ``UserError`` if it cannot be written, and for a layer that the network does not have.
    """
    identity = {
        "schema": SCHEMA,
        "model": digest_tensors(predictor.model.state_dict()),
        "store": dataset.digest,
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "layer": layer,
        "precision": predictor.device_config.precision,
    }
    if not _matches(folder, identity, len(images)):
        try:
            with publish_folder(folder, replaces=FILES) as beside:
                rows = compute_features(predictor, dataset, images, layer, reporter)
                _write(beside / "features.npy", len(images), rows)
                write_json(beside / "features.json", identity)
        except OSError as error:
            raise UserError(f"cannot write the features to {folder}: {error.strerror or error}") from error
    return FeatureIndex(images, np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False))


def _matches(folder: Path, identity: dict[str, object], count: int) -> bool:
    """Whether the folder holds a complete index of the same model, images and layer."""
    try:
        written = read_json(folder / "features.json")
        open_regular(folder / "features.npy").close()  # numpy would wait for a pipe
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return written == identity and features.dtype == np.float16 and features.ndim == 2 and len(features) == count


def _write(path: Path, count: int, batches: Iterator[NDArray[np.float32]]) -> None:
    """Write batches to one ``.npy`` file of ``count`` rows, without holding all of them in memory.

    Outputs beyond the range of fp16 are clipped to its largest number. The rows are written, not memory-mapped: on a
    full disk a write raises ``OSError``, but a memory-mapped file ends the process with SIGBUS.
    """
    limit = np.finfo(np.float16).max
    with path.open("xb") as file:
        for number, batch in enumerate(batches):
            if number == 0:
                header = {"descr": "<f2", "fortran_order": False, "shape": (count, batch.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(batch.clip(-limit, limit), np.dtype("<f2")).data)
