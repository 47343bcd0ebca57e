"""What trainings for different tasks do differently: targets, loss and measures. One row for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import AugmentSpec, Preprocessing, Recipe, Task
from alexnet.core.errors import UserError
from alexnet.data.augment import augment_boxes, augment_masks
from alexnet.data.prepared import PreparedDataset
from alexnet.metrics.counts import Metrics
from alexnet.metrics.detection import DetectionMetrics
from alexnet.metrics.segmentation import SegmentationMetrics
from alexnet.models.classifier import Classifier
from alexnet.models.detection import DetectionNet
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
from alexnet.runtime.log import NullReporter, Reporter, stage
from alexnet.training.build import check_targets, class_weights
from alexnet.training.criterion import ClassificationLoss, Criterion, segmentation_loss
from alexnet.training.detection import DetectionLoss, detected
from alexnet.training.evaluate import check_classes, log_probabilities
from alexnet.training.segmentation import counted


class Measured(Protocol):
    """The measures of the images so far. ``figures``: by name, those that are written after each epoch."""

    @property
    def images(self) -> int:
        """The number of images so far."""
        ...

    @property
    def not_finite(self) -> Sized | int:
        """The number of images whose output is not finite, or these images."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Name → value."""
        ...

    def add(self, *outputs: Any) -> None:
        """Add images."""
        ...


@dataclass(frozen=True)
class TrainingTask:
    """One task.

    ``read_targets``: reads the targets of images, a row for each; None: their classes. ``augment_targets``: changes the
    targets as augmentation changes the images, from the packed draws. ``criterion``: makes the loss from a recipe, a
    dataset, its training images, the network and a random seed. ``metrics``: makes measures without images.
    ``outputs``: yields the arguments of ``metrics.add``, batch by batch. ``fixed_shapes``: whether all steps have
    tensors of equal shapes, so that they can be a CUDA graph.
    """

    read_targets: Callable[[PreparedDataset, NDArray[np.int64]], NDArray[Any]] | None
    augment_targets: Callable[[Tensor, Tensor, AugmentSpec, Preprocessing], Tensor]
    criterion: Callable[[Recipe, PreparedDataset, NDArray[np.int64], Classifier, int], Criterion]
    metrics: Callable[[Classifier], Measured]
    outputs: Callable[[Classifier, PreparedDataset, NDArray[np.int64], DeviceConfig, Group], Iterator[tuple[Any, ...]]]
    fixed_shapes: bool = True


def _device(network: Classifier) -> Any:
    return next(network.parameters()).device


def _classification_loss(
    recipe: Recipe, dataset: PreparedDataset, train_index: NDArray[np.int64], network: Classifier, seed: int
) -> Criterion:
    weights = class_weights(recipe.train.class_weights, dataset.targets[train_index], len(dataset.classes))
    on_device = None if weights is None else weights.to(_device(network))
    return ClassificationLoss(on_device, recipe.train.label_smoothing)


def _segmentation_loss(
    recipe: Recipe, dataset: PreparedDataset, train_index: NDArray[np.int64], network: Classifier, seed: int
) -> Criterion:
    loss = segmentation_loss(recipe, dataset, train_index)
    weights = None if loss.class_weights is None else loss.class_weights.to(_device(network))
    return replace(loss, class_weights=weights)


def _detection_loss(
    recipe: Recipe, dataset: PreparedDataset, train_index: NDArray[np.int64], network: Classifier, seed: int
) -> Criterion:
    assert isinstance(network, DetectionNet)
    return DetectionLoss(network, seed)


TRAINING_TASKS: Mapping[Task, TrainingTask] = {
    "classification": TrainingTask(
        read_targets=None,
        augment_targets=lambda targets, draws, spec, preprocessing: targets,
        criterion=_classification_loss,
        metrics=lambda network: Metrics(network.num_classes),
        outputs=lambda network, dataset, index, config, group: log_probabilities(
            network, dataset, index, config, group=group
        ),
    ),
    "segmentation": TrainingTask(
        read_targets=PreparedDataset.read_masks,
        augment_targets=augment_masks,
        criterion=_segmentation_loss,
        metrics=lambda network: SegmentationMetrics(network.num_classes, class_names=network.classes),
        outputs=lambda network, dataset, index, config, group: (
            (rows,) for rows in counted(network, dataset, index, config, group)
        ),
    ),
    "detection": TrainingTask(
        read_targets=PreparedDataset.read_boxes,
        augment_targets=augment_boxes,
        criterion=_detection_loss,
        metrics=lambda network: DetectionMetrics(network.num_classes, class_names=network.classes),
        outputs=detected,
        fixed_shapes=False,
    ),
}
"""Task → what its trainings do."""


def evaluate_task(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    reporter: Reporter | None = None,
    group: Group = ONE,
) -> Any:
    """The measures of a model for masks or boxes on the images ``index``, each counted once for any ``group``.

    Returns :class:`SegmentationMetrics` or :class:`DetectionMetrics`; classifications have ensembles and views, see
    ``evaluate_models``. Raises ``UserError`` for a dataset without these targets, with other classes, or without
    images, and if a package of an extra is missing.
    """
    reporter, task = reporter or NullReporter(), TRAINING_TASKS[model.task]
    check_targets(model.task, dataset)
    check_classes(model, dataset.classes, dataset.name)
    if not len(index):
        raise UserError(f"{dataset.name} has no images to evaluate on")
    metrics = task.metrics(model)
    with stage(reporter, "evaluating", len(index)):
        for outputs in task.outputs(model, dataset, index, device_config, group):
            metrics.add(*outputs)
            reporter.advance(metrics.images)
    return metrics
