"""Evaluation: exact counts of one or several models on the same images.

Each image counts once; counts are integers that are summed and divided at the end. One view of an image is the centre
crop. Ten views are the four corner crops, the centre crop and their mirror images. The softmax outputs are averaged
over the views (paper §4.1) and over the models of an ensemble (§6).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.data.augment import ViewOrder, views
from alexnet.data.loader import to_device
from alexnet.data.prepared import PreparedDataset
from alexnet.data.sources.class_folders import same_name
from alexnet.kernels.accelerate import Log, accelerate
from alexnet.kernels.fallback import warn_once
from alexnet.metrics.counts import Metrics
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
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
    group: Group = ONE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (log-probabilities ``(N, classes)`` fp32, targets ``(N,)`` int64) of the images ``index``, in order.

    ``index``: ``(n,)`` positions in the prepared dataset. ``log`` receives one line for each fast kernel that cannot be
    used here. In a ``group``, whole batches are divided among the processes, and each process gets all of them in
    order: with equal numbers of threads, the bits are those of one process.
    """
    network = accelerate(model, device_config, log=log)

    def compute(own: NDArray[np.int64]) -> Iterator[Tensor]:
        for _, views_of_batch in inputs(model, dataset, own, device_config, view_count, batch_size):
            with torch.inference_mode(), device_config.autocast():
                outputs = map(network, map(device_config.to_memory_format, views_of_batch))
                output = average([each.float().log_softmax(dim=1) for each in outputs])
            yield output

    for positions, rows in shared_batches(index, batch_size, compute, group):
        yield rows, to_device(dataset.targets[positions], device_config.device)


