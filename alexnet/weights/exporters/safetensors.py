"""Export to safetensors: our names of the tensors, and everything else about the network in the file's metadata.

The file can be read by every program that reads safetensors, and ``alexnet convert`` reads all of it back. It is
checked by reading it with the ``safetensors`` library and building a new network from what it states.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from alexnet.core.files import write_bytes
from alexnet.models.classifier import Classifier
from alexnet.models.registry import new_network
from alexnet.weights.export import ExportOptions, logits
from alexnet.weights.exporters.common import for_export, weights_only
from alexnet.weights.metadata import describe, parse

SUFFIX = ".safetensors"
RUNTIME = "safetensors"


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Every network can be written, in fp32."""
    return weights_only(options)


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write the state dict in fp32, with metadata."""
    tensors = {name: value.contiguous().clone() for name, value in for_export(model).state_dict().items()}
    write_bytes(path, save(tensors, {"format": "pt", **describe(model)}))
    return [path]


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits of a new network that is built from the file alone."""
    with safe_open(paths[0], "pt") as file:
        stated = parse(file.metadata(), str(paths[0]))
    assert stated is not None
    with torch.device("meta"):
        network = new_network(
            stated.variant, stated.architecture, len(stated.classes), images.shape[1], stated.image_size
        )
    network.load_state_dict(load_file(paths[0]), strict=True, assign=True)
    return logits(network.eval(), images)
