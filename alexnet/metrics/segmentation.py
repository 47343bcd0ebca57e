"""Exact counts of a segmentation: a matrix of pixels by true and predicted class, and what follows from it.

For each class, the intersection over union is TP / (TP + FP + FN) over all pixels of all images (Everingham et al.,
PASCAL VOC 2010); mean IoU is its mean over the classes that occur in the masks or in the predictions. Pixels without a
class count for nothing. The counts are integers, so they do not depend on the order of images or on batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.data.masks import IGNORED


@dataclass
class SegmentationMetrics:
    """The counts of the images so far.

    ``name``, ``split``: of the model and of the images; ``class_names``: in the order of the classes.
    """

    num_classes: int
    name: str = ""
    split: str = ""
    class_names: tuple[str, ...] = ()
    images: int = 0
    loss_sum: float = 0.0
    not_finite: int = 0
    matrix: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, rows: Tensor) -> None:
        """Add the images of rows ``(N, classes² + 2)`` from :func:`count_pixels`."""
        counts = rows.cpu().numpy()
        self.matrix += counts[:, :-2].sum(axis=0).astype(np.int64).reshape(self.matrix.shape)
        self.images += len(counts)
        for loss, finite in counts[:, -2:].tolist():  # in order, so that the sum does not depend on batches
            self.loss_sum += loss
            self.not_finite += not finite

    @property
    def loss(self) -> float:
        """The mean over the images of the mean negative log-probability of their labelled pixels; NaN without one."""
        counted = self.images - self.not_finite
        return self.loss_sum / counted if counted else math.nan

    @property
    def iou(self) -> NDArray[np.float64]:
        """The intersection over union of each class, ``(classes,)``; NaN for a class that occurs nowhere."""
        right = np.diag(self.matrix).astype(np.float64)
        union = self.matrix.sum(0) + self.matrix.sum(1) - np.diag(self.matrix)
        return np.asarray(np.divide(right, union, out=np.full(self.num_classes, math.nan), where=union > 0))

    @property
    def mean_iou(self) -> float:
        """The mean of :attr:`iou` over the classes that occur, 0 … 1; 0 if no pixel has a class."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if present.size else 0.0

    @property
    def pixel_accuracy(self) -> float:
        """The share of right pixels, 0 … 1; 0 if no pixel has a class."""
        total = int(self.matrix.sum())
        return int(np.trace(self.matrix)) / total if total else 0.0

    @property
    def figures(self) -> dict[str, float]:
        """The measures that are written after each epoch."""
        return {"loss": self.loss, "mean_iou": self.mean_iou, "pixel_accuracy": self.pixel_accuracy}

    def summary(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """The measures as values for JSON: ``mean_iou``, ``pixel_accuracy``, ``loss``, ``images``, ``per_class``.

        ``per_class``: class → ``iou`` (None for a class that occurs nowhere) and ``pixels``, its labelled pixels.
        """
        names = self.class_names if class_names is None else class_names
        values = [None if math.isnan(value) else float(value) for value in self.iou]
        pixels = self.matrix.sum(axis=1).tolist()
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "images": self.images,
            **({"not_finite": self.not_finite} if self.not_finite else {}),
            "per_class": {
                name: {"iou": value, "pixels": count} for name, value, count in zip(names, values, pixels, strict=True)
            },
        }

    def to_json(self) -> dict[str, Any]:
        """:meth:`summary` with ``run`` (the name), ``split`` and ``confusion_matrix``, pixels by true class in rows."""
        described = {"run": self.name, "split": self.split, "task": "segmentation", **self.summary()}
        return {**described, "confusion_matrix": self.matrix.tolist()}


def count_pixels(log_probabilities: Tensor, masks: Tensor) -> Tensor:
    """A row ``(classes² + 2,)`` float64 for each image: its matrix of pixels, its loss, and 1 if its output is finite.

    ``log_probabilities`` ``(N, classes, H, W)`` float, ``masks`` ``(N, H, W)`` int64. The loss is the mean negative
    log-probability of the labelled pixels. An image with an output that is not finite has no right pixel (each counts
    as the next class) and the loss 0.
    """
    images, classes = log_probabilities.shape[:2]
    finite = log_probabilities.isfinite().flatten(1).all(dim=1)
    labelled = masks != IGNORED
    true = torch.where(labelled, masks, 0)
    predicted = torch.where(finite[:, None, None], log_probabilities.argmax(dim=1), (true + 1) % classes)
    image = torch.arange(images, device=masks.device)[:, None, None]
    places = (image * classes + true) * classes + predicted
    counts = torch.bincount(places[labelled], minlength=images * classes**2).view(images, classes**2)
    losses = -log_probabilities.gather(1, true[:, None])[:, 0].double() * labelled
    loss = losses.flatten(1).sum(1) / labelled.flatten(1).sum(1).clamp_min(1)
    loss = torch.where(finite, loss, 0.0)
    return torch.cat([counts.double(), loss[:, None], finite.double()[:, None]], dim=1)


def median_frequency_weights(pixels: NDArray[np.int64], images_with: NDArray[np.int64]) -> NDArray[np.float32]:
    """The weight of each class in the loss: median frequency divided by its frequency (Eigen and Fergus 2015).

    ``pixels`` ``(C,)``: pixels of each class in train. ``images_with`` ``(C,)``: labelled pixels of all images in which
    the class occurs. The frequency of a class is their quotient. A class that does not occur has the weight 0.
    """
    frequency = np.divide(pixels, images_with, out=np.zeros(len(pixels)), where=images_with > 0)
    present = frequency[frequency > 0]
    median = float(np.median(present)) if present.size else 0.0
    return np.divide(median, frequency, out=np.zeros(len(pixels)), where=frequency > 0).astype(np.float32)
