"""A trained model in the format of another runtime, checked there after it was written.

Each format is one module in ``exporters/`` with the functions of :class:`Exporter`; ``EXPORTERS`` names them. After the
file is written, the runtime that the format is for (below: the other side) computes the logits of real images from it,
and they are compared with ours. If the other side is not installed, the report says that the file was not checked. The
figures are also written beside the file, as ``FILE.check.json``.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from alexnet.core.errors import UserError, cannot_write, unknown
from alexnet.core.files import put_in_place, remove_leftovers, scratch_folder, write_json
from alexnet.data.augment import views
from alexnet.models.classifier import Classifier, evaluation_mode

EXPORTERS: Mapping[str, str] = {
    "onnx": "alexnet.weights.exporters.onnx",
    "torch": "alexnet.weights.exporters.torch_export",
    "torchvision": "alexnet.weights.exporters.torchvision",
    "safetensors": "alexnet.weights.exporters.safetensors",
    "caffe": "alexnet.weights.exporters.caffe",
    "keras": "alexnet.weights.exporters.keras",
    "c": "alexnet.weights.exporters.c",
    "topology": "alexnet.weights.exporters.topology",
}
"""Format → module. To add a format, write its module and add a row."""

MAX_DIFFERENCE = 1e-5  # of a logit in fp32, over the largest logit
MIN_SAME_TOP1 = 0.99  # of an int8 file, or
MAX_ACCURACY_LOSS = 0.01  # if the classes of the images are known
UNFINISHED = {"finished": False, "checked": False, "passed": False}
"""In the report while the files are put in their places and are checked."""
OF_OTHER_TASKS = ("onnx",)  # the formats for networks that do not give an image a class
BATCHES = (1, 2, 7)  # the batch sizes that a file is checked with


@dataclass(frozen=True)
class ExportOptions:
    """What a user may ask of an export.

    ``int8``: int8 weights and activations, if the format has them. ``pixels``: the network takes uint8 images
    ``(N, H, W, C)`` as they are stored, and the file contains the crop and the normalization. ``calibration``: real
    images from which int8 takes its ranges, ``(N, C, S, S)`` fp32, preprocessed, or ``(N, H, W, C)`` uint8 with
    ``pixels``. ``golden``: one preprocessed image ``(1, C, S, S)`` whose outputs after every layer are written.
    """

    int8: bool = False
    pixels: bool = False
    calibration: Tensor | None = None
    golden: Tensor | None = None


class NotInstalledError(UserError):
    """The runtime that checks a file is not installed; the line names the extra or the package."""


class Exporter(Protocol):
    """What the module of a format offers. ``RUNTIME``: the name of the other side, for people.

    A format with several files lists the suffixes of the others in ``BESIDE``.
    """

    SUFFIX: str
    RUNTIME: str

    def why_not(self, model: Classifier, options: ExportOptions) -> str | None:
        """Why the format cannot hold this network or these options, as the rest of a sentence; None if it can."""

    def write(self, model: Classifier, path: Path, options: ExportOptions) -> list[Path]:
        """Write the file ``path``, and others beside it if the format has several. Returns all of them."""

    def outputs(self, paths: list[Path], images: Tensor) -> Tensor:
        """The logits ``(N, classes)`` that the other side computes from the files.

        ``images``: fp32 ``(N, C, S, S)``; uint8 ``(N, H, W, C)`` for a file that was written with ``options.pixels``.
        Raises :class:`NotInstalledError` if the other side is not installed.
        """


class TableExporter(Protocol):
    """What the module of a format without weights offers: ``why_not`` and ``write`` of :class:`Exporter`, and this."""

    def check_tables(self, model: Classifier, paths: list[Path]) -> str:
        """How the files were checked against the network, and the result, as a sentence; ``UserError`` if they differ.

        It takes the place of ``outputs``: nothing computes logits from such files.
        """


@dataclass(frozen=True)
class CheckImages:
    """Real images on which a file is checked.

    ``pixels``: ``(N, H, W, C)`` uint8, as they are stored. ``source``: where they are from, for people. ``targets``:
    ``(N,)`` int64, their classes, if known. ``calibration``: other images ``(M, H, W, C)`` uint8, for int8.
    """

    pixels: Tensor
    source: str
    targets: Tensor | None = None
    calibration: Tensor | None = None


@dataclass(frozen=True)
class ExportCheck:
    """The comparison with the other side on ``images`` real images.

    ``difference``: the largest difference of a logit, over the largest logit. ``same_top1``, ``same_top5``: the share
    of images with the same most probable class, and with the same five in the same order (fewer if there are fewer
    classes); classes whose logits differ by less than the bound for fp32 may change places. ``accuracy``,
    ``accuracy_here``: top-1 of the file and of this network, if the classes are known. ``runtime``: who computed the
    file's logits. ``source``: where the images are from. ``not_checked``: why there was no check, else empty.
    ``tables``: the result of the check of a format without weights, see :class:`TableExporter`; then there are no
    images. ``failure``: the bound that does not hold, else empty. ``answers``: the most probable classes here and
    there, ``(N,)`` int64 each.
    """

    images: int = 0
    difference: float = 0.0
    same_top1: float = 0.0
    same_top5: float = 0.0
    not_checked: str = ""
    tables: str = ""
    precision: str = "fp32"
    runtime: str = ""
    source: str = ""
    accuracy: float | None = None
    accuracy_here: float | None = None
    failure: str = ""
    answers: tuple[Tensor, Tensor] | None = None

    def lines(self) -> Iterator[str]:
        """The result in words."""
        if self.not_checked:
            yield f"not checked: {self.not_checked}"
        elif self.tables:
            yield self.tables
        else:
            same, of = round(self.same_top5 * self.images), f"of {self.images:,} images"
            if self.precision == "int8":
                same = round(self.same_top1 * self.images)
            top = "top-1" if self.precision == "int8" else "top-5"
            yield (
                f"{self.precision}: largest difference {self.difference:.1e} of the largest logit, same {top} on "
                f"{same:,} {of} ({self.runtime})"
            )
            if self.accuracy is not None and self.accuracy_here is not None:
                yield f"top-1 accuracy {self.accuracy:.2%}, before the export {self.accuracy_here:.2%}"
            if self.source:
                yield f"the images are {self.source}"


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    ``files``: all that were written, the main one first. ``report``: the JSON file with the figures. ``address``: the
    commit of an upload to the hub; then there are no files.
    """

    format: str
    files: tuple[Path, ...]
    check: ExportCheck
    report: Path | None = None
    address: str = ""


