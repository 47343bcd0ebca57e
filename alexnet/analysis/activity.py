"""What a network does with images: which of its units are active, as the paper speaks of it, counted by running it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from alexnet.models.alexnet import AlexNet


def active_shares(network: AlexNet, batches: Iterable[Tensor]) -> dict[str, float]:
    """The share of units above 0 after each layer's activation, over images and places: layer → 0 … 1.

    ``batches``: inputs ``(N, C, S, S)``, prepared as the network was trained, on its device. The network is used in
    evaluation mode and left as it was.
    """
    names = [f"conv{n}" for n, layer in enumerate(network.architecture.convs, 1) if "activation" in layer.ops]
    names += ["fc6", "fc7"]
    active, units = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    activate = network.activate
    order = itertools.cycle(names)

    def count(x: Tensor) -> Tensor:
        name, output = next(order), activate(x)
        active[name] += int((output > 0).sum())
        units[name] += output.numel()
        return output

    before = network.training
    network.activate = count  # type: ignore[method-assign]
    try:
        with torch.inference_mode():
            network.eval()
            for images in batches:
                network(images)
    finally:
        del network.activate
        network.train(before)
    return {name: active[name] / units[name] for name in names if units[name]}
