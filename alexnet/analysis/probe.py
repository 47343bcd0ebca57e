"""Linear probe: how well a linear classifier on a layer's features tells the classes apart, by cross-validation.

Each fold standardises the features and fits multinomial logistic regression (scikit-learn's ``StandardScaler`` and
``LogisticRegression``, C = 0.01) on the other folds, then predicts its own images. So every image is predicted once, by
a classifier that has not seen it. Images of equal content are in one fold: a copy would be predicted by memory.

Where a layer and C are chosen too, the choice is made anew inside each fold, on the other folds only (nested
cross-validation: Varma and Simon, "Bias in error estimation when using cross-validation for model selection", BMC
Bioinformatics 2006). The accuracy of the best of several choices would be too high on the images it was chosen on.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.metrics.intervals import accuracy_interval

FOLDS = 5
REGULARIZATION = 0.01  # C of the logistic regression
CHOICES = (0.001, 0.01, 0.1)  # of C, where it is chosen
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
class ProbeChoice:
    """A layer and the C of a logistic regression on its features.

    ``accuracy``: cross-validated, 0 … 1, on the images on which they were chosen, so a little too high.
    """

    layer: str
    regularization: float
    accuracy: float


@dataclass(frozen=True)
class NestedScore:
    """Predictions of every image by a probe that was chosen and fitted without it.

    ``log_probabilities`` ``(n, classes)`` float64. ``choices``: that of each fold. ``fold`` ``(n,)``: the fold of each
    image.
    """

    log_probabilities: NDArray[np.float64]
    choices: tuple[ProbeChoice, ...]
    fold: NDArray[np.int64]


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
        copies = " (the others are copies of it, or in one group with it)" if (labels == smallest).sum() > 1 else ""
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


def choose_probe(
    features: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], folds: Sequence[Fold]
) -> ProbeChoice:
    """The layer and the C of a probe, by cross-validation: the first layer and ``REGULARIZATION``, or a better choice.

    Another choice must be better by more than one standard error of the accuracy (the rule of Breiman, Friedman, Olshen
    and Stone, "Classification and Regression Trees", 1984, §3.4.3): with few images the best of several is best by
    chance. ``features``: layer → ``(n, units)``, the preferred layer first; ``labels`` ``(n,)``. Raises ``ValueError``
    if there is no layer.
    """
    if not features:
        raise ValueError("there is no layer to choose")
    first = next(iter(features))
    right = {(layer, regularization): 0 for layer in features for regularization in CHOICES}
    for train, test in folds:
        for layer, regularization in right:
            values = features[layer]
            predicted, _ = fit_and_predict(values[train], labels[train], values[test], regularization)
            right[layer, regularization] += int((predicted == labels[test]).sum())
    count = sum(len(test) for _, test in folds)
    if not count:
        return ProbeChoice(first, REGULARIZATION, 0.0)
    shares = {choice: correct / count for choice, correct in right.items()}
    preferred = shares[first, REGULARIZATION]
    margin = math.sqrt(preferred * (1 - preferred) / count)
    best = max(shares, key=lambda choice: shares[choice])
    chosen = best if shares[best] > preferred + margin else (first, REGULARIZATION)
    return ProbeChoice(*chosen, shares[chosen])


def nested_score(
    features: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    groups: NDArray[np.uint64],
    classes: Sequence[str],
    seed: int = 0,
) -> NestedScore:
    """Predict each image by a probe; its layer and C were chosen, and it was fitted, on the other folds only.

    ``features``: layer → ``(n, units)``; other arguments and errors as :func:`make_folds`. A class that has only one
    image in the other folds takes no part in the choice.
    """
    log_probabilities = np.full((len(labels), len(classes)), -np.inf)
    fold, choices = np.zeros(len(labels), np.int64), []
    for number, (train, test) in enumerate(make_folds(labels, groups, classes, seed)):
        inner = _inner_folds(labels[train], groups[train], classes, seed)
        within = {layer: values[train] for layer, values in features.items()}
        choice = choose_probe(within, labels[train], inner)
        choices.append(choice)
        values = features[choice.layer]
        fold[test] = number
        if len(np.unique(labels[train])) < 2:  # large groups can leave one class: it is predicted for every image
            log_probabilities[test, labels[train][0]] = 0.0
            continue
        weight, bias = linear_layer(values[train], labels[train], len(classes), choice.regularization)
        logits = values[test].astype(np.float64) @ weight.T + bias
        log_probabilities[test] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return NestedScore(log_probabilities, tuple(choices), fold)


def _inner_folds(
    labels: NDArray[np.int64], groups: NDArray[np.uint64], classes: Sequence[str], seed: int
) -> list[Fold]:
    """The folds inside a fold, of the classes that have two or more different images there."""
    several = [label for label in np.unique(labels) if len(np.unique(groups[labels == label])) > 1]
    index = np.flatnonzero(np.isin(labels, several))
    if len(several) < 2:
        return []
    folds = make_folds(labels[index], groups[index], classes, seed)
    return [(index[train], index[test]) for train, test in folds]


def fit_and_predict(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    regularization: float = REGULARIZATION,
) -> tuple[NDArray[np.int64], bool]:
    """The labels ``(m,)`` that a classifier fitted on ``train`` ``(n, units)`` predicts for ``test`` ``(m, units)``.

    ``regularization``: C of the logistic regression. Also returns whether the fit converged. The scaler is fitted on
    ``train`` only. Labels of one class are returned as they are.
    """
    if len(np.unique(labels)) < 2:
        return np.full(len(test), labels[0]), True
    classifier, converged = _fit(train, labels, regularization)
    predicted: NDArray[np.int64] = classifier.predict(test.astype(np.float64))
    return predicted, converged


def linear_layer(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    regularization: float = REGULARIZATION,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probe that is fitted on all features ``(n, units)``, as one linear layer: weight ``(classes, units)``, bias.

    The scaler is part of it: with means m and standard deviations s, w · (x − m)/s + b = (w/s) · x + (b − w · m/s). The
    softmax of its outputs has the probabilities of the probe. Classes without images get the lowest bias of all.
    Raises ``ValueError`` for labels of one class.
    """
    pipeline, _ = _fit(features, labels, regularization)
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


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64], regularization: float) -> tuple[Any, bool]:
    """A scaler and a logistic regression, fitted; and whether the fit converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=regularization, max_iter=ITERATIONS))
    one_thread = _thread_pools().limit(limits=1, user_api="blas")
    with one_thread, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(features.astype(np.float64), labels)
    return classifier, not any(issubclass(each.category, ConvergenceWarning) for each in caught)


@functools.cache
def _thread_pools() -> Any:
    """The thread pools of the libraries in this process.

    These matrices are small: threads of BLAS wait for each other longer than they compute. A nested cross-validation of
    300 images took 20 to 45 s with two threads, and takes 4 s with one.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
