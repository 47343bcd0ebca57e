"""Which units of a network are active, in the paper's sense: above 0 after the activation, counted by running it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alexnet.models.classifier import Classifier, watch_layers

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)
WEIGHTED = (nn.Conv2d, nn.Linear)


def active_shares(network: Classifier, batches: Iterable[Tensor]) -> dict[str, float]:
    """The share of units above 0 after each layer's activation, over images and places: layer → 0 … 1.

    A share has the name of the layer before its activation (``conv1`` … ``fc7``). ``batches``: inputs
    ``(N, C, S, S)``, preprocessed as in training, on the network's device. The network runs in evaluation mode and is
    left as it was.
    """
    layer_of: dict[str, str] = {}
    layer = ""
    for name, module in network.named_children():
        if isinstance(module, WEIGHTED):
            layer = name
        elif isinstance(module, ACTIVATIONS):
            layer_of[name] = layer
    active, units = dict.fromkeys(layer_of.values(), 0), dict.fromkeys(layer_of.values(), 0)

    def count(name: str, module: nn.Module, output: Tensor) -> None:
        active[layer_of[name]] += int((output > 0).sum())
        units[layer_of[name]] += output.numel()

    before = network.training
    try:
        with torch.inference_mode(), watch_layers(network, count, layer_of):
            network.eval()
            for images in batches:
                network(images)
    finally:
        network.train(before)
    return {name: active[name] / units[name] for name in active if units[name]}
