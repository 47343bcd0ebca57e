"""A trained model in the format of another runtime, checked there after it was written.

Each format is one module in ``exporters/`` with the functions of :class:`Exporter`; ``EXPORTERS`` names them. After the
file is written, the other side computes the logits of real images from it, and they are compared with ours. Where the
other side is not installed, the report says that the file was not checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from alexnet.core.errors import UserError, unknown
from alexnet.models.classifier import Classifier

EXPORTERS: Mapping[str, str] = {
    "caffe": "alexnet.weights.exporters.caffe",
}
"""Format → module. To add a format, write its module and add a row."""


@dataclass(frozen=True)
class ExportOptions:
    """What a user may ask of an export.

    ``int8``: int8 weights and activations, if the format has them. ``pixels``: the network takes uint8 images
    ``(N, H, W, C)`` as they are stored, and the file contains the crop and the normalization. ``calibration``: real
    images ``(N, C, S, S)`` fp32, preprocessed, from which int8 takes its ranges. ``golden``: one preprocessed image
    ``(1, C, S, S)`` whose outputs after every layer are written.
    """

    int8: bool = False
    pixels: bool = False
    calibration: Tensor | None = None
    golden: Tensor | None = None


class NotInstalledError(UserError):
    """The runtime that checks a file is not installed; the line names the extra or the package."""


class Exporter(Protocol):
    """What the module of a format offers."""

    SUFFIX: str

    def why_not(self, model: Classifier, options: ExportOptions) -> str | None:
        """Why the format cannot hold this network or these options, as the rest of a sentence; None if it can."""

    def write(self, model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
        """Write the file ``path``, and others beside it if the format has several. Returns all of them."""

    def outputs(self, paths: list[Path], images: Tensor) -> Tensor:
        """The logits ``(N, classes)`` that the other side computes from the files for fp32 images ``(N, C, S, S)``.

        Raises :class:`NotInstalledError` if the other side is not installed.
        """


@dataclass(frozen=True)
class ExportCheck:
    """The comparison with the other side on ``images`` real images.

    ``difference``: the largest difference of a logit, over the largest logit. ``same_top1``, ``same_top5``: the share
    of images with the same most probable class, and with the same five in the same order (fewer if there are fewer
    classes). ``not_checked``: why there was no check, else empty.
    """

    images: int = 0
    difference: float = 0.0
    same_top1: float = 0.0
    same_top5: float = 0.0
    not_checked: str = ""


def get_exporter(name: str) -> Exporter:
    """The exporter of a format. Raises ``UserError`` for an unknown name."""
    if name not in EXPORTERS:
        raise unknown("export format", name, EXPORTERS)
    return cast("Exporter", importlib.import_module(EXPORTERS[name]))


def export_model(
    model: Classifier, file_format: str, path: Path, options: ExportOptions, images: Tensor
) -> tuple[list[Path], ExportCheck]:
    """Write a model in a format and let the other side check it: (the files, the comparison).

    ``images``: real preprocessed images ``(N, C, S, S)`` fp32. Raises ``UserError`` if the format cannot hold this
    network, and if the files cannot be written.
    """
    exporter = get_exporter(file_format)
    if reason := exporter.why_not(model, options):
        raise UserError(f"{model.variant} cannot be exported to {file_format}: {reason}")
    try:
        paths = exporter.write(model, path, options)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another file with --out") from error
    try:
        theirs = exporter.outputs(paths, images)
    except NotInstalledError as error:
        return paths, ExportCheck(not_checked=error.line)
    return paths, compare_logits(logits(model, images), theirs)


def logits(model: Classifier, images: Tensor) -> Tensor:
    """Our logits ``(N, classes)`` fp32, with reference layers on the CPU."""
    with torch.inference_mode():
        return torch.cat([model(image[None]) for image in images.float()])


def compare_logits(ours: Tensor, theirs: Tensor) -> ExportCheck:
    """Two sets of logits ``(N, classes)`` of the same images."""
    largest = float(ours.abs().max()) or 1.0
    top = min(5, ours.shape[1])
    same = ours.topk(top).indices == theirs.topk(top).indices
    return ExportCheck(
        images=len(ours),
        difference=float((ours - theirs.float()).abs().max()) / largest,
        same_top1=float(same[:, 0].float().mean()),
        same_top5=float(same.all(dim=1).float().mean()),
    )
