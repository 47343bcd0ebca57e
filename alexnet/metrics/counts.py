"""Exact counts of a classifier's predictions: accuracy, loss, classes, confusions and calibration.

Each image counts once, integers are summed and shares are taken at the end, so that nothing depends on the batch size
or on the number of processes. Calibration is the expected calibration error of Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TOP = 5
CALIBRATION_BINS = 15  # of equal width, as in Guo et al.
DENSE_CLASSES = 2000  # with more classes, the list of confused pairs replaces the confusion matrix


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


def describe_images(result: Mapping[str, Any]) -> str:
    """The evaluated images of a result: "10,000 test images", "42 unseen images", "1 val image, ten views"."""
    noun = "image" if result["images"] == 1 else "images"
    return f"{result['images']:,} {result['split']} {noun}" + (", ten views" if result["views"] == 10 else "")
