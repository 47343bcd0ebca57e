"""Save and load a model: ``model.safetensors`` and ``model.json`` in one folder, which is all that a prediction needs.

The JSON holds the classes, the preprocessing that the model was trained with, and the variant's whole architecture, not
only its name. So a saved model does not change when the table of variants changes. The mean image and the hashes of the
training images are tensors in ``model.safetensors``, next to the weights. Nothing is unpickled. The hashes of both
files are checked, and names, shapes and types of the tensors are compared, before memory is allocated for the network.
Models of earlier versions (schema 1) are read too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from alexnet.config import TASKS, Preprocessing, Task
from alexnet.core.errors import UserError, cannot_read, no_run
from alexnet.core.files import publish_folder, read_json, sha256_file, sha256_json, write_json
from alexnet.core.names import printable
from alexnet.core.schema import from_json, to_json
from alexnet.core.tensors import from_int8, load_tensors, save_tensors, to_int8
from alexnet.models.alexnet import Architecture, ConvLayer, LinearLayer, architecture_of
from alexnet.models.classifier import Classifier, ModelInfo
from alexnet.models.registry import new_network

SCHEMA = 2  # schema 1 had the field names used before version 0.1
FILES = ("model.safetensors", "model.json")
MEAN_IMAGE = "preprocessing.mean_image"
TRAINED_ON = "training.seen"
SCALES = ".scales"  # after the name of a weight that is stored as integers
Storage = Literal["fp32", "bf16", "int8"]
# The exceptions that a damaged or unexpected file can raise while it is read and the network is built from it.
DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SafetensorError,
)  # fmt: skip


class LaterVersionError(UserError):
    """The model was written by a later version of this package, and this version cannot read it."""


def save_model(model: Classifier, folder: Path | str, *, storage: Storage = "fp32") -> None:
    """Write a model folder; an existing one is replaced. If writing fails, it is left unchanged.

    The tensors are written in their own dtype, contiguous, and :func:`load_model` returns an equal model. The weights
    of convolutions and linear layers can be rounded, which makes the file smaller: with ``storage="bf16"`` to bfloat16,
    with ``"int8"`` to integers of 8 bits times a scale for each filter. ``load_model`` then returns the rounded numbers
    in fp32. Raises ``OSError`` if the files cannot be written; ``FileExistsError`` if the folder holds other files,
    which are kept.
    """
    info = model.info
    tensors = _stored(model, storage)
    if info.mean_image is not None:
        tensors[MEAN_IMAGE] = info.mean_image
    tensors[TRAINED_ON] = info.trained_on
    architecture = architecture_of(model)
    with publish_folder(Path(folder), replaces=FILES) as beside:
        save_tensors(tensors, beside / "model.safetensors")
        description = {
            "schema": SCHEMA,
            "variant": info.variant,
            "architecture": None if architecture is None else to_json(architecture),
            **({} if model.head == "classifier" else {"head": model.head}),
            "num_classes": model.num_classes,
            "in_channels": model.in_channels,
            "image_size": model.image_size,
            "classes": list(info.classes),
            "labels": list(info.labels),
            "preprocessing": to_json(info.preprocessing),
            "sha256": sha256_file(beside / "model.safetensors"),
        }
        write_json(beside / "model.json", {**description, "sha256_of_the_rest": sha256_json(description)})


def _stored(model: Classifier, storage: Storage) -> dict[str, Tensor]:
    """The tensors of a state dict as they are written. :func:`_in_fp32` is the inverse."""
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    rounded = {f"{name}.weight" for name, _ in layers}
    stored = {}
    for name, tensor in model.state_dict().items():
        if storage == "fp32" or name not in rounded:
            stored[name] = tensor
        elif storage == "bf16":
            stored[name] = tensor.bfloat16()
        else:
            stored[name], stored[name + SCALES] = to_int8(tensor)
    return stored


def _in_fp32(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, with those that were rounded in fp32.

    ``expected``: the tensors of the network. Raises ``ValueError`` for integers that are not the weight of a layer or
    do not have one scale for each filter: their product could be larger than the memory.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int8:
            continue
        wanted, scale = _kind(expected.get(name)), _kind(tensors.get(name + SCALES))
        shape = tuple(tensor.shape)
        if len(shape) < 2 or wanted != f"{torch.float32} {shape}" or scale != f"{torch.float32} {shape[:1]}":
            raise ValueError(f"{name}: found integers {shape} with scales {scale}, expected {wanted}")
    scales = {name + SCALES for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    found = {}
    for name in tensors.keys() - scales:
        tensor = tensors[name]
        if tensor.dtype == torch.int8:
            tensor = from_int8(tensor, tensors[name + SCALES])
        found[name] = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return found


def model_folder(run: Path | str) -> Path:
    """The model folder in the run folder ``run``, or ``run`` itself if it is a model folder.

    Raises ``UserError`` if there is no model.
    """
    path = Path(run)
    try:
        found = next((folder for folder in (path, path / "model") if (folder / "model.json").is_file()), None)
        unfinished = found is None and (path / "run.json").is_file()
    except OSError as error:
        raise cannot_read(error.filename or path, error) from error
    if found is not None:
        return found
    if unfinished and (path / "result.json").is_file():
        raise UserError(
            f"{path} has finished but has no model in {path / 'model'}: use another copy, or {_remedy(path / 'model')}"
        )
    if unfinished:
        raise UserError(
            f"the training in {path} has not finished: resume it with the command that started it and --out {path}"
        )
    raise no_run(path, f"{path} is not a model: give a run folder that alexnet train wrote, or its model/ folder")


def load_model(run: Path | str) -> Classifier:
    """The model of a run folder or model folder, in evaluation mode on the CPU.

    It has ``.variant``, ``.classes``, ``.labels``, ``.preprocessing``, ``.mean_image`` and ``.trained_on``. Raises
    ``UserError`` if there is no model, if its files are damaged or cannot be read, and if a weight is not finite.
    """
    folder = model_folder(run)
    try:
        model = _load(folder)
    except FileNotFoundError as error:
        raise UserError(
            f"the model in {folder} is incomplete: {Path(error.filename or folder).name} is missing; use another copy, "
            f"or {_remedy(folder)}"
        ) from error
    except OSError as error:  # the files may be intact: nobody should remove them
        raise cannot_read(error.filename or folder, error) from error
    except LaterVersionError:
        raise
    except DAMAGE as error:
        if _is_lack_of_memory(error):
            raise UserError(f"there is too little memory to load the model in {folder}: end other programs") from error
        raise UserError(
            f"the model in {folder} is damaged: use another copy, or {_remedy(folder)}", [str(error)]
        ) from error
    mean_image = {} if model.mean_image is None else {MEAN_IMAGE: model.mean_image}
    if bad := not_finite({**model.state_dict(), **mean_image}):
        raise UserError(
            f"the model in {folder} cannot be used: {bad} holds numbers that are not finite, as after a training "
            "that diverged; use another model, or train again with a lower optim.lr"
        )
    return model


def task_of(path: Path | str) -> Task:
    """The task of the model in a run folder or model folder, from its description; also of a damaged one.

    "classification" for everything else.
    """
    try:
        description = read_json(model_folder(path) / "model.json")
    except (UserError, OSError, ValueError):
        return "classification"
    head = description.get("head") if isinstance(description, dict) else None
    return next((task for name, task in TASKS.items() if name == head), "classification")


def _remedy(folder: Path) -> str:
    """What a user can do without another copy of the model in ``folder``."""
    if any((folder.parent / "checkpoints").glob("step-*")):
        return "move that folder away and repeat the training command, which writes it from the last checkpoint"
    return "train again in another folder with --out"


def _is_lack_of_memory(error: Exception) -> bool:
    texts = ("can't allocate memory", "not enough memory")  # of torch, which has no exception of its own on CPUs
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with a number that is infinite or not a number; empty if all are finite."""
    for name, tensor in tensors.items():  # of NaN, the smallest and the largest number are NaN
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            return name
    return ""


