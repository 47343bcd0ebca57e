"""Linear probes on given weights: what to expect of them, where a fine-tuning begins, and a model for few images.

A linear classifier on the features of a layer, by cross-validation on the images to train on, shows within seconds how
good the given weights are for these classes. Fine-tuning then begins with the best probe, because random last layers
distort good features in the first steps (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", ICLR: linear probing, then fine-tuning).

Of few images, all are needed to fit the model. Then the probe is the model: it is fitted on all images, and
its accuracy is that of nested cross-validation (``analysis/probe.py``).

A probe on an earlier layer than the last hidden one becomes part of the network too: the linear layers between pass
its features on unchanged (:func:`put_probe`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.analysis.probe import (
    REGULARIZATION,
    LayerProbe,
    NestedScore,
    ProbeChoice,
    choose_probe,
    linear_layer,
    make_folds,
    nested_score,
    score,
)
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.kernels.accelerate import accelerate
from alexnet.models.classifier import FLATTEN, Classifier, evaluation_mode
from alexnet.models.layers import AdaptiveAvgPool, Dropout
from alexnet.models.registry import untrained_twin
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import Reporter, stage
from alexnet.training.evaluate import inputs

PERCENT = 100
MOST_IMAGES = 5000  # more images take longer and hardly change the accuracy


@dataclass(frozen=True)
class CrossValidation:
    """The accuracy of a model that was fitted on all images, by nested cross-validation.

    ``index`` ``(n,)``: positions of the images in the prepared dataset. ``choice``: the probe that the model is.
    """

    index: NDArray[np.int64]
    nested: NestedScore
    choice: ProbeChoice

    @property
    def folds(self) -> int:
        """The number of folds."""
        return len(self.nested.choices)


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

    ``train``, ``val``: positions ``(n,)`` in the prepared dataset. Probes are cross-validated on both; test images are
    never used. Of more than ``MOST_IMAGES``, so many are used, evenly spaced over the classes.
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
        self.accuracies: dict[str, float] = {}

    def cross_validate(self, copied: Sequence[str], seed: int, reporter: Reporter) -> Iterator[Expectation]:
        """The probes of :func:`probed_layers`, one after another; none if a class has too few images.

        ``copied``: the layers from trained weights. ``seed``: of the folds.
        """
        layers = probed_layers(self.network, copied)
        inside = [name for name in (scaled_dropout_before_last(self.network),) if layers and name]
        labels, groups = self.dataset.targets[self.index], self.dataset.groups[self.index]
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
            trained, untrained = (score(found[layer], labels, folds) for found in (self.features, control))
            self.accuracies[layer] = trained.accuracy
            yield Expectation(LayerProbe(layer, self.features[layer].shape[1], trained, untrained), len(folds))

    def start_from_best(self, reporter: Reporter, frozen: Sequence[str]) -> None:
        """Give the network the probe with the best cross-validated accuracy, fitted on the training images, in place.

        ``frozen``: layers that stay as they are. Nothing happens if there are no features, because a class has too few
        images.
        """
        features = self.carried(frozen)
        if not features:
            return
        best = max(features, key=lambda layer: self.accuracies.get(layer, 0.0))
        choice = ProbeChoice(best, REGULARIZATION, self.accuracies.get(best, 0.0))
        rows = np.isin(self.index, self.train)
        self._fit(choice, features[best][rows], self.dataset.targets[self.index][rows], reporter)

    def fit_all(self, seed: int, reporter: Reporter, frozen: Sequence[str]) -> CrossValidation:
        """Give the network the best probe, fitted on all images, in place; returns its nested cross-validation.

        Raises ``UserError`` if a class has only one image, and if no layer with features is from trained weights.
        """
        labels, groups = self.dataset.targets[self.index], self.dataset.groups[self.index]
        classes = self.dataset.classes
        folds = make_folds(labels, groups, classes, seed)
        features = self.carried(frozen)
        if not features:
            raise UserError(
                "no layer of the given weights can be the input of a probe: add --set train.few_images=split to train "
                "the network on these images"
            )
        nested = nested_score(features, labels, groups, classes, seed)
        choice = choose_probe(features, labels, folds)
        self._fit(choice, features[choice.layer], labels, reporter)
        return CrossValidation(self.index, nested, choice)

    def carried(self, frozen: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The features of the layers whose probe can be put into the network; empty if there are none."""
        return {
            layer: values for layer, values in self.features.items() if can_carry(self.network, layer, frozen)
        }  # fmt: skip

    def _fit(
        self, choice: ProbeChoice, features: NDArray[np.float32], labels: NDArray[np.int64], reporter: Reporter
    ) -> None:
        weight, bias = linear_layer(features, labels, len(self.dataset.classes), choice.regularization)
        put_probe(self.network, choice.layer, weight, bias)
        reporter.log(f"the network is now the probe on {choice.layer}, with C = {choice.regularization:g}")

    def mean_features(
        self, network: Classifier, layers: Sequence[str], reporter: Reporter, done: int
    ) -> dict[str, NDArray[np.float32]]:
        """Layer → features ``(n, units)``: feature maps are averaged over their positions. In fp32.

        ``done``: images that the reporter has counted before.
        """
        reference = DeviceConfig(self.device_config.device, bf16=False, reference=True)
        fast = accelerate(network, reference)
        blocks: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
        with torch.inference_mode(), reference.autocast(), evaluation_mode(fast):
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


