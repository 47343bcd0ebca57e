"""Linear probe: how well a linear classifier on a layer's features tells the classes apart, by cross-validation.

Each fold standardises the features and fits multinomial logistic regression (scikit-learn's ``StandardScaler`` and
``LogisticRegression``, C = 0.01) on the other folds, then predicts its own images. So every image is predicted once, by
a classifier that has not seen it. Images of equal content are in one fold: a copy would be predicted by memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.metrics.intervals import accuracy_interval

FOLDS = 5
REGULARIZATION = 0.01  # C of the logistic regression
ITERATIONS = 500

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The images that a classifier is fitted on, and those that it predicts."""


@dataclass(frozen=True)
class ProbeScore:
    """The images that were predicted correctly. ``interval``: of the accuracy, 95 %, (lowest, highest), each 0 … 1.

    The interval is that of as many independent images (Wilson); the folds share training images, so it is a little
    too narrow. ``balanced``: the mean of the accuracies of the classes, 0 … 1, which is what to expect of other images
    if all classes are equally frequent among them. ``folds``: the accuracy in each fold. ``converged``: whether every
    fit did within ``ITERATIONS``.
    """

    correct: int
    images: int
    balanced: float
    interval: tuple[float, float]
    folds: tuple[float, ...]
    converged: bool

    @property
    def accuracy(self) -> float:
        """The share of all images, 0 … 1."""
        return self.correct / self.images


@dataclass(frozen=True)
class LayerProbe:
    """The score of one layer with ``units`` features, and of the same layer of a network with random weights."""

    layer: str
    units: int
    trained: ProbeScore
    untrained: ProbeScore


@dataclass(frozen=True)
class ProbeResult:
    """Linear probes of several layers on the same folds of the same images.

    ``largest_class``: the share of the largest class, which is the accuracy of always predicting it. ``splits``: the
    splits of the source that were used. ``copies``: images that repeat an earlier one. ``trained_on``: images
    that the model was trained on. ``unreadable``: images that were left out.
    """

    images: int
    classes: int
    folds: int
    largest_class: float
    splits: tuple[str, ...]
    copies: int
    trained_on: int
    unreadable: int
    layers: tuple[LayerProbe, ...]


def make_folds(
    labels: NDArray[np.int64], groups: NDArray[np.uint64], classes: Sequence[str], seed: int = 0
) -> list[Fold]:
    """Folds of images with labels ``(n,)``, stratified by class; equal ``groups`` ``(n,)`` are in one fold.

    The number of folds is the number of different images of the smallest class, at most ``FOLDS``. ``classes``: names
    for errors. Raises ``UserError`` for fewer than two classes and for a class of one image.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    present = np.unique(labels)
    if len(present) < 2:
        raise UserError("the images are of one class only: a probe needs two or more classes")
    different = {label: len(np.unique(groups[labels == label])) for label in present.tolist()}
    smallest = min(different, key=lambda label: different[label])
    if different[smallest] < 2:
        copies = " (the others are copies of it)" if (labels == smallest).sum() > 1 else ""
        raise UserError(
            f"class {printable(classes[smallest])!r} has only one image{copies}: cross-validation needs two or more"
        )
    folds = min(FOLDS, different[smallest])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [(train, test) for train, test in splitter.split(np.zeros(len(labels)), labels, groups) if len(test)]


def score(features: NDArray[np.float32], labels: NDArray[np.int64], folds: Sequence[Fold]) -> ProbeScore:
    """The cross-validated accuracy of a linear classifier on features ``(n, units)`` with labels ``(n,)``."""
    right, converged = np.zeros(len(labels), np.bool_), True
    for train, test in folds:
        predicted, good = fit_and_predict(features[train], labels[train], features[test])
        right[test] = predicted == labels[test]
        converged = converged and good
    correct = int(right.sum())
    balanced = float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
    return ProbeScore(
        correct, len(labels), balanced, accuracy_interval(correct, len(labels)),
        tuple(float(right[test].mean()) for _, test in folds), converged,
    )  # fmt: skip


def fit_and_predict(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32]
) -> tuple[NDArray[np.int64], bool]:
    """The labels ``(m,)`` that a classifier fitted on ``train`` ``(n, units)`` predicts for ``test`` ``(m, units)``.

    Also returns whether the fit converged. The scaler is fitted on ``train`` only. Labels of one class are returned as
    they are.
    """
    if len(np.unique(labels)) < 2:
        return np.full(len(test), labels[0]), True
    classifier, converged = _fit(train, labels)
    predicted: NDArray[np.int64] = classifier.predict(test.astype(np.float64))
    return predicted, converged


def linear_layer(
    features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probe that is fitted on all features ``(n, units)``, as one linear layer: weight ``(classes, units)``, bias.

    The scaler is part of it: with means m and standard deviations s, w · (x − m)/s + b = (w/s) · x + (b − w · m/s). The
    softmax of its outputs has the probabilities of the probe. Classes without images get the lowest bias of all.
    Raises ``ValueError`` for labels of one class.
    """
    pipeline, _ = _fit(features, labels)
    scaler, logistic = pipeline[0], pipeline[1]
    coefficients, intercepts = logistic.coef_, logistic.intercept_
    if len(logistic.classes_) == 2:  # scikit-learn has one row, the logit of the second class
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((num_classes, features.shape[1]))
    weight[logistic.classes_] = coefficients / scaler.scale_
    bias = np.full(num_classes, (intercepts - coefficients @ (scaler.mean_ / scaler.scale_)).min())
    bias[logistic.classes_] = intercepts - coefficients @ (scaler.mean_ / scaler.scale_)
    return weight, bias


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Any, bool]:
    """A scaler and a logistic regression, fitted; and whether the fit converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARIZATION, max_iter=ITERATIONS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(features.astype(np.float64), labels)
    return classifier, not any(issubclass(each.category, ConvergenceWarning) for each in caught)
