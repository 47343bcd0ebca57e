"""A PyTorch state dict under our names, torchvision's or any other: which tensors form which layer.

Names of published AlexNets in PyTorch end in ``.weight``, ``.bias``, ``.running_mean`` …; what comes before is the name
of the layer. The order of the layers is the order of their names in the file if it has one, and for ``features.0`` …
``classifier.6`` (torchvision) and ``conv1`` … ``fc8`` (ours) the order of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.weights.foreign import ForeignLayer, ForeignWeights, Framework
from alexnet.weights.torchvision import LAYERS

PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
OURS = re.compile(r"(conv|norm|fc)[1-8]")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "alexnet.")
"""Prefixes of all names: of DataParallel, ``torch.compile`` and of networks that hold another one."""
OF_THIS_PROGRAM = ("preprocessing.", "training.")  # in our own model.safetensors, besides the weights


def layers_of(tensors: Mapping[str, Tensor], file_format: str, name: str) -> ForeignWeights:
    """The layers of a state dict. ``name``: the file's name in errors.

    Raises ``UserError`` for tensors that belong to no layer of an AlexNet.
    """
    tensors = {key: value for key, value in tensors.items() if not key.startswith(OF_THIS_PROGRAM)}
    stripped, prefix = _without_prefix(tensors)
    groups: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in stripped.items():
        layer, _, part = key.rpartition(".")
        if part in PARTS and layer:
            groups.setdefault(layer, {})[part] = tensor
        else:
            strange.append(f"{printable(key)}: {tuple(tensor.shape)}")
    if strange or not groups:
        raise UserError(f"{name} holds no state dict of a network: {len(strange)} other tensors", strange[:50])
    framework, ordered = _order(list(groups))
    layers = tuple(_layer(layer, groups[layer], name) for layer in ordered)
    notes = (f"the prefix {prefix!r} of all names was removed",) if prefix else ()
    variant = "torchvision" if framework == "torchvision" else None
    return ForeignWeights(file_format, framework, layers, variant=variant, notes=notes)


def _without_prefix(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    removed, names = "", dict(tensors)
    while found := next((prefix for prefix in WRAPPERS if names and all(key.startswith(prefix) for key in names)), ""):
        names = {key.removeprefix(found): tensor for key, tensor in names.items()}
        removed += found
    return names, removed


def _order(layers: list[str]) -> tuple[Framework, list[str]]:
    """The framework whose names these are, and the layers in forward order."""
    theirs = [theirs for _, theirs, _ in LAYERS]
    if sorted(layers) == sorted(theirs):
        return "torchvision", theirs
    if all(OURS.fullmatch(layer) for layer in layers):
        return "alexnet", sorted(layers, key=lambda layer: (int(layer[-1]), layer))
    return "torch", layers


def _layer(layer: str, parts: Mapping[str, Tensor], file: str) -> ForeignLayer:
    shown = printable(layer)
    if "weight" not in parts:
        raise UserError(f"{file}: layer {shown!r} has no weight")
    weight = parts["weight"]
    kinds = {4: "conv", 2: "linear", 1: "batch-norm"}
    if weight.ndim not in kinds:
        raise UserError(f"{file}: {shown}.weight has the shape {tuple(weight.shape)}, no layer of an AlexNet has that")
    bias, mean, var = (parts.get(part) for part in ("bias", "running_mean", "running_var"))
    kind = kinds[weight.ndim]
    return ForeignLayer(layer, kind, weight, bias, mean, var, tuple(weight.shape))  # type: ignore[arg-type]
