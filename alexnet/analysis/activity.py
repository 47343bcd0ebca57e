"""The share of active units of each layer: those above 0 after the activation function.

Glorot, Bordes and Bengio, "Deep Sparse Rectifier Neural Networks" (AISTATS 2011), measure sparsity this way.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alexnet.models.classifier import Classifier, watch_layers

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)
WEIGHTED = (nn.Conv2d, nn.Linear)


def active_shares(network: Classifier, batches: Iterable[Tensor]) -> dict[str, float]:
    """Layer (``conv1`` … ``fc7``) → the share of its units above 0 after the activation function, 0 … 1.

    All images and positions count. ``batches``: inputs ``(N, C, S, S)``, preprocessed as in training, on the network's
    device. The network runs in evaluation mode; its own mode is restored.
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
