"""Exact counts of a classifier's predictions: accuracy, loss, classes, confusions and calibration.

Each image counts once, integers are summed and divided at the end, so that nothing depends on the batch size or on the
number of processes. Calibration is the expected calibration error of Guo, Pleiss, Sun and Weinberger, "On Calibration
of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TOP = 5
CROSS_VALIDATED = "folds"  # in place of a split: each image was predicted by a model that had not seen it
CALIBRATION_BINS = 15  # of equal width, as in Guo et al.
DENSE_CLASSES = 2000  # with more classes, the list of confused pairs replaces the confusion matrix


@dataclass
class Metrics:
    """Counts of the predictions for ``num_classes`` classes, and the measures that follow from them.

    ``name``: the model, or ``"ensemble"``. ``split``: the images: ``"test"``, ``"val"``, ``"unseen"`` for images that
    no model was trained on, or ``CROSS_VALIDATED``. ``views``: views of each image, 1 or 10. ``class_names``: by
    output; "0", "1", … if empty.

    ``images``: images counted. ``correct`` and ``correct_top5``: images whose class is the most probable one, and among
    the five most probable ones. ``loss_sum``: the sum of the negative log-likelihoods (natural logarithm). ``pairs``:
    (true class, predicted class) → images. ``bins`` ``(3, CALIBRATION_BINS)`` float64: images, correct predictions and
    the sum of confidences, by the probability of the predicted class. ``not_finite``: true class → images for which the
    output of the network is not finite. They count as images and never as correct; they have no prediction, so they are
    in neither ``pairs`` nor ``bins``, and no loss.
    """

    num_classes: int
    name: str = ""
    split: str = ""
    views: int = 1
    class_names: tuple[str, ...] = ()
    images: int = 0
    correct: int = 0
    correct_top5: int = 0
    loss_sum: float = 0.0
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    not_finite: Counter[int] = field(default_factory=Counter)
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, CALIBRATION_BINS)))

    def add(self, log_probabilities: Tensor, targets: Tensor) -> None:
        """Count a batch: ``log_probabilities`` ``(N, num_classes)`` float, ``targets`` ``(N,)`` int64."""
        self.images += len(targets)
        finite = log_probabilities.isfinite().all(dim=1)
        if not finite.all():
            self.not_finite.update(targets[~finite].tolist())
            log_probabilities, targets = log_probabilities[finite], targets[finite]
        values, best = log_probabilities.topk(min(TOP, self.num_classes), dim=1)
        right = best == targets[:, None]
        self.correct += int(right[:, 0].sum())
        self.correct_top5 += int(right.any(dim=1).sum())
        self.loss_sum -= float(log_probabilities.double().gather(1, targets[:, None]).sum())
        self.pairs.update(zip(targets.tolist(), best[:, 0].tolist(), strict=True))
        confidence = values[:, 0].double().exp().cpu().numpy()
        place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        for row, weights in enumerate((None, right[:, 0].cpu().numpy(), confidence)):
            self.bins[row] += np.bincount(place, weights, CALIBRATION_BINS)

    @property
    def top1(self) -> float:
        """The top-1 accuracy, 0 … 1. Raises ``ZeroDivisionError`` before an image is counted, like the others below."""
        return self.correct / self.images

    @property
    def top5(self) -> float:
        """The top-5 accuracy, 0 … 1; 1 where there are at most five classes."""
        return self.correct_top5 / self.images

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the top-1 accuracies of the classes that have images, 0 … 1: each class counts the same."""
        return balanced_accuracy(self.per_class())

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of the true class (cross-entropy, natural logarithm), 0 or more.

        It is the mean over the images whose output is finite; NaN if there are none.
        """
        counted = self.images - self.not_finite.total()
        return self.loss_sum / counted if counted or not self.images else math.nan

    @property
    def figures(self) -> dict[str, float]:
        """The measures that are written after each epoch."""
        return {"loss": self.loss, "top1": self.top1}

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0 … 1, of Guo, Pleiss, Sun and Weinberger (2017), equation 3.

        Σ over bins of (images in the bin / all images), times the distance between the accuracy of the bin and
        its mean confidence. Over the images whose output is finite; NaN if there are none.
        """
        _, hits, confidences = self.bins
        counted = self.images - self.not_finite.total()
        return float(np.abs(hits - confidences).sum() / counted) if counted or not self.images else math.nan

    def confusion_matrix(self) -> NDArray[np.int64] | None:
        """``(num_classes, num_classes)`` images, true class by row; None above ``DENSE_CLASSES`` classes."""
        if self.num_classes > DENSE_CLASSES:
            return None
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        for (true, predicted), images in self.pairs.items():
            matrix[true, predicted] = images
        return matrix

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Class name → ``images`` and ``top1``, the accuracy on them, 0 … 1, or None for a class without images."""
        return self._per_class(self._names())

    def summary(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """The measures as values for JSON.

        ``top1``, ``top5``, ``balanced_accuracy``, ``loss``, ``calibration_error``, ``images``; ``per_class`` as
        :meth:`per_class`; ``confusions``: each wrong pair with its images, the most frequent first. If the outputs for
        some images are not finite: ``not_finite``, their number. ``loss`` and ``calibration_error`` are None if that is
        all images. ``class_names``: in place of ``self.class_names``.
        """
        names = self._names() if class_names is None else class_names
        wrong = sorted((-images, pair) for pair, images in self.pairs.items() if pair[0] != pair[1])
        return {
            "top1": self.top1,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "calibration_error": self.calibration_error if math.isfinite(self.calibration_error) else None,
            "images": self.images,
            **({"not_finite": self.not_finite.total()} if self.not_finite else {}),
            "per_class": self._per_class(names),
            "confusions": [
                {"true": names[true], "predicted": names[predicted], "images": -count}
                for count, (true, predicted) in wrong
            ],
        }

    def to_json(self) -> dict[str, Any]:
        """:meth:`summary` with ``run`` (the name), ``split``, ``views`` and ``confusion_matrix`` (lists, or None)."""
        matrix = self.confusion_matrix()
        described = {"run": self.name, "split": self.split, "views": self.views, **self.summary()}
        return {**described, "confusion_matrix": None if matrix is None else matrix.tolist()}

    def _names(self) -> Sequence[str]:
        return self.class_names or [str(number) for number in range(self.num_classes)]

    def _per_class(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        totals = Counter(self.not_finite)
        for (true, _), images in self.pairs.items():
            totals[true] += images
        return {
            name: {"images": totals[c], "top1": self.pairs[c, c] / totals[c] if totals[c] else None}
            for c, name in enumerate(names)
        }


def describe_images(result: Mapping[str, Any]) -> str:
    """The evaluated images of a result: "10,000 test images", "42 unseen images", "1 val image, ten views".

    For a cross-validated model "90 images, each predicted by a probe that was not fitted on it (5 folds)".
    """
    noun = "image" if result["images"] == 1 else "images"
    if result["split"] == CROSS_VALIDATED:
        folds = result["cross_validation"]["folds"]
        return f"{result['images']:,} {noun}, each predicted by a probe that was not fitted on it ({folds} folds)"
    return f"{result['images']:,} {result['split']} {noun}" + (", ten views" if result.get("views") == 10 else "")


def balanced_accuracy(per_class: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean of the top-1 accuracies of the classes that have images, 0 … 1; see :meth:`Metrics.per_class`."""
    shares = [counted["top1"] for counted in per_class.values() if counted["images"]]
    return float(sum(shares) / len(shares))
