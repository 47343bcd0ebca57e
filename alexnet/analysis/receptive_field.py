"""Receptive fields measured on the network by gradient, a check of the arithmetic in ``models/summary.py``.

The gradient of one unit with respect to the image is 0 outside of its receptive field (Luo, Li, Urtasun and Zemel,
"Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NIPS 2016).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alexnet.models.classifier import Classifier

BIAS = 0.1


def receptive_field(network: Classifier, layer: str) -> int:
    """The side, in pixels, of the receptive field of the centre unit of a layer of maps.

    ``layer``: e.g. ``"pool5"``. The network's image size must be so large that the field does not extend beyond it.
    Raises ``UserError`` for a layer that the network does not have.
    """
    rows = pixel_influence(network, layer).amax(dim=1).nonzero().squeeze(1)
    return int(rows.max() - rows.min()) + 1


def pixel_influence(network: Classifier, layer: str) -> Tensor:
    """The gradient of the centre unit of a layer of maps with respect to each pixel: ``(S, S)`` float64, not negative.

    See :func:`pixel_influences`. Raises ``UserError`` for a layer that the network does not have.
    """
    return pixel_influences(network, (layer,))[layer]


def pixel_influences(network: Classifier, layers: Sequence[str]) -> dict[str, Tensor]:
    """Layer → the gradient of its centre unit with respect to each pixel: ``(S, S)`` float64, not negative.

    It is computed on a copy with equal positive weights, so that every path from a pixel to the unit counts, so small
    that no unit saturates, and with average pools in place of max pools. So it depends only on the number of paths from
    a pixel to the unit. Raises ``UserError`` for a layer that the network does not have.
    """
    network = copy.deepcopy(network).double().eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1 / parameter[0].numel() if parameter.dim() > 1 else BIAS)
    for name, module in list(network.named_children()):
        if isinstance(module, nn.MaxPool2d):
            network.add_module(name, nn.AvgPool2d(module.kernel_size, module.stride, ceil_mode=module.ceil_mode))
    side = network.image_size
    images = torch.ones(1, network.in_channels, side, side, dtype=torch.float64, requires_grad=True)
    outputs = network.layer_outputs(images, layers)
    found = {}
    for layer in layers:
        maps = outputs[layer]
        centre = maps.shape[2] // 2
        (gradient,) = torch.autograd.grad(maps[0, 0, centre, centre], images, retain_graph=True)
        found[layer] = gradient[0].abs().amax(dim=0)
    return found
