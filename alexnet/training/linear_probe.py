"""Linear probes before a fine-tuning: what to expect of the given weights, and where the last layer begins.

A linear classifier on the features of a layer, by cross-validation on the images to train on, shows within seconds how
good the given weights are for these classes. Fine-tuning then begins with the probe's weights in the last layer,
because a random last layer distorts good features in the first steps (Kumar et al. 2022, "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", ICLR: linear probing, then fine-tuning).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.analysis.probe import LayerProbe, linear_layer, make_folds, score
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.kernels.accelerate import accelerate
from alexnet.models.classifier import FLATTEN, Classifier, evaluation_mode
from alexnet.models.registry import untrained_twin
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import Reporter, stage
from alexnet.training.evaluate import inputs

PERCENT = 100
MOST_IMAGES = 5000  # a probe on more takes longer than it tells more


@dataclass(frozen=True)
class Expectation:
    """The cross-validated accuracy of a linear classifier on a layer, beside that of the same untrained layer."""

    probe: LayerProbe
    folds: int

    def to_json(self) -> dict[str, Any]:
        """Layer, images, folds, and the accuracies, 0 … 1, with the 95 % interval of the first."""
        return {
            "layer": self.probe.layer, "images": self.probe.trained.images, "folds": self.folds,
            "accuracy": self.probe.trained.accuracy, "interval": list(self.probe.trained.interval),
            "balanced_accuracy": self.probe.trained.balanced, "untrained_accuracy": self.probe.untrained.accuracy,
        }  # fmt: skip

    def __str__(self) -> str:
        trained, (low, high) = self.probe.trained, self.probe.trained.interval
        about = PERCENT * (high - low) / 2
        differs = abs(trained.balanced - trained.accuracy) >= 1 / PERCENT
        balanced = f", {trained.balanced:.0%} if all classes are equally frequent" if differs else ""
        return (
            f"linear probe on {self.probe.layer}: expected accuracy {trained.accuracy:.0%} ± {about:.0f}{balanced} "
            f"({self.folds} folds of {trained.images // self.folds} images); "
            f"the same with random weights: {self.probe.untrained.accuracy:.0%}"
        )


class LinearProbes:
    """Linear probes on the layers of a network that a training starts with.

    ``train``, ``val``: positions ``(n,)`` in the prepared dataset. Probes are cross-validated on both, and the last
    layer is fitted on ``train``; test images are never used. Of more than ``MOST_IMAGES``, so many are used, evenly
    spaced over the classes.
    """

    def __init__(
        self,
        network: Classifier,
        dataset: PreparedDataset,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        device_config: DeviceConfig,
    ) -> None:
        self.network, self.dataset, self.device_config = network, dataset, device_config
        self.train, everything = train, np.sort(np.concatenate([train, val]))
        by_class = everything[np.argsort(dataset.targets[everything], kind="stable")]
        self.index = np.sort(evenly_spaced(by_class, MOST_IMAGES))
        self.features: dict[str, NDArray[np.float32]] = {}

    def cross_validate(self, copied: Sequence[str], seed: int, reporter: Reporter) -> Iterator[Expectation]:
        """The probes of :func:`probed_layers`, one after another; none if a class has too few images.

        ``copied``: the layers from trained weights. ``seed``: of the folds.
        """
        layers = probed_layers(self.network, copied)
        inside = [name for name in (layer_before_last(self.network),) if layers and name not in layers]
        labels, groups = self.dataset.targets[self.index], self.dataset.hashes[self.index]
        try:
            folds = make_folds(labels, groups, self.dataset.classes, seed)
        except UserError as error:
            reporter.log(f"note: no linear probe: {error.line}")
            return
        with stage(reporter, "linear probe", 2 * len(self.index)):
            self.features = self.mean_features(self.network, [*layers, *inside], reporter, 0)
            twin = self.device_config.to_device(untrained_twin(self.network, seed=0))
            control = self.mean_features(twin, layers, reporter, len(self.index))
        for layer in layers:
            pair = (score(found[layer], labels, folds) for found in (self.features, control))
            yield Expectation(LayerProbe(layer, self.features[layer].shape[1], *pair), len(folds))

    def start_last_layer(self) -> None:
        """Give the last layer the weights of a probe on its inputs, fitted on the training images, in place.

        It stays as it is if there are no features, because a class has too few images.
        """
        features = self.features.get(layer_before_last(self.network))
        if features is None:
            return
        rows = np.isin(self.index, self.train)
        features, labels = features[rows], self.dataset.targets[self.index][rows]
        weight, bias = linear_layer(features, labels, len(self.dataset.classes))
        head = self.network.classifier
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))

    def mean_features(
        self, network: Classifier, layers: Sequence[str], reporter: Reporter, done: int
    ) -> dict[str, NDArray[np.float32]]:
        """Layer → features ``(n, units)``: feature maps are averaged over their positions. In fp32.

        ``done``: images that the reporter has counted before.
        """
        reference = DeviceConfig(self.device_config.device, bf16=False, reference=True)
        fast = accelerate(network, reference)
        blocks: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
        with torch.inference_mode(), evaluation_mode(fast):
            for positions, views in inputs(self.network, self.dataset, self.index, self.device_config):
                for layer, output in fast.layer_outputs(next(views), layers).items():
                    means = output.mean(dim=(2, 3)) if output.ndim == 4 else output
                    blocks[layer].append(means.float().cpu().numpy())
                done += len(positions)
                reporter.advance(done)
        return {layer: np.concatenate(parts) for layer, parts in blocks.items()}


def probed_layers(network: Classifier, copied: Sequence[str]) -> list[str]:
    """The last feature maps, and the activation after each hidden linear layer, as far as their layers are ``copied``.

    For an AlexNet ``pool5``, ``relu6`` and ``relu7``.
    """
    names = [name for name, _ in network.named_children()]
    maps = names[: names.index(FLATTEN)]
    before = {layer for layer in copied if layer in maps}
    found = [maps[-1]] if all(layer in before for layer in _with_parameters(network, maps)) else []
    head = names[names.index(FLATTEN) + 1 :]
    for layer, following in itertools.pairwise(head):
        if layer in copied and layer != network.last_layer and not _has_parameters(network, following):
            found.append(following)
    return found


def layer_before_last(network: Classifier) -> str:
    """The module whose output is the input of the last layer, such as ``relu7`` or ``dropout7``."""
    names = [name for name, _ in network.named_children()]
    return names[names.index(network.last_layer) - 1]


def _with_parameters(network: Classifier, names: Sequence[str]) -> list[str]:
    return [name for name in names if _has_parameters(network, name)]


def _has_parameters(network: Classifier, name: str) -> bool:
    return any(True for _ in network.get_submodule(name).parameters())
