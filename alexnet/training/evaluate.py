"""Exact counts: each image once, integers summed, averages taken at the end.

One view (the centre) or ten (paper §6: the softmax outputs are averaged over the views, as they are over the networks
of an ensemble). One counter serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.data.augment import views
from alexnet.data.loader import to_device
from alexnet.data.store import Store
from alexnet.model.saved import SavedModel
from alexnet.runtime.device import Machine
from alexnet.runtime.log import Reporter, Silent, stage

BATCH = 256
TOP = 5


@dataclass
class Counts:
    """What was counted. ``hits`` and ``totals`` ``(classes,)`` are per true class; ``loss`` is a sum over images."""

    classes: int
    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0
    hits: NDArray[np.int64] = field(init=False)
    totals: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.hits = np.zeros(self.classes, np.int64)
        self.totals = np.zeros(self.classes, np.int64)

    def add(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch: ``log_probabilities`` ``(N, classes)``, ``labels`` ``(N,)``."""
        best = log_probabilities.topk(min(TOP, self.classes), dim=1).indices
        right = best == labels[:, None]
        self.images += len(labels)
        self.top1 += int(right[:, 0].sum())
        self.top5 += int(right.any(dim=1).sum())
        self.loss -= float(log_probabilities.double().gather(1, labels[:, None]).sum())
        self.totals += np.bincount(labels.cpu(), minlength=self.classes)
        self.hits += np.bincount(labels[right[:, 0]].cpu(), minlength=self.classes)

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """``top1`` and ``top5`` as shares, ``loss`` (mean negative log-likelihood), ``images``, ``per_class``."""
        per_class = {
            name: {"images": int(total), "top1": int(hit) / int(total) if total else None}
            for name, hit, total in zip(class_names, self.hits, self.totals, strict=True)
        }
        return {
            "top1": self.top1 / self.images,
            "top5": self.top5 / self.images,
            "loss": self.loss / self.images,
            "images": self.images,
            "per_class": per_class,
        }


def log_probabilities(
    model: SavedModel,
    store: Store,
    index: NDArray[np.int64],
    machine: Machine,
    view_count: Literal[1, 10] = 1,
    batch_size: int = BATCH,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (log-probabilities ``(N, classes)`` fp32, labels ``(N,)``) of a store's images ``index``, in order."""
    network = machine.place(model.network).eval()
    mean_image = None if model.mean_image is None else model.mean_image.to(machine.device)
    for start in range(0, len(index), batch_size):
        some = index[start : start + batch_size]
        pixels = to_device(np.asarray(store.images[some]), machine.device)
        with torch.inference_mode(), machine.autocast():
            seen = views(pixels, model.preprocessing, mean_image, view_count)
            outputs = [network(view).float().log_softmax(dim=1) for view in seen]
        yield average(outputs), to_device(store.labels[some], machine.device)


def average(outputs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, from log-probabilities of one shape."""
    if len(outputs) == 1:
        return outputs[0]
    return torch.logsumexp(torch.stack(tuple(outputs)), dim=0) - math.log(len(outputs))


def evaluate_models(
    models: Sequence[SavedModel],
    stores: Sequence[Store],
    split: str,
    machine: Machine,
    view_count: Literal[1, 10] = 1,
    reporter: Reporter | None = None,
) -> list[Counts]:
    """Counts of each model on ``split`` of its store, then, for several, of their ensemble.

    The stores hold the same images in the same order, each as its model wants them.
    Raises ``UserError`` if they do not, or if the split is empty.
    """
    reporter = reporter or Silent()
    index = stores[0].subset(split)
    _demand_same(models, stores, index, split)
    counts = [Counts(models[0].network.num_classes) for _ in models]
    ensemble = Counts(models[0].network.num_classes)
    streams = [log_probabilities(m, s, index, machine, view_count) for m, s in zip(models, stores, strict=True)]
    with stage(reporter, f"evaluating on {split}", len(index)):
        for batches in zip(*streams, strict=True):
            outputs, labels = [output for output, _ in batches], batches[0][1]
            for count, output in zip(counts, outputs, strict=True):
                count.add(output, labels)
            if len(models) > 1:
                ensemble.add(average(outputs), labels)
            reporter.advance(counts[0].images)
    return [*counts, ensemble] if len(models) > 1 else counts


def _demand_same(models: Sequence[SavedModel], stores: Sequence[Store], index: NDArray[np.int64], split: str) -> None:
    first = stores[0]
    if not len(index):
        raise UserError(f"{first.name} has no {split} images: nothing to evaluate on")
    for model, store in zip(models, stores, strict=True):
        if list(model.classes) != store.classes:
            raise UserError(
                f"the model's {len(model.classes)} classes are not the {len(store.classes)} of {store.name}: "
                "give --data with the classes it was trained on",
                [f"model: {', '.join(model.classes[:8])} …", f"images: {', '.join(store.classes[:8])} …"],
            )
        if view_problem := _unequal(first, store):
            raise UserError(view_problem)


def _unequal(first: Store, other: Store) -> str | None:
    if np.array_equal(first.hashes, other.hashes) and np.array_equal(first.splits, other.splits):
        return None
    return f"the runs are to be counted on different images ({first.name}, {other.name}): give one set with --data"
