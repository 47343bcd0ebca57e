"""What ``run.json``, ``result.json`` and the lines of the two logs must hold.

Every command reads these files, and a person or another program can have changed them. So each field is checked when a
file is read. An error names the file and the field. A line of a log that does not have its fields is ignored, like a
damaged line. Fields that are not listed here are kept: later versions may write more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from alexnet.core.errors import UserError, cannot_read, no_run
from alexnet.core.files import FILE_LIMIT, read_json

SCHEMA = 1  # of run.json and result.json, see ``_Versioned``
Kind = type[BaseModel]

Text = InstanceOf[str]  # also a path that is not UTF-8, which pydantic's str refuses
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=0)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Versioned(_Fields):
    schema_: Literal[1] = Field(1, alias="schema")


class Description(_Versioned):
    """``run.json``: ``data`` is the hash of the images, ``source`` their place, ``labels`` the files of labels.

    ``init``: the hash of the weights that the training started from.
    """

    recipe: dict[str, Any]
    seed: int
    source: Text
    data: Text
    commit: Text | None = None
    labels: list[Text] | None = None
    init: Text | None = None


class Hardware(_Fields):
    """The hardware of a training, see ``describe_hardware``; early versions wrote fewer fields."""

    device: Text
    hardware: Text
    precision: Text
    python: Text
    torch: Text
    matrix_dtype: Text | None = None
    instructions: Text | None = None


class ClassResult(_Fields):
    """The images of one class; ``top1`` is None for a class without images."""

    images: Count
    top1: Share | None

    @model_validator(mode="after")
    def _has_accuracy(self) -> ClassResult:
        if self.top1 is None and self.images:
            raise PydanticCustomError("no_accuracy", "top1 should be a number, because there are images")
        return self


class Confusion(_Fields):
    """How many images of the class ``true`` were predicted as ``predicted``."""

    true: Text
    predicted: Text
    images: Count


class Epoch(_Fields):
    """A line of ``metrics.jsonl`` at the end of an epoch."""

    step: Count
    epoch: Count
    train_loss: float
    train_top1: Share | None = None
    val_loss: float = 0.0
    val_top1: Share = 0.0
    val_mean_iou: Share = 0.0
    val_map50: Share = 0.0
    test_loss: float = 0.0
    test_top1: Share = 0.0


class Init(_Fields):
    """The weights that a training started from: the MODEL, and which layers were copied, are new, did not train."""

    model: Text
    copied: list[Text]
    new: list[Text]
    frozen: list[Text]


class CrossValidation(_Fields):
    """How the accuracy of a model on few images was measured, the probe that it is, and the mistakes by file."""

    folds: Count
    images: Count
    top1: Share
    layer: Text
    regularization: Number
    mistakes: list[dict[str, Text]]


class Result(_Versioned):
    """``result.json`` of a training without images to evaluate on.

    ``model_sha256``: of ``model.safetensors``; early versions did not write it.
    """

    recipe: Text
    seed: int
    source: Text
    data: Text
    splits: dict[str, Count]
    split: Literal["test", "val", "folds"] | None
    views: Literal[1, 10]
    kept_epoch: Count
    steps: Count
    seconds: Number
    images_per_second: Number
    matrix_gflops: Number
    hardware: Hardware
    last_epoch: Epoch | None = None
    model_sha256: Text | None = None
    init: Init | None = None
    cross_validation: CrossValidation | None = None


class EvaluatedResult(Result):
    """``result.json`` of a training that was evaluated; without a loss if no output was finite."""

    top1: Share
    top5: Share
    loss: Number | None
    calibration_error: Share | None
    images: Annotated[int, Field(ge=1, lt=2**63)]
    per_class: Annotated[dict[str, ClassResult], Field(min_length=1)]
    confusions: list[Confusion]
    not_finite: Count = 0


class ClassOfPixels(_Fields):
    """The labelled pixels of one class; ``iou`` is None for a class that is neither there nor predicted."""

    pixels: Count
    iou: Share | None


class SegmentationResult(Result):
    """``result.json`` of a segmentation that was evaluated."""

    mean_iou: Share
    pixel_accuracy: Share
    loss: Number | None
    images: Annotated[int, Field(ge=1, lt=2**63)]
    per_class: Annotated[dict[str, ClassOfPixels], Field(min_length=1)]
    not_finite: Count = 0


class ClassOfObjects(_Fields):
    """The objects of one class; ``ap`` is None for a class without objects."""

    objects: Count
    ap: Share | None


class DetectionResult(Result):
    """``result.json`` of a model for detection that was evaluated; no measures if there are no objects."""

    map50: Share | None
    map: Share | None
    loss: Number | None
    images: Annotated[int, Field(ge=1, lt=2**63)]
    objects: Count
    per_class: Annotated[dict[str, ClassOfObjects], Field(min_length=1)]
    not_finite: Count = 0


EVALUATED: dict[str, Kind] = {
    "classification": EvaluatedResult,
    "segmentation": SegmentationResult,
    "detection": DetectionResult,
}
"""Task → the fields of its ``result.json``; without a task, it is a classification."""


class Step(_Fields):
    """A line of ``metrics.jsonl`` on the steps since the last one. ``rate``: the name of ``lr`` in early versions."""

    step: Count
    epoch: Number
    loss: float
    accuracy: Share


class Lr(Step):
    """The line as it is written today."""

    lr: Number


class Rate(Step):
    """The line as early versions wrote it."""

    rate: Number


class Event(_Fields):
    """A line of ``events.jsonl``."""

    event: Text


class Speed(Event):
    """The speed since the last line of metrics."""

    step: Count
    images_per_second: Number


class EpochEnd(Event):
    """The end of an epoch: its seconds without evaluation, and those of them in which training waited for images."""

    step: Count
    seconds: Number
    waited: Number


class Diverged(Event):
    """Why a training ended before its last step."""

    step: Count
    finding: Text
    source: Text
    hardware: Hardware


EVENTS: dict[str, Kind] = {"speed": Speed, "epoch": EpochEnd, "diverged": Diverged}


def read_description(path: Path) -> dict[str, Any]:
    """The content of ``run.json``. Raises ``UserError`` that names a missing or invalid field."""
    value = _read(path)
    _check(path, value, Description)
    return value


def read_result(path: Path) -> dict[str, Any]:
    """The content of ``result.json``. Raises ``UserError`` that names a missing or invalid field."""
    value = _read(path)
    task = str(value.get("task", "classification"))
    if task not in EVALUATED:
        raise UserError(f"{path.parent} is not a run folder of this version: {path.name} is of the task {task!r}")
    _check(path, value, Result if value.get("split", "") is None else EVALUATED[task])
    return value


def is_metrics(line: Mapping[str, Any]) -> bool:
    """Whether a line of ``metrics.jsonl`` has its fields."""
    kinds: list[Kind] = [Epoch] if "train_loss" in line else [Lr, Rate]
    return any(problem(line, kind) is None for kind in kinds)


def is_event(line: Mapping[str, Any]) -> bool:
    """Whether a line of ``events.jsonl`` has its fields."""
    name = line.get("event")
    return problem(line, EVENTS.get(name, Event) if isinstance(name, str) else Event) is None


def problem(value: Mapping[str, Any], kind: Kind) -> str | None:
    """The first missing or invalid field of a value, and why; None if there is none."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return None


def _check(path: Path, value: Mapping[str, Any], kind: Kind) -> None:
    if wrong := problem(value, kind):
        raise UserError(f"{path.parent} is not a run folder of this version: {path.name} has other contents ({wrong})")


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run folder. Raises ``UserError``."""
    try:
        value = read_json(path, FILE_LIMIT)  # it lists every wrong pair of classes
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        line = f"{path.parent} is not a run folder: {path.name} is missing or damaged there"
        raise no_run(path.parent, line) from error
    except OSError as error:  # the file may be intact
        raise cannot_read(path, error) from error
    if not isinstance(value, dict):
        raise UserError(f"{path.parent} is not a run folder of this version: {path.name} has other contents")
    return value
