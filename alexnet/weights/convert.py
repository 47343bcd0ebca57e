"""From a weights file of any format to a network of this package, with a report of what was done.

The steps: read the file (``formats.py``), find out which network it is (``identify.py``), build it, and bring the
tensors into its layers. Two things are changed in the weights: the inputs of fc6 are put into the order channel, row,
column, and if conv1 expects BGR images, its input channels are exchanged, so that the network takes RGB images like all
others. The preprocessing that belongs to the weights is bound to the network (``preprocessing.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.models.bundle import not_finite
from alexnet.models.classifier import Classifier, ModelInfo
from alexnet.models.registry import build, get_variant
from alexnet.weights.child import errors_name
from alexnet.weights.foreign import FlattenOrder, ForeignLayer, ForeignWeights
from alexnet.weights.formats import ReadOptions, read_weights
from alexnet.weights.identify import Identity, identify
from alexnet.weights.preprocessing import bind_preprocessing


@dataclass(frozen=True)
class ConvertedLayer:
    """A row of the report. ``norm``: the Euclidean norm of the weight. ``steps``: what was changed, in words."""

    layer: str
    source: str
    shape_in_file: tuple[int, ...]
    shape: tuple[int, ...]
    norm: float
    steps: tuple[str, ...]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did: a row for each layer, and sentences.

    ``reasons``: why this variant. ``assumptions``: what the file does not state, and what was taken instead. ``notes``:
    other remarks.
    """

    format: str
    variant: str
    rows: tuple[ConvertedLayer, ...]
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]


def convert_file(
    path: Path, *, variant: str | None = None, mean: Path | None = None
) -> tuple[Classifier, ConversionReport]:
    """The network in a weights file, in evaluation mode on the CPU, and the report.

    ``variant``: the network's name, where the weights alone do not decide. ``mean``: a file with the mean image
    (``.binaryproto`` or ``.npy``). Raises ``UserError``, whose line names the file: for one that is no AlexNet
    (``NoAlexNetError``, with both sides listed), and for weights that are not finite.
    """
    name = printable(str(path))
    if variant is not None:
        get_variant(variant)  # an unknown name is reported before a large file is read
    with errors_name(path, mean):
        weights = read_weights(path, ReadOptions(mean=mean))
        if mean is not None and weights.mean_image is None:
            raise UserError(f"weights in the format {weights.format} take no mean image: leave out --mean")
        return build_network(weights, identify(weights, variant, name), name)


def build_network(weights: ForeignWeights, identity: Identity, name: str) -> tuple[Classifier, ConversionReport]:
    """The network with the weights of the file, and the report. ``name``: the file's name in errors."""
    network = build(
        identity.variant, identity.architecture, identity.num_classes, identity.in_channels, identity.image_size, "meta"
    )
    state: dict[str, Tensor] = {}
    rows = []
    for ours, layer in identity.parts.items():
        weight, steps = _weight_of(ours, layer, weights, identity)
        state[f"{ours}.weight"] = weight
        state |= {f"{ours}.{part}": tensor for part, tensor in _other_parts(layer, weight).items()}
        norm = float(torch.linalg.vector_norm(weight))
        shape = tuple(weight.shape)
        rows.append(ConvertedLayer(ours, layer.name, layer.original_shape or shape, shape, norm, steps))
    if key := not_finite(state):
        raise UserError(f"{name} cannot be used: {key} holds numbers that are not finite")
    network.load_state_dict(state, strict=True, assign=True)
    binding = bind_preprocessing(weights, identity)
    network.info = ModelInfo(
        identity.variant, binding.classes, binding.labels, binding.preprocessing, binding.mean_image
    )
    assumptions = identity.assumptions + binding.assumptions
    report = ConversionReport(
        weights.format, identity.variant, tuple(rows), identity.reasons, assumptions, weights.notes
    )
    return network.eval(), report


def _weight_of(
    ours: str, layer: ForeignLayer, weights: ForeignWeights, identity: Identity
) -> tuple[Tensor, tuple[str, ...]]:
    """The weight of our layer, and the steps from the file's weight to it."""
    weight, steps = layer.weight, list(layer.steps)
    if ours == "fc6" and weights.flatten != "CHW":
        weight = fc6_in_order(weight, len(identity.parts["conv5"].weight), weights.flatten)
        steps.append(f"inputs from {weights.flatten} to CHW")
    if ours == "conv1" and weights.channel_order == "BGR" and weight.shape[1] == 3:
        weight = weight.flip(1)
        steps.append("input channels from BGR to RGB")
    return _ours(weight), tuple(steps)


def fc6_in_order(weight: Tensor, maps: int, order: FlattenOrder) -> Tensor:
    """fc6's weight ``(units, maps · side²)`` with its inputs in the order CHW, from another ``order``."""
    side = round((weight.shape[1] / maps) ** 0.5)
    sizes = {"C": maps, "H": side, "W": side}
    apart = weight.reshape(len(weight), *(sizes[axis] for axis in order))
    return apart.permute(0, *(axis + 1 for axis in map(order.index, "CHW"))).flatten(1)


def _other_parts(layer: ForeignLayer, weight: Tensor) -> dict[str, Tensor]:
    parts = {"bias": torch.zeros(len(weight)) if layer.bias is None else layer.bias}
    if layer.kind == "batch-norm":
        if layer.running_mean is None or layer.running_var is None:
            raise UserError(f"batch normalization {printable(layer.name)!r} has no running mean and variance")
        if bool((layer.running_var < 0).any()):
            raise UserError(f"batch normalization {printable(layer.name)!r} has a negative running variance")
        parts |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
        parts["num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    lengths = {name: tuple(part.shape) for name, part in parts.items() if name != "num_batches_tracked"}
    for name, shape in lengths.items():
        if shape != (len(weight),):
            raise UserError(f"{printable(layer.name)}: {name} has the shape {shape}, expected ({len(weight)},)")
    return {name: part if part.dtype == torch.int64 else _ours(part) for name, part in parts.items()}


def _ours(tensor: Tensor) -> Tensor:
    """The tensor as our networks hold it: fp32, contiguous, with memory of its own if the file is mapped."""
    return tensor.to(torch.float32).contiguous()
