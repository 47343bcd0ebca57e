"""The ROC curve of a finished training, and an operating point that was chosen on other images.

The point is chosen on the validation images. A probe on few images has none: the point for each fold is chosen on the
other folds, so that an image is never measured with a point that it helped to choose. The images of one patient are
one unit (``metrics/roc.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.config import Recipe
from alexnet.data.prepared import PreparedDataset
from alexnet.metrics.counts import CROSS_VALIDATED
from alexnet.metrics.roc import Bools, Floats, OperatingPoint, choose_threshold, measure
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.training.evaluate import log_probabilities
from alexnet.training.linear_probe import CrossValidation


def positive_classes(name: str, classes: Sequence[str]) -> list[int]:
    """The classes that are compared with all others: the named one; else, of two, the last; else each of them."""
    if name:
        return [list(classes).index(name)]
    return [1] if len(classes) == 2 else list(range(len(classes)))


def probabilities(
    model: Classifier, dataset: PreparedDataset, index: NDArray[np.int64], device_config: DeviceConfig
) -> Floats:
    """The probabilities ``(n, classes)`` of the images ``index``, from one view."""
    rows = [output.cpu() for output, _ in log_probabilities(model, dataset, index, device_config)]
    return np.asarray(torch.cat(rows).double().exp().numpy()) if rows else np.zeros((0, len(dataset.classes)))


def measure_classes(
    recipe: Recipe,
    model: Classifier,
    dataset: PreparedDataset,
    device_config: DeviceConfig,
    split: str,
    val: NDArray[np.int64],
    folds: CrossValidation | None,
    seed: int,
) -> dict[str, Any]:
    """ROC, sensitivity and specificity for each of :func:`positive_classes` on the images of ``split``, for JSON.

    ``val``: the validation images. ``folds``: the predictions of a probe on few images. Images whose output is not
    finite are left out.
    """
    spec, chosen_on = recipe.train, "folds" if folds else "val" if len(val) else None
    if folds:
        choosing, choosing_index = np.exp(folds.nested.log_probabilities), folds.index
    else:
        choosing, choosing_index = probabilities(model, dataset, val, device_config), val
    if folds and split == CROSS_VALIDATED:
        index, scores = folds.index, choosing
    else:
        index = dataset.subset(split)
        scores = probabilities(model, dataset, index, device_config)
    usable, choosable = (np.asarray(np.isfinite(each).all(axis=1)) for each in (scores, choosing))
    units = dataset.groups[index] if dataset.has_groups else np.arange(len(index))
    rule = "youden" if spec.operating_point == "youden" else "sensitivity"
    found = {}
    for number in positive_classes(spec.positive_class, dataset.classes):
        positive = dataset.targets[index] == number
        truth = dataset.targets[choosing_index] == number

        def choose(some: Bools, number: int = number, truth: Bools = truth) -> float | None:
            return choose_threshold(choosing[some, number], truth[some], rule, spec.target_sensitivity)  # type: ignore[arg-type]

        threshold = choose(choosable)
        decided = scores[:, number] >= (np.inf if threshold is None else threshold)
        if folds and split == CROSS_VALIDATED and threshold is not None:
            for fold in range(folds.folds):
                inside = folds.nested.fold == fold
                other = choose(np.asarray(choosable & ~inside, np.bool_))
                decided[inside] = scores[inside, number] >= (threshold if other is None else other)
        point = None if threshold is None else OperatingPoint(threshold, decided[usable])
        name = dataset.classes[number]
        found[name] = measure(scores[usable, number], positive[usable], units[usable], point, seed)
    first = next(iter(found.values()))
    return {
        "rule": rule, "target_sensitivity": spec.target_sensitivity if rule == "sensitivity" else None,
        "chosen_on": chosen_on, "same_images": split == "val" and chosen_on == "val",
        "patients": first["units"] if dataset.has_groups else None, "classes": found,
    }  # fmt: skip
