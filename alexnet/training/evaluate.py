"""Exact counts: each image once, integers summed, averages taken at the end.

One view (the centre) or ten (paper §6: the softmax outputs are averaged over the views, as they are over the networks
of an ensemble). One counter serves them all: accuracy, loss, classes, confusions and calibration.
"""

from __future__ import annotations

import math
from collections import Counter
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
from alexnet.data.prepared import PreparedDataset
from alexnet.kernels.accelerate import Log, accelerate
from alexnet.kernels.fallback import warn_once
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import NullReporter, Reporter, stage

BATCH = 256
TOP = 5
CALIBRATION_BINS = 15  # of equal width, as in the paper that made the measure common
DENSE_CLASSES = 2000  # above, a matrix of all pairs is larger than what it says


@dataclass
class Metrics:
    """What was counted, for ``classes`` classes. ``loss`` is a sum over images.

    ``pairs``: (true class, predicted class) → images. ``bins`` ``(3, CALIBRATION_BINS)``: images, right answers and the
    sum of confidences, by the confidence of the first answer.
    """

    classes: int
    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, CALIBRATION_BINS)))

    def add(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Count a batch: ``log_probabilities`` ``(N, classes)``, ``targets`` ``(N,)``."""
        values, best = log_probabilities.topk(min(TOP, self.classes), dim=1)
        right = best == targets[:, None]
        self.images += len(targets)
        self.top1 += int(right[:, 0].sum())
        self.top5 += int(right.any(dim=1).sum())
        self.loss -= float(log_probabilities.double().gather(1, targets[:, None]).sum())
        self.pairs.update(zip(targets.tolist(), best[:, 0].tolist(), strict=True))
        confidence = values[:, 0].double().exp().cpu().numpy()
        place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        for row, weights in enumerate((None, right[:, 0].cpu().numpy(), confidence)):
            self.bins[row] += np.bincount(place, weights, CALIBRATION_BINS)

    @property
    def calibration_error(self) -> float:
        """The mean distance between confidence and accuracy, 0 … 1: the ECE of Guo, Pleiss, Sun and Weinberger (2017).

        Σ over bins of (images in it / all images) · |its accuracy − its mean confidence|.
        """
        _, hits, confidences = self.bins
        return float(np.abs(hits - confidences).sum() / self.images)

    def confusion_matrix(self) -> NDArray[np.int64] | None:
        """``(classes, classes)`` counts, true class by row; None above ``DENSE_CLASSES``, where pairs say it."""
        if self.classes > DENSE_CLASSES:
            return None
        matrix = np.zeros((self.classes, self.classes), np.int64)
        for (true, predicted), images in self.pairs.items():
            matrix[true, predicted] = images
        return matrix

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """``top1`` and ``top5`` as shares, ``loss`` (mean negative log-likelihood), ``calibration_error``, ``images``,
        ``per_class``, and ``confusions``: each wrong pair with its images, the most frequent first.
        """
        totals = Counter(dict.fromkeys(range(self.classes), 0))
        for (true, _), images in self.pairs.items():
            totals[true] += images
        per_class = {
            name: {"images": totals[c], "top1": self.pairs[c, c] / totals[c] if totals[c] else None}
            for c, name in enumerate(class_names)
        }
        wrong = sorted((-images, pair) for pair, images in self.pairs.items() if pair[0] != pair[1])
        return {
            "top1": self.top1 / self.images,
            "top5": self.top5 / self.images,
            "loss": self.loss / self.images,
            "calibration_error": self.calibration_error,
            "images": self.images,
            "per_class": per_class,
            "confusions": [
                {"true": class_names[true], "predicted": class_names[predicted], "images": -count}
                for count, (true, predicted) in wrong
            ],
        }


def log_probabilities(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    view_count: Literal[1, 10] = 1,
    batch_size: int = BATCH,
    log: Log = warn_once,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (log-probabilities ``(N, classes)`` fp32, labels ``(N,)``) of a store's images ``index``, in order."""
    network = accelerate(model, device_config, log=log)
    for some, seen in inputs(model, dataset, index, device_config, view_count, batch_size):
        with torch.inference_mode(), device_config.autocast():
            outputs = [network(device_config.to_memory_format(view)).float().log_softmax(dim=1) for view in seen]
        yield average(outputs), to_device(dataset.targets[some], device_config.device)


def inputs(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    view_count: Literal[1, 10] = 1,
    batch_size: int = BATCH,
) -> Iterator[tuple[NDArray[np.int64], Iterator[Tensor]]]:
    """Batches of a store's images ``index``, in order: which they are, and what the network is to see of them."""
    mean_image = None if model.mean_image is None else model.mean_image.to(device_config.device)
    for start in range(0, len(index), batch_size):
        some = index[start : start + batch_size]
        pixels = to_device(dataset.read(some), device_config.device)
        yield some, views(pixels, model.preprocessing, mean_image, view_count)


def average(outputs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, from log-probabilities of one shape."""
    if len(outputs) == 1:
        return outputs[0]
    return torch.logsumexp(torch.stack(tuple(outputs)), dim=0) - math.log(len(outputs))


def evaluate_models(
    models: Sequence[Classifier],
    datasets: Sequence[PreparedDataset],
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    view_count: Literal[1, 10] = 1,
    reporter: Reporter | None = None,
) -> list[Metrics]:
    """Counts of each model on the images ``index`` of its store, then, for several, of their ensemble.

    The stores hold the same images in the same order, each as its model wants them.
    Raises ``UserError`` if they do not, or if there is no image.
    """
    reporter = reporter or NullReporter()
    _check_same(models, datasets, index)
    counts = [Metrics(models[0].num_classes) for _ in models]
    ensemble = Metrics(models[0].num_classes)
    streams = [log_probabilities(m, s, index, device_config, view_count) for m, s in zip(models, datasets, strict=True)]
    with stage(reporter, "evaluating", len(index)):
        for batches in zip(*streams, strict=True):
            outputs, targets = [output for output, _ in batches], batches[0][1]
            for count, output in zip(counts, outputs, strict=True):
                count.add(output, targets)
            if len(models) > 1:
                ensemble.add(average(outputs), targets)
            reporter.advance(counts[0].images)
    return [*counts, ensemble] if len(models) > 1 else counts


def not_trained_on(models: Sequence[Classifier], dataset: PreparedDataset) -> NDArray[np.int64]:
    """The store's images that none of the models was fitted to or chosen by, known by their content; rising."""
    seen = np.concatenate([model.trained_on.numpy().view(np.uint64) for model in models])
    return np.flatnonzero(~np.isin(dataset.hashes, seen))


def _check_same(models: Sequence[Classifier], datasets: Sequence[PreparedDataset], index: NDArray[np.int64]) -> None:
    first = datasets[0]
    if not len(index):
        raise UserError(f"{first.name} has no images to evaluate on")
    for model, dataset in zip(models, datasets, strict=True):
        check_classes(model, dataset.classes, dataset.name)
        if view_problem := _unequal(first, dataset):
            raise UserError(view_problem)


def check_classes(model: Classifier, classes: Sequence[str], name: str) -> None:
    """Raise ``UserError`` unless the images called ``name`` have the model's classes."""
    if list(model.classes) != list(classes):
        raise UserError(
            f"the model's {len(model.classes)} classes are not the {len(classes)} of {name}: "
            "give --data with the classes it was trained on",
            [f"model: {', '.join(model.classes[:8])} …", f"images: {', '.join(classes[:8])} …"],
        )


def _unequal(first: PreparedDataset, other: PreparedDataset) -> str | None:
    if np.array_equal(first.hashes, other.hashes) and np.array_equal(first.splits, other.splits):
        return None
    return f"the runs are to be counted on different images ({first.name}, {other.name}): give one set with --data"