def get_exporter(name: str) -> Exporter:
    """The exporter of a format. Raises ``UserError`` for an unknown name."""
    if name not in EXPORTERS:
        raise unknown("export format", name, EXPORTERS)
    return cast("Exporter", importlib.import_module(EXPORTERS[name]))


def check_exportable(model: Classifier, file_format: str, options: ExportOptions) -> Exporter:
    """The exporter of a format. Raises ``UserError`` if the format cannot hold this network or these options."""
    exporter = get_exporter(file_format)
    if model.task == "detection":
        raise UserError("a model for detection cannot be exported: non-maximum suppression is no layer of the network")
    if model.task != "classification":
        if file_format not in OF_OTHER_TASKS:
            raise UserError(
                f"a model for {model.task} cannot be exported to {file_format}: choose {' or '.join(OF_OTHER_TASKS)}"
            )
        if options.int8 or options.golden is not None:
            raise UserError(
                f"--int8 and --golden are for models that give an image a class, this one is for {model.task}"
            )
    if reason := exporter.why_not(model, options):
        raise UserError(f"{model.variant} cannot be exported to {file_format}: {reason}")
    return exporter


def export_model(
    model: Classifier, file_format: str, path: Path, options: ExportOptions, images: Tensor, report: Path | None = None
) -> tuple[list[Path], ExportCheck]:
    """Write a model in a format and let the other side check it: (the files, the comparison).

    The files are written in a scratch folder and put in their places when they are complete. ``report``: a JSON file
    that says from then on that the export has not finished. ``images``: real preprocessed images ``(N, C, S, S)`` fp32,
    or with ``options.pixels`` stored images ``(N, H, W, C)`` uint8. Raises ``UserError`` if the format cannot hold this
    network, and if the files cannot be written. A check that fails is no exception here: see ``ExportCheck.failure``.
    The network must have reference layers and be on the CPU.
    """
    exporter = check_exportable(model, file_format, options)
    try:
        with scratch_folder(path) as folder:
            written = exporter.write(model, folder / path.name, options)
            if report is not None:
                write_json(report, _described(model, file_format, written) | UNFINISHED)
            paths = put_in_place(written, path.parent)
    except OSError as error:
        raise cannot_write(path, error, "give another file with --out") from error
    if hasattr(exporter, "check_tables"):
        return paths, ExportCheck(tables=cast("TableExporter", exporter).check_tables(model, paths))
    try:
        theirs = exporter.outputs(paths, images)
    except NotInstalledError as error:
        return paths, ExportCheck(not_checked=error.line)
    ours = logits(model, preprocess(model, images) if options.pixels else images)
    check = dataclasses.replace(
        compare_logits(ours, theirs),
        precision="int8" if options.int8 else "fp32", runtime=getattr(exporter, "RUNTIME", file_format),
        answers=(ours.argmax(1), theirs.argmax(1)) if ours.ndim == 2 else None,
    )  # fmt: skip
    return paths, dataclasses.replace(check, failure=_failure(check))


def _described(model: Classifier, file_format: str, files: Sequence[Path]) -> dict[str, object]:
    return {"format": file_format, "variant": model.variant, "files": [file.name for file in files]}


