"""Export to a ``.pt2`` archive: the graph of ``torch.export`` with its weights, for any batch size.

``torch.export.load(FILE).module()(images)`` runs it without this package. Variant, classes and preprocessing are in the
archive's extra file ``alexnet.json``.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.core.files import json_text, write_bytes
from alexnet.models.classifier import Classifier
from alexnet.weights.export import ExportOptions, logits_of
from alexnet.weights.exporters.common import PixelNetwork, for_export
from alexnet.weights.metadata import describe

SUFFIX = ".pt2"
RUNTIME = "torch.export"
EXTRA = "alexnet.json"


def why_not(model: Classifier, options: ExportOptions) -> str | None:
    """Every network can be written, in fp32."""
    return "it is written in fp32 only; leave out --int8" if options.int8 else None


def program(model: Classifier, options: ExportOptions) -> torch.export.ExportedProgram:
    """The network as a graph, for any batch size. Its input is ``images``."""
    network = for_export(model)
    side, channels = network.image_size, network.in_channels
    module, images = Images(network), torch.zeros(2, channels, side, side)
    if options.pixels:
        size = model.preprocessing.resize_size
        module, images = Images(PixelNetwork(network)), torch.zeros(2, size, size, channels, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own parts
        return torch.export.export(module, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


class Images(nn.Module):
    """The network as a function of ``images`` only, without dropout masks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def write(model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
    """Write the archive."""
    buffer = io.BytesIO()
    extra = {EXTRA: json_text(describe(model, pixels=options.pixels), indent=2)}
    torch.export.save(program(model, options), buffer, extra_files=extra)
    write_bytes(path, buffer.getvalue())
    return [path]


def outputs(paths: list[Path], images: Tensor) -> Tensor:
    """The logits of the graph in the file, in batches of several sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return logits_of(torch.export.load(paths[0]).module(), images)
