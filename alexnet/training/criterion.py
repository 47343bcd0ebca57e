"""The loss of a batch and the number of its right predictions, for classification and segmentation.

The loss of a batch is a mean over its images, also of a part of it, so that parts can be added up: those of several
processes, and those of ``train.accumulate_steps``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.config import Recipe
from alexnet.data.masks import IGNORED
from alexnet.data.prepared import PreparedDataset
from alexnet.metrics.segmentation import median_frequency_weights

CHUNK = 256  # masks that are counted at a time


class Criterion(Protocol):
    """The loss of a task. ``outputs``: those of the network for N images; ``targets``: of the same images."""

    def measure(self, outputs: Tensor, targets: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """The mean loss of the images, and the number of images that are right, both 0-d.

        A fraction of an image counts as such. ``step``: of the training, for losses that draw random numbers.
        """
        ...

    def share(self, some: Tensor, targets: Tensor) -> float:
        """The share that the images of the targets ``some`` have in the loss of ``targets``, 0 … 1."""
        ...


@dataclass(frozen=True)
class ClassificationLoss:
    """Cross-entropy. ``class_weights``: ``(classes,)`` float32, None for equal weights; ``label_smoothing``: 0 … 1.

    ``outputs``: logits ``(N, classes)``; ``targets``: ``(N,)`` int64.
    """

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def measure(self, outputs: Tensor, targets: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """See :class:`Criterion`; images are weighted by their class."""
        loss = F.cross_entropy(outputs, targets, self.class_weights, label_smoothing=self.label_smoothing)
        return loss, (outputs.argmax(dim=1) == targets).sum()

    def share(self, some: Tensor, targets: Tensor) -> float:
        """See :class:`Criterion`: the share of the weight."""
        if len(some) == len(targets):
            return 1.0
        if self.class_weights is None:
            return len(some) / len(targets)
        weights = self.class_weights.double()
        return float(weights[some].sum() / weights[targets].sum())


@dataclass(frozen=True)
class SegmentationLoss:
    """Cross-entropy of each pixel, divided by the number of all pixels; those without a class add nothing.

    ``outputs``: scores ``(N, classes, H, W)``; ``targets``: ``(N, H, W)`` int64. Attributes as in
    :class:`ClassificationLoss`.
    """

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def measure(self, outputs: Tensor, targets: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """See :class:`Criterion`. The right pixels of an image are a share of it; 1 without a labelled pixel.

        Pixels are flattened: the loss of maps has no deterministic form on a GPU.
        """
        scores = outputs.permute(0, 2, 3, 1).flatten(0, 2)
        total = F.cross_entropy(
            scores, targets.flatten(), self.class_weights, ignore_index=IGNORED, reduction="sum",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        labelled = targets != IGNORED
        right = ((outputs.argmax(dim=1) == targets) & labelled).flatten(1).sum(1)
        pixels = labelled.flatten(1).sum(1)
        return total / targets.numel(), torch.where(pixels > 0, right / pixels.clamp_min(1), 1.0).sum()

    def share(self, some: Tensor, targets: Tensor) -> float:
        """See :class:`Criterion`."""
        return len(some) / len(targets)


def segmentation_loss(recipe: Recipe, dataset: PreparedDataset, train_index: np.ndarray) -> SegmentationLoss:
    """The loss of a recipe for segmentation; with ``train.class_weights``, classes have median-frequency weights."""
    weights = None
    if recipe.train.class_weights != "none":
        classes = len(dataset.classes)
        pixels, labelled = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        for start in range(0, len(train_index), CHUNK):
            for mask in dataset.read_masks(train_index[start : start + CHUNK]):
                counts = np.bincount(mask[mask != IGNORED], minlength=classes)
                pixels += counts
                labelled += np.where(counts > 0, counts.sum(), 0)
        weights = torch.from_numpy(median_frequency_weights(pixels, labelled))
    return SegmentationLoss(weights, recipe.train.label_smoothing)
