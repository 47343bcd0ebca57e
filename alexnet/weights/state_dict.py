"""A PyTorch state dict under our names, torchvision's or any other: which tensors form which layer.

Names of published AlexNets in PyTorch end in ``.weight``, ``.bias``, ``.running_mean`` …; what comes before is the name
of the layer. Layers whose names differ only in numbers (``features.0``, ``features.10``) are in the order of these
numbers. Otherwise the order of the names in the file is taken, if the format keeps one, else that of the names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.weights.foreign import ForeignLayer, ForeignWeights, Framework, LayerKind, NoAlexNetError
from alexnet.weights.torchvision import LAYERS

PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
OURS = re.compile(r"(conv|norm|fc)[1-8]")
WRAPPERS = ("module", "_orig_mod")
"""Parts of names that ``DataParallel`` and ``torch.compile`` insert, at the start or, as pytorch/examples trains an
AlexNet (``features.module.0.weight``), in the middle."""
OF_THIS_PROGRAM = ("preprocessing.", "training.")  # in our own model.safetensors, besides the weights
MAX_LISTED = 20  # tensors in an error
NUMBER = re.compile(r"([0-9]+)")
KINDS: Mapping[int, LayerKind] = {4: "conv", 2: "linear", 1: "batch-norm"}


def layers_of(
    tensors: Mapping[str, Tensor], file_format: str, name: str, *, ordered: bool = False, notes: tuple[str, ...] = ()
) -> ForeignWeights:
    """The layers of a state dict.

    ``name``: the file's name in errors. ``ordered``: whether the order of ``tensors`` is that of the saved state dict.
    ``notes``: remarks of the reader, to which those on names are added. Raises ``UserError`` for tensors that belong to
    no layer of an AlexNet, and for numbers that are not floating point.
    """
    tensors = {key: value for key, value in tensors.items() if not key.startswith(OF_THIS_PROGRAM)}
    stripped, removed = _without_wrappers(tensors)
    groups: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in stripped.items():
        layer, _, part = key.rpartition(".")
        if part in PARTS and layer:
            groups.setdefault(layer, {})[part] = tensor
        else:
            strange.append(f"{printable(key)}: {tuple(tensor.shape)}")
    if strange or not groups:
        count = "1 tensor that belongs" if len(strange) == 1 else f"{len(strange):,} tensors that belong"
        such = f", such as {strange[0]}" if strange else ""
        others = strange[:MAX_LISTED] if len(strange) > 1 else ()
        raise NoAlexNetError(f"{name} holds no AlexNet: it has {count} to no layer of one{such}", others)
    framework = _framework(groups)
    layers = _in_order([_layer(layer, parts, name) for layer, parts in groups.items()], ordered)
    variant = "torchvision" if framework == "torchvision" else None
    notes += tuple(f"{part!r} was removed from the names" for part in removed)
    return ForeignWeights(file_format, framework, layers, variant=variant, notes=notes)


def _without_wrappers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by names without wrappers and without a prefix that all share, and what was removed."""
    removed: list[str] = []
    names = {key: key.split(".") for key in tensors}
    for wrapper in WRAPPERS:
        if any(wrapper in parts[:-1] for parts in names.values()):
            names = {key: [part for part in parts[:-1] if part != wrapper] + parts[-1:] for key, parts in names.items()}
            removed.append(f"{wrapper}.")
    while all(len(parts) > 2 for parts in names.values()) and len(first := {parts[0] for parts in names.values()}) == 1:
        names = {key: parts[1:] for key, parts in names.items()}
        removed.append(f"{first.pop()}.")
    stripped = {".".join(parts): tensors[key] for key, parts in names.items()}
    return (stripped, removed) if len(stripped) == len(tensors) else (dict(tensors), [])


def _framework(layers: Collection[str]) -> Framework:
    """The framework whose names these are."""
    if set(layers) == {theirs for _, theirs, _ in LAYERS}:
        return "torchvision"
    return "alexnet" if all(map(OURS.fullmatch, layers)) else "torch"


def _in_order(layers: list[ForeignLayer], ordered: bool) -> tuple[ForeignLayer, ...]:
    """The layers of each kind in forward order."""
    if not ordered:
        layers = sorted(layers, key=lambda layer: _by_number(layer.name))
    result: list[ForeignLayer] = []
    for kind in KINDS.values():
        same = [layer for layer in layers if layer.kind == kind]
        if len({NUMBER.sub("", layer.name) for layer in same}) == 1:
            same.sort(key=lambda layer: _by_number(layer.name))
        result += same
    return tuple(result)


def _by_number(name: str) -> list[tuple[str, int]]:
    """A sort key by which ``conv10`` comes after ``conv2``: texts and the numbers behind them."""
    parts = [*NUMBER.split(name), ""]
    return [(text, int(number[:18] or -1)) for text, number in zip(parts[::2], parts[1::2], strict=True)]


def _layer(layer: str, parts: Mapping[str, Tensor], file: str) -> ForeignLayer:
    shown = printable(layer)
    if "weight" not in parts:
        raise UserError(f"{file}: layer {shown!r} has no weight")
    weight = parts["weight"]
    if weight.ndim not in KINDS:
        raise UserError(f"{file}: {shown}.weight has the shape {tuple(weight.shape)}, no layer of an AlexNet has that")
    bias, mean, var = (parts.get(part) for part in ("bias", "running_mean", "running_var"))
    for part, tensor in (("weight", weight), ("bias", bias), ("running_mean", mean), ("running_var", var)):
        if tensor is not None and not tensor.is_floating_point():
            raise UserError(f"{file}: {shown}.{part} has the type {tensor.dtype}, expected floating-point numbers")
    return ForeignLayer(layer, KINDS[weight.ndim], weight, bias, mean, var, tuple(weight.shape))
