"""Exact counts: each image once, integers summed, averages taken at the end.

One view (the centre) or ten (paper §6: the softmax outputs are averaged over the views, as they are over the networks
of an ensemble). One counter serves them all: accuracy, loss, classes, confusions and calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

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
from alexnet.metrics.counts import Metrics
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import NullReporter, Reporter, stage

BATCH = 256


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
