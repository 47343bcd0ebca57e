"""Evaluation of a segmentation: exact counts of the pixels of images, on the centre view."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.data.augment import view_masks
from alexnet.data.loader import to_device
from alexnet.data.prepared import PreparedDataset
from alexnet.kernels.accelerate import accelerate
from alexnet.metrics.segmentation import count_pixels
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
from alexnet.training.evaluate import inputs, shared_batches

BATCH = 32


def counted(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    group: Group = ONE,
) -> Iterator[Tensor]:
    """The rows of :func:`count_pixels` for the images ``index``, batch by batch, in order.

    In a group, whole batches are divided among the processes; each process gets all rows.
    """
    network = accelerate(model, device_config)

    def compute(own: NDArray[np.int64]) -> Iterator[Tensor]:
        for positions, views in inputs(model, dataset, own, device_config, 1, BATCH):
            with torch.inference_mode(), device_config.autocast():
                scores = network(device_config.to_memory_format(next(views))).float().log_softmax(dim=1)
            masks = to_device(dataset.read_masks(positions), device_config.device)
            yield count_pixels(scores, view_masks(masks, model.preprocessing))

    return (rows for _, rows in shared_batches(index, BATCH, compute, group))


def check_masks(dataset: PreparedDataset) -> None:
    """Raise ``UserError`` for a dataset without masks."""
    if dataset.annotations != "masks":
        raise UserError(
            f"{dataset.name} has no masks: a recipe for segmentation trains on a folder with images/, masks/ and "
            "classes.txt"
        )
