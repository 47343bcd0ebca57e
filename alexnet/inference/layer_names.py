"""The names of layers that a user may give: those of the paper, and for the ``torchvision`` variant torchvision's.

``conv5`` is the output of the convolution, ``relu5`` that of the activation after it. In torchvision's network the ReLU
changes the output of the layer before it in place. So a forward hook on torchvision's ``features.10`` that keeps the
tensor sees ``relu5``. Here ``features.10`` is ``conv5``, the output of that layer, and ``features.11`` is ``relu5``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from alexnet.core.errors import UserError, unknown
from alexnet.models.classifier import FLATTEN, Classifier
from alexnet.models.layers import AdaptiveAvgPool, Dropout

TORCHVISION = "torchvision"
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)
CLASSIFIER = tuple(f"classifier.{place}" for place in range(1, 7))
"""fc6, relu6, dropout (relu6 again), fc7, relu7, fc8."""


def resolve_layers(network: Classifier, names: str | Sequence[str]) -> dict[str, str]:
    """Name as it was given → name of the module of ``network``, in the given order, each name once.

    ``names``: a sequence, or one text with commas between the names. Raises ``UserError`` for an unknown name, with the
    nearest one, and if there is none.
    """
    given = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    given = [name for name in dict.fromkeys(given) if name]
    shapes = network.layer_shapes()
    if not given:
        raise UserError(f"no layer is named: give one or several of {', '.join(shapes)}")
    known = {name: name for name in shapes} | torchvision_names(network)
    for name in given:
        if name not in known:
            raise unknown("layer", name, known)
    return {name: known[name] for name in given}


def activation_layers(network: Classifier) -> list[str]:
    """The activations of a network, in forward order: ``relu1`` … ``relu7`` of an AlexNet."""
    return [name for name, layer in network.named_children() if isinstance(layer, ACTIVATIONS)]


def torchvision_names(network: Classifier) -> dict[str, str]:
    """Torchvision's name → module of ``network``, if it is a ``torchvision`` variant; otherwise nothing.

    torchvision's names are the positions of the layers in two ``nn.Sequential`` (torchvision/models/alexnet.py). The
    two dropouts change nothing in evaluation mode: ``classifier.3`` is ``relu6``, and ``classifier.0``, the flattened
    ``avgpool``, has no name here.
    """
    if network.variant != TORCHVISION:
        return {}
    children = dict(network.named_children())
    pooled = next((name for name, layer in children.items() if isinstance(layer, AdaptiveAvgPool)), None)
    order = list(children)
    if pooled is None or FLATTEN not in children:
        return {}
    names = {f"features.{place}": name for place, name in enumerate(order[: order.index(pooled)])}
    names["avgpool"] = pooled
    head = [name for name in order[order.index(FLATTEN) + 1 :] if not isinstance(children[name], Dropout)]
    return names | dict(zip(CLASSIFIER, [*head[:2], *head[1:]], strict=False))


def rectified_in_place(network: Classifier, layers: dict[str, str]) -> dict[str, str]:
    """Of ``layers``, those with a torchvision name before a ReLU → the layer that a hook on torchvision's network sees.

    ``layers``: as :func:`resolve_layers` returns them.
    """
    aliases, pairs = torchvision_names(network), itertools.pairwise(network.named_children())
    following = {name: after for (name, _), (after, layer) in pairs if isinstance(layer, nn.ReLU)}
    return {given: following[name] for given, name in layers.items() if given in aliases and name in following}
