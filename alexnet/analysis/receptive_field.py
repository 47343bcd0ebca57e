"""Which pixels one unit sees, measured on the network by its gradient: a check on the arithmetic of ``summary.py``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from alexnet.models.classifier import Classifier

BIAS = 0.1


def receptive_field(network: Classifier, layer: str) -> int:
    """The side, in pixels, of what the centre unit of a layer of maps depends on.

    ``layer``: the name of one of its modules, e.g. ``pool5``. The network's images must be large enough that the field
    does not reach beyond them.
    """
    reached = reach(network, layer).amax(dim=1).nonzero().squeeze(1)
    return int(reached.max() - reached.min()) + 1


def reach(network: Classifier, layer: str) -> Tensor:
    """How strongly each pixel moves the centre unit of a layer of maps: ``(S, S)`` float64, 0 where it does not.

    All weights are made positive, so that no path from a pixel to a unit is closed, and so small that no unit
    saturates, and maximum pools averages, in a copy: what differs from pixel to pixel is the number of paths to the
    unit. Raises ``UserError`` for a layer that the network does not have.
    """
    network = copy.deepcopy(network).double().eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel() if parameter.dim() > 1 else BIAS)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            assert "." not in name
            network.add_module(name, nn.AvgPool2d(module.kernel_size, module.stride, ceil_mode=module.ceil_mode))
    side = network.image_size
    images = torch.ones(1, network.in_channels, side, side, dtype=torch.float64, requires_grad=True)
    maps = network.layer_outputs(images, (layer,))[layer]
    middle = maps.shape[2] // 2
    (gradient,) = torch.autograd.grad(maps[0, 0, middle, middle], images)
    return gradient[0].abs().amax(dim=0)
