"""What a network does with images: which units are active, and which pixels one unit sees.

Both are measured on the network itself, by running it, and so are a check on what the paper says of it and on the
arithmetic of ``summary.py``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from alexnet.model.network import AlexNet


def active_shares(network: AlexNet, batches: Iterable[Tensor]) -> dict[str, float]:
    """The share of units above 0 after each layer's activation, over images and places: layer → 0 … 1.

    ``batches``: inputs ``(N, C, S, S)``, prepared as the network was trained, on its device. The network is used in
    evaluation mode and left as it was.
    """
    names = [f"conv{n}" for n, layer in enumerate(network.architecture.convs, 1) if "activation" in layer.then]
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


def receptive_field(network: AlexNet, number: int, *, pooled: bool = False) -> int:
    """The side, in pixels, of what the centre unit of convolution ``number`` depends on, measured by its gradient.

    ``pooled``: of what follows the convolution too. All weights are made positive and the pools averages, in a copy, so
    that no path from a pixel to the unit is closed. The network's images must be large enough that the field does not
    reach beyond them.
    """
    network = copy.deepcopy(network).double().eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    a = network.architecture
    network.add_module("pool", nn.AvgPool2d(a.pool_kernel, a.pool_stride, ceil_mode=a.pool_rounding == "up"))
    side = network.image_size
    x = images = torch.ones(1, network.in_channels, side, side, dtype=torch.float64, requires_grad=True)
    for earlier in range(1, number + (1 if pooled else 0)):
        x = network.convolve(earlier, x)
    if not pooled:
        x = getattr(network, f"conv{number}")(x)
    middle = x.shape[2] // 2
    (gradient,) = torch.autograd.grad(x[0, 0, middle, middle], images)
    reached = gradient[0].abs().amax(dim=(0, 2)).nonzero().squeeze(1)
    return int(reached.max() - reached.min()) + 1