def shared_batches(
    index: NDArray[np.int64],
    batch_size: int,
    compute: Callable[[NDArray[np.int64]], Iterator[Tensor]],
    group: Group,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Batches of the images ``index`` ``(n,)``, in order: their positions, and a row for each of them.

    ``compute``: gives the rows of the given images, batch by batch. Whole batches are divided among the processes of
    the group, and each process gets all rows.
    """
    batches = [index[start : start + batch_size] for start in range(0, len(index), batch_size)]
    computed = compute(np.concatenate([np.arange(0), *batches[group.rank :: group.size]]))
    for first in range(0, len(batches), group.size):
        together = batches[first : first + group.size]
        own = next(computed) if group.rank < len(together) else None
        counts = [len(positions) for positions in together] + [0] * (group.size - len(together))
        yield from zip(together, group.rows(own, counts), strict=True)


def inputs(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    view_count: Literal[1, 10] = 1,
    batch_size: int = BATCH,
) -> Iterator[tuple[NDArray[np.int64], Iterator[Tensor]]]:
    """Batches of the images ``index``, in order: their positions ``(N,)``, and each view of them as network input.

    A view is ``(N, C, S, S)`` fp32 on the device. Of a model with Caffe's preprocessing, the ten views are Caffe's.
    """
    mean_image = None if model.mean_image is None else model.mean_image.to(device_config.device)
    order: ViewOrder = "caffe" if model.preprocessing.resize == "warp" else "tencrop"
    for start in range(0, len(index), batch_size):
        positions = index[start : start + batch_size]
        pixels = to_device(dataset.read(positions), device_config.device)
        yield positions, views(pixels, model.preprocessing, mean_image, view_count, order)


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
    on_batch: Callable[[Tensor], None] = lambda output: None,
    group: Group = ONE,
) -> list[Metrics]:
    """The metrics of each model on the images ``index`` of its dataset, then, for several models, of their ensemble.

    The datasets hold the same images in the same order, each prepared as its model needs them, with the classes of the
    model (see :func:`match_classes`). ``on_batch`` receives the log-probabilities ``(N, classes)`` of each batch in
    order: those of the model, or of the ensemble of several. ``group``: the processes that share the work; each of them
    gets all metrics. Raises ``UserError`` if the datasets hold other images, if
    their classes are not the models', or if ``index`` is empty.
    """
    reporter = reporter or NullReporter()
    _check_same(models, datasets, index)
    classes = models[0].classes
    *counts, ensemble = (Metrics(len(classes), views=view_count, class_names=classes) for _ in (*models, "ensemble"))
    streams = [
        log_probabilities(model, dataset, index, device_config, view_count, group=group)
        for model, dataset in zip(models, datasets, strict=True)
    ]
    with stage(reporter, "evaluating", len(index)):
        for batches in zip(*streams, strict=True):
            outputs, targets = [output for output, _ in batches], batches[0][1]
            for count, output in zip(counts, outputs, strict=True):
                count.add(output, targets)
            together = average(outputs)
            if len(models) > 1:
                ensemble.add(together, targets)
            on_batch(together)
            reporter.advance(counts[0].images)
    return [*counts, ensemble] if len(models) > 1 else counts


def most_probable(log_probabilities: Tensor) -> list[tuple[int, float] | None]:
    """The most probable class and its probability for each row ``(classes,)``; None for a row that is not finite."""
    finite = log_probabilities.isfinite().all(dim=1).tolist()
    values, best = log_probabilities.max(dim=1)
    found = zip(finite, best.tolist(), values.double().exp().tolist(), strict=True)
    return [(number, probability) if usable else None for usable, number, probability in found]


def prediction_rows(
    dataset: PreparedDataset, index: NDArray[np.int64], best: Sequence[tuple[int, float] | None]
) -> list[tuple[str, str, str, str]]:
    """The rows (file, true class, predicted class, probability) of the images ``index``, below a row of titles.

    ``best``: see :func:`most_probable`; an image whose output is not finite has no prediction.
    """
    classes = dataset.classes
    return [
        ("file", "true", "predicted", "probability"),
        *(
            (file, classes[true], *(("", "") if found is None else (classes[found[0]], f"{found[1]:.6f}")))
            for file, true, found in zip(dataset.names(index), dataset.targets[index].tolist(), best, strict=True)
        ),
    ]


def not_trained_on(models: Sequence[Classifier], dataset: PreparedDataset) -> NDArray[np.int64]:
    """Positions ``(n,)``, ascending, of the images that were no training or validation images of any of the models.

    Images are compared by the hash of their content.
    """
    trained_on = np.concatenate([model.trained_on.numpy().view(np.uint64) for model in models])
    return np.flatnonzero(~np.isin(dataset.hashes, trained_on))


def _check_same(models: Sequence[Classifier], datasets: Sequence[PreparedDataset], index: NDArray[np.int64]) -> None:
    first = datasets[0]
    if not len(index):
        raise UserError(f"{first.name} has no images to evaluate on")
    for model, dataset in zip(models, datasets, strict=True):
        check_classes(model, dataset.classes, dataset.name)
        if models[0].classes != model.classes:
            other = sorted(set(models[0].classes) ^ set(model.classes))
            raise UserError(
                f"the models have different classes ({_some(other) or 'in another order'}): evaluate them one by one"
            )
        if not (np.array_equal(first.hashes, dataset.hashes) and np.array_equal(first.splits, dataset.splits)):
            raise UserError(
                f"the models would be evaluated on different images ({first.name}, {dataset.name}): "
                "give one image set for all with --data"
            )


def check_classes(model: Classifier, classes: Sequence[str], name: str) -> None:
    """Raise ``UserError`` unless the images called ``name`` have the model's classes, in the same order."""
    if list(model.classes) != list(classes):
        raise UserError(
            f"the model's {len(model.classes)} classes are not the {len(classes)} of {name}: "
            "give --data with the classes it was trained on",
            [f"model: {', '.join(model.classes[:8])} …", f"images: {', '.join(classes[:8])} …"],
        )


def match_classes(model: Classifier, classes: Sequence[str], name: str) -> tuple[list[int], list[str]]:
    """The numbers of the model's outputs for the classes of the images called ``name``, matched by their names.

    Returns a number for each of ``classes``, and notes: classes of the model that are absent, and names that were
    matched although they are spelled in another way. A class is found by its own name; else by one that differs only in
    case, in spaces around it or in its Unicode form; else by its label for people. Raises ``UserError`` that names the
    classes that the model does not have.
    """
    numbers = {each: number for number, each in enumerate(model.classes)}
    alike = _unambiguous(map(same_name, model.classes))
    labelled = _unambiguous(map(same_name, model.labels))
    found = [numbers.get(each, alike.get(same_name(each), labelled.get(same_name(each)))) for each in classes]
    if unknown := [each for each, number in zip(classes, found, strict=True) if number is None]:
        raise UserError(
            f"{name} has {_count(len(unknown), 'class', 'classes')} that the model does not have ({_some(unknown)}): "
            f"leave them out, or rename them; the model's {len(model.classes)} classes are {_some(model.classes)}"
        )
    chosen = [number for number in found if number is not None]
    spelled = [
        f"{each!r} as {model.classes[number]!r}"
        for each, number in zip(classes, chosen, strict=True)
        if each != model.classes[number]
    ]
    notes = [f"note: classes of {name} that are spelled in another way: {_some(spelled)}"] if spelled else []
    if absent := [each for number, each in enumerate(model.classes) if number not in set(chosen)]:
        which = _count(len(absent), "class", "classes")
        notes.append(f"note: {name} has no images of {which} of the model: {_some(absent)}; they are not counted")
    return chosen, notes


def _unambiguous(names: Iterable[str]) -> dict[str, int]:
    """Name → its place, for the names that occur once."""
    names = list(names)
    times = Counter(names)
    return {name: number for number, name in enumerate(names) if times[name] == 1}


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _some(names: Sequence[str], most: int = 8) -> str:
    """The first names in a sentence: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
