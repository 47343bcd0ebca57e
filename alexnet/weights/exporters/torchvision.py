"""Export to a ``.pth`` file that ``torchvision.models.alexnet(num_classes=N)`` loads strictly.

Only the variant ``torchvision`` is this network: other variants have other layers. torchvision's network has no setting
for the number of image channels and its layers have fixed widths.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes
from alexnet.models.alexnet import architecture_of
from alexnet.models.classifier import Classifier
from alexnet.models.registry import get_architecture
from alexnet.weights.export import ExportOptions, logits_of
from alexnet.weights.exporters.common import for_export, weights_only
from alexnet.weights.torchvision import to_torchvision

SUFFIX = ".pth"
RUNTIME = "torchvision"
CHANNELS = 3


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Its layers must be those of torchvision's network."""
    if reason := weights_only(options):
        return reason
    architecture, theirs = architecture_of(model), get_architecture("torchvision")
    if architecture is None or theirs is None:
        return "torchvision has no such network"
    if model.in_channels != CHANNELS:
        return f"torchvision's network takes {CHANNELS} channels, this one {model.in_channels}"
    try:
        to_torchvision(model.state_dict())
    except UserError as error:
        return f"torchvision's network has other layers: {error.details[0]}" if error.details else error.line
    training = {"dropout", "dropout_at", "initialisation", "output_std", "batch_norm_momentum", "image_size"}
    same = replace(architecture, **{name: getattr(theirs, name) for name in training})
    layers = [replace(a, std=b.std, bias=b.bias) for a, b in zip(same.convs, theirs.convs, strict=True)]
    hidden = [replace(a, std=b.std, bias=b.bias) for a, b in zip(same.hidden, theirs.hidden, strict=True)]
    same = replace(same, convs=tuple(layers), hidden=tuple(hidden))  # type: ignore[arg-type]
    if same != theirs or (architecture.dropout and architecture.dropout_scaling == "test"):
        return "torchvision's network has other settings"
    return None


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write the state dict under torchvision's names, as a zip file of PyTorch."""
    buffer = io.BytesIO()
    torch.save(to_torchvision(for_export(model).state_dict()), buffer)
    write_bytes(path, buffer.getvalue())
    return [path]


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits of torchvision's own network with the weights of the file, loaded strictly."""
    state = torch.load(paths[0], map_location="cpu", weights_only=True)
    network = torchvision.models.alexnet(num_classes=len(state["classifier.6.bias"]))
    network.load_state_dict(state, strict=True)
    return logits_of(network.eval(), images)