def _load(folder: Path) -> Classifier:
    """The model in a model folder. Raises ``OSError`` for a file that cannot be read, otherwise one of ``DAMAGE``."""
    description = read_json(folder / "model.json")
    schema = description.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise LaterVersionError(
            f"the model in {folder} was written by a later version of alexnet (schema {schema}, this version reads 1 "
            f"to {SCHEMA}): install that version"
        )
    if schema not in (1, SCHEMA):
        raise ValueError(f"model.json has schema {schema}, this version reads 1 to {SCHEMA}")
    if description.pop("sha256_of_the_rest", None) != sha256_json(description):
        raise ValueError("model.json has changed since it was written (its sha256 differs)")
    if sha256_file(folder / "model.safetensors") != description["sha256"]:
        raise ValueError("model.safetensors has changed since it was written (its sha256 differs)")
    return _build(description, load_tensors(folder / "model.safetensors"))


def _build(description: dict[str, Any], tensors: dict[str, Tensor]) -> Classifier:
    sizes = [int(description[name]) for name in ("num_classes", "in_channels", "image_size")]
    preprocessing = from_json(Preprocessing, description["preprocessing"])
    row = description["architecture"]
    architecture = None if row is None else architecture_from_json(row)
    stated = description.get("head", "classifier")
    head = next((known for known in TASKS if known == stated), None)
    if head is None:
        raise ValueError(f"model.json has the head {stated!r}, which this version does not know")
    with torch.device("meta"):
        network = new_network(str(description["variant"]), architecture, sizes[0], sizes[1], sizes[2], head)
        expected = network.state_dict()
        if preprocessing.pixel_normalization.startswith("mean-image"):
            side = preprocessing.resize_size
            expected[MEAN_IMAGE] = torch.empty(side, side, preprocessing.channels)
        expected[TRAINED_ON] = torch.empty(tensors[TRAINED_ON].shape[:1], dtype=torch.int64)
    tensors = _in_fp32(tensors, expected)
    for name in sorted(tensors.keys() | expected.keys()):
        if (found := _kind(tensors.get(name))) != (wanted := _kind(expected.get(name))):
            raise ValueError(f"{name}: found {found}, expected {wanted}")
    mean_image, trained_on = tensors.pop(MEAN_IMAGE, None), tensors.pop(TRAINED_ON)
    network.load_state_dict(tensors, assign=True)
    classes = tuple(printable(str(item)) for item in description["classes"])
    labels = tuple(
        printable(str(item)) for item in description["labels" if "labels" in description else "readable_classes"]
    )
    if not len(classes) == len(labels) == network.num_classes:
        raise ValueError(f"{len(classes)} class names for {network.num_classes} outputs")
    labels = distinct_labels(classes, labels)
    network.info = ModelInfo(str(description["variant"]), classes, labels, preprocessing, mean_image, trained_on)
    return network.eval()


def distinct_labels(classes: tuple[str, ...], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels of ``classes``, made distinct.

    Where two classes share a label (ILSVRC has two "crane"), the class name is added.
    """
    times = Counter(labels)
    return tuple(
        f"{label} ({name})" if times[label] > 1 else label for name, label in zip(classes, labels, strict=True)
    )


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"


OLD_OPS = {"in-map": "within-channel-lrn"}


def architecture_from_json(value: dict[str, Any]) -> Architecture:
    """The architecture that ``to_json`` wrote, by this version or an earlier one.

    Raises ``TypeError`` for a field that this version does not know.
    """
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
    if "pool_rounding" in fields:
        fields["pool_ceil_mode"] = {"up": True, "down": False}[fields.pop("pool_rounding")]
    fields["convs"] = tuple(_conv_layer(layer) for layer in value["convs"])
    fields["hidden"] = tuple(LinearLayer(**layer) for layer in value["hidden"])
    return Architecture(**fields)


def _conv_layer(value: dict[str, Any]) -> ConvLayer:
    fields = dict(value)
    ops = fields.pop("ops") if "ops" in fields else fields.pop("then")
    return ConvLayer(**fields, ops=tuple(OLD_OPS.get(operation, operation) for operation in ops))
