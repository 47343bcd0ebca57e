"""Statistics of a trained network besides its accuracy: the share of active units, and properties of conv1's kernels.

They are computed for every trained AlexNet, so that they are available for later comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.analysis.activity import active_shares
from alexnet.analysis.filters import colour_index, column_difference, orientation_index
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.kernels.accelerate import accelerate
from alexnet.models.alexnet import AlexNet
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.training.evaluate import inputs

IMAGES = 512  # enough, because every unit counts at every position


def model_statistics(
    model: Classifier, dataset: PreparedDataset, index: NDArray[np.int64], device_config: DeviceConfig
) -> dict[str, Any]:
    """The statistics of an AlexNet as values for JSON; empty for any other network.

    ``active_units``: layer → share of units above 0, 0 … 1. The images are evenly spaced in ``index``, because a
    prepared dataset can be sorted by class. ``kernels``: see :func:`filter_statistics`; only for colour images.
    """
    if not isinstance(model, AlexNet) or not len(index):
        return {}
    network = accelerate(device_config.to_device(model), device_config, training=True)
    some = evenly_spaced(index, IMAGES)
    batches = (view for _, batch_views in inputs(model, dataset, some, device_config) for view in batch_views)
    with device_config.autocast():
        measured: dict[str, Any] = {"active_units": active_shares(network, batches)}
    if network.in_channels == 3:
        measured["kernels"] = filter_statistics(network)
    return measured


def filter_statistics(network: AlexNet) -> dict[str, dict[str, float]]:
    """``colour`` and ``orientation`` → ``first``, ``second`` and ``p``.

    ``first`` and ``second``: the mean index of the first and of the second half of conv1's kernels; ``p``: the p-value
    of their difference (see ``analysis/filters.py``). In a network with two columns, the halves are the columns.
    """
    weight = network.get_submodule("conv1").weight
    if not isinstance(weight, Tensor):
        raise TypeError("conv1 has no kernels")
    kernels = weight.detach().to("cpu", torch.float64)
    indices = {"colour": colour_index(kernels), "orientation": orientation_index(kernels)}
    return {
        name: dict(zip(("first", "second", "p"), column_difference(index), strict=True))
        for name, index in indices.items()
    }