def report_path(path: Path) -> Path:
    """The file with the figures of an export to ``path``."""
    return path.with_name(f"{path.name}.check.json")


def golden_path(path: Path) -> Path:
    """The golden file of an export to ``path``."""
    return path.with_name(f"{path.name}.golden.npz")


def export_and_report(
    model: Classifier, file_format: str, path: Path, options: ExportOptions, images: CheckImages
) -> Exported:
    """As :func:`export_model`, and write the figures to ``PATH.check.json``, with the accuracy if classes are known.

    What a killed process left of an export to ``path`` is removed.
    """
    check_exportable(model, file_format, options)
    if options.int8 and options.calibration is None:
        chosen = images.pixels if images.calibration is None else images.calibration
        options = dataclasses.replace(options, calibration=chosen if options.pixels else preprocess(model, chosen))
    report = report_path(path)
    remove_leftovers(path.parent, re.compile("|".join(re.escape(file.name) for file in (report, golden_path(path)))))
    inputs = images.pixels if options.pixels else preprocess(model, images.pixels)
    paths, check = export_model(model, file_format, path, options, inputs, report)
    check = dataclasses.replace(check, source="" if check.not_checked else images.source)
    if check.answers is not None:
        here, there = check.answers
        if images.targets is not None:
            accuracy, accuracy_here = (float((found == images.targets).float().mean()) for found in (there, here))
            check = dataclasses.replace(check, accuracy=accuracy, accuracy_here=accuracy_here)
        check = dataclasses.replace(check, answers=None)
        check = dataclasses.replace(check, failure=_failure(check))
    result = {"checked": not check.not_checked, "passed": not check.failure and not check.not_checked}
    try:
        write_json(
            report, _described(model, file_format, paths) | dataclasses.asdict(check) | {"finished": True, **result}
        )
    except OSError as error:
        raise cannot_write(report, error, "give another file with --out") from error
    return Exported(file_format, tuple(paths), check, report)


def _failure(check: ExportCheck) -> str:
    """The bound that a comparison breaks, as a sentence; empty if it holds."""
    if not check.difference < float("inf"):
        return "the file gives numbers that are not finite"
    if check.precision == "fp32":
        if check.difference > MAX_DIFFERENCE:
            return f"the largest difference is above {MAX_DIFFERENCE:.0e} of the largest logit"
        return "" if check.same_top5 == 1 else "the most probable classes differ"
    if check.same_top1 >= MIN_SAME_TOP1 or check.accuracy is None or check.accuracy_here is None:
        return ""
    loss = check.accuracy_here - check.accuracy
    return f"the accuracy is {loss:.2%} lower" if loss > MAX_ACCURACY_LOSS else ""


def preprocess(model: Classifier, pixels: Tensor) -> Tensor:
    """The network's input ``(N, C, S, S)`` fp32 for stored images ``(N, H, W, C)`` uint8: the centre view."""
    return torch.cat([next(iter(views(pixels, model.preprocessing, model.mean_image)))]).contiguous()


def logits(model: Classifier, images: Tensor) -> Tensor:
    """Our logits ``(N, classes)`` fp32, with reference layers on the CPU, in evaluation mode."""
    with torch.inference_mode(), evaluation_mode(model):
        return torch.cat([model(image[None]) for image in images.float()])


def logits_of(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The logits of another side that takes tensors, in batches of several sizes."""
    with torch.inference_mode():
        return torch.cat([network(batch) for batch in batches(images)])


def batches(images: Tensor) -> Iterator[Tensor]:
    """The images in batches of 1, 2, 7, 7, …: a file with a fixed batch size fails."""
    start, place = 0, 0
    while start < len(images):
        size = BATCHES[min(place, len(BATCHES) - 1)]
        yield images[start : start + size]
        start, place = start + size, place + 1


def compare_logits(ours: Tensor, theirs: Tensor) -> ExportCheck:
    """Two sets of logits of the same images: ``(N, classes)``, or scores of pixels ``(N, classes, H, W)``.

    An image counts as equal if all of its pixels are. Raises ``UserError`` for another shape of ``theirs``.
    """
    if theirs.shape != ours.shape:
        raise UserError(f"the file gives logits of the shape {tuple(theirs.shape)}, expected {tuple(ours.shape)}")
    largest = float(ours.abs().max()) or 1.0
    top = min(5, ours.shape[1])
    best = ours.topk(top, dim=1)
    found = ours.gather(1, theirs.topk(top, dim=1).indices)  # equal for classes that only rounding orders
    same = (best.indices == theirs.topk(top, dim=1).indices) | (best.values - found <= MAX_DIFFERENCE * largest)
    same = same.flatten(2).all(dim=2) if same.ndim > 2 else same
    return ExportCheck(
        images=len(ours),
        difference=float((ours - theirs.float()).abs().max()) / largest,
        same_top1=float(same[:, 0].float().mean()),
        same_top5=float(same.all(dim=1).float().mean()),
    )