def put_probe(
    network: Classifier, layer: str, weight: NDArray[np.float64], bias: NDArray[np.float64]
) -> None:  # fmt: skip
    """Make the logits those of a linear classifier on the features of ``layer``, in place.

    ``weight`` ``(classes, units)``, ``bias`` ``(classes,)``. The last layer gets them. Each linear layer between
    ``layer`` and the last one gets a row for each feature that selects it (of the first one after feature maps: that
    averages its map over all positions), so that it passes the features on. ReLU does not change them, because they are
    not negative. Without such layers, the last layer itself averages each map.
    """
    units = weight.shape[1]
    with torch.no_grad():
        for number, linear in enumerate(_linear_between(network, layer)):
            positions = linear.in_features // units if number == 0 and _is_map(network, layer) else 1
            linear.weight.zero_()
            linear.bias.zero_()
            for unit in range(units):
                linear.weight[unit, unit * positions : (unit + 1) * positions] = 1 / positions
        head, last = network.classifier, torch.from_numpy(weight)
        if not _linear_between(network, layer) and _is_map(network, layer):  # a network without hidden linear layers
            positions = head.in_features // units
            last = last.repeat_interleave(positions, dim=1) / positions
        head.weight.zero_()
        head.weight[:, : last.shape[1]].copy_(last)
        head.bias.copy_(torch.from_numpy(bias))


def can_carry(network: Classifier, layer: str, frozen: Sequence[str] = ()) -> bool:
    """Whether :func:`put_probe` can put a probe on ``layer`` into the network without changing a ``frozen`` layer."""
    children = dict(network.named_children())
    names = [*children]
    place = names.index(layer)
    between, after = _linear_between(network, layer), [children[name] for name in names[place + 1 :]]
    if network.last_layer in frozen or any(isinstance(each, Dropout) and each.scaling != "train" for each in after):
        return False
    if not between:
        return True
    averaging = (nn.MaxPool2d, nn.AvgPool2d, AdaptiveAvgPool, Dropout)
    before = next(child for name in reversed(names[: place + 1]) if not isinstance(child := children[name], averaging))
    units = network.layer_shapes()[layer][0]
    return (
        isinstance(before, nn.ReLU)
        and all(linear.out_features >= units for linear in between)
        and not any(children[name] in between for name in frozen)
        and all(isinstance(each, nn.Linear | nn.ReLU | nn.Flatten | AdaptiveAvgPool | Dropout) for each in after)
    )


def _linear_between(network: Classifier, layer: str) -> list[nn.Linear]:
    """The linear layers after ``layer`` and before the last one."""
    names = [name for name, _ in network.named_children()]
    between = names[names.index(layer) + 1 : names.index(network.last_layer)]
    found = (network.get_submodule(name) for name in between)
    return [child for child in found if isinstance(child, nn.Linear)]


def _is_map(network: Classifier, layer: str) -> bool:
    names = [name for name, _ in network.named_children()]
    return names.index(layer) < names.index(FLATTEN)


def scaled_dropout_before_last(network: Classifier) -> str:
    """The dropout before the last layer, if it scales its units in evaluation mode; "" if none does."""
    children = [*network.named_children()]
    name, before = children[[name for name, _ in children].index(network.last_layer) - 1]
    return name if isinstance(before, Dropout) and before.scaling == "test" else ""


def _with_parameters(network: Classifier, names: Sequence[str]) -> list[str]:
    return [name for name in names if _has_parameters(network, name)]


def _has_parameters(network: Classifier, name: str) -> bool:
    return any(True for _ in network.get_submodule(name).parameters())
