"""Images as points: a layer's outputs over a whole set, kept beside the run, and the nearest of them to a photograph.

The paper (§6.1, figure 4) took the 4096 outputs of the last hidden layer and the Euclidean distance between them. An
index is computed once, ``RUN/features/LAYER/``: ``features.npy`` ``(N, units)`` fp16, memory-mapped, and
``features.json``, which says of which model, images and layer it is. One that belongs to something else is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.files import publish_folder, read_json, write_json
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.runtime.log import Reporter, stage

BATCH = 256
BLOCK = 16384  # rows compared at once
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """``features`` ``(N, units)`` of the store's images ``images`` ``(N,)``."""

    images: NDArray[np.int64]
    features: NDArray[np.float16] | NDArray[np.float32]

    def nearest(self, point: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ``count`` images nearest to ``point`` ``(units,)``, nearest first, and their Euclidean distances.

        All are compared; of equals the one that comes first in the store is nearer.
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
    """A layer's outputs ``(n, units)`` for images of a store, in their order, batch by batch."""
    with stage(reporter, f"looking at images, {layer}", len(images)):
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
    """The index of a store's ``images`` in ``folder``, made now unless it is there and is of these.

    Raises ``OSError`` if the disk refuses and ``UserError`` for a layer that the network does not have.
    """
    identity = {
        "schema": SCHEMA,
        "model": _digest(predictor.model.state_dict()),
        "store": dataset.digest,
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "layer": layer,
        "precision": predictor.device_config.precision,
    }
    if not _is_of(folder, identity, len(images)):
        with publish_folder(folder) as beside:
            _write(beside / "features.npy", len(images), compute_features(predictor, dataset, images, layer, reporter))
            write_json(beside / "features.json", identity)
    return FeatureIndex(images, np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False))


def _is_of(folder: Path, identity: dict[str, object], count: int) -> bool:
    """Whether the index there is whole and of the same model, images and layer."""
    try:
        features = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
        written = read_json(folder / "features.json")
    except (OSError, ValueError, EOFError):
        return False
    return written == identity and features.dtype == np.float16 and features.ndim == 2 and len(features) == count


def _write(path: Path, count: int, batches: Iterator[NDArray[np.float32]]) -> None:
    """Batches to one file of ``count`` rows, never all of them in memory.

    An output too large for fp16 becomes its largest number: it is beyond all others there too.
    """
    limit, start, rows = np.finfo(np.float16).max, 0, None
    for batch in batches:
        if rows is None:
            rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, batch.shape[1]))
        rows[start : start + len(batch)] = batch.clip(-limit, limit)
        start += len(batch)


def _digest(state: Mapping[str, Tensor]) -> str:
    """One hash of all weights, by their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
