"""A model as files: ``model.safetensors`` and ``model.json`` in one folder, together enough to predict.

The JSON holds the variant's whole architecture, not only its name, so that a saved model stays what it was when the
table changes; the classes; and the preprocessing that it was trained with. A mean image and the hashes of the training
images are tensors beside the weights. Nothing is unpickled. Both files are hashed, and names, shapes and types are
compared before the network takes any memory. Models of earlier versions (schema 1) are read too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet.config import preprocessing_from_json
from alexnet.core.errors import UserError, no_run
from alexnet.core.files import publish_folder, read_json, sha256_file, sha256_json, write_json
from alexnet.core.names import printable
from alexnet.core.schema import to_json
from alexnet.models.alexnet import Architecture, ConvLayer, LinearLayer, architecture_of
from alexnet.models.classifier import Classifier, ModelInfo
from alexnet.models.registry import new_network

SCHEMA = 2  # 1: field names of before 0.1
MEAN_IMAGE = "preprocessing.mean_image"
TRAINED_ON = "training.seen"
# What reading a file of another shape than expected raises, from the disk to the network built of it.
DAMAGE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, SafetensorError,
)  # fmt: skip


def save_model(model: Classifier, folder: Path | str) -> None:
    """Write a model folder completely, or leave what was there. Raises ``OSError`` if the disk refuses.

    The tensors are written as they are, on the CPU and contiguous. :func:`load_model` gives back an equal model.
    """
    info = model.info
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if info.mean_image is not None:
        tensors[MEAN_IMAGE] = info.mean_image.cpu().contiguous()
    tensors[TRAINED_ON] = info.trained_on
    architecture = architecture_of(model)
    with publish_folder(Path(folder)) as beside:
        try:
            save_file(tensors, beside / "model.safetensors")
        except SafetensorError as error:  # a full disk, in safetensors' words
            raise OSError(str(error)) from error
        description = {
            "schema": SCHEMA,
            "variant": info.variant,
            "architecture": None if architecture is None else to_json(architecture),
            "num_classes": model.num_classes,
            "in_channels": model.in_channels,
            "image_size": model.image_size,
            "classes": list(info.classes),
            "labels": list(info.labels),
            "preprocessing": to_json(info.preprocessing),
            "sha256": sha256_file(beside / "model.safetensors"),
        }
        write_json(beside / "model.json", {**description, "sha256_of_the_rest": sha256_json(description)})


def model_folder(run: Path | str) -> Path:
    """The model folder of a run folder, or that folder itself. Raises ``UserError`` if there is none."""
    path = Path(run)
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
            return folder
    if (path / "run.json").is_file():
        raise UserError(
            f"{path} is a training that has not finished: resume it with the command that started it and --out {path}"
        )
    raise no_run(path, f"{path} is not a model: give a run folder that alexnet train wrote, or its model/ folder")


def load_model(run: Path | str) -> Classifier:
    """The model of a run folder or model folder, in evaluation mode on the CPU.

    It has ``.variant``, ``.classes``, ``.labels``, ``.preprocessing``, ``.mean_image`` and ``.trained_on``. Raises
    ``UserError`` if there is none or its files are not what was written.
    """
    folder = model_folder(run)
    try:
        description = read_json(folder / "model.json")
        if (schema := description.get("schema")) not in (1, SCHEMA):
            raise ValueError(f"model.json has schema {schema}, this version reads 1 to {SCHEMA}")
        if description.pop("sha256_of_the_rest", None) != sha256_json(description):
            raise ValueError("model.json is not what was written (its sha256 differs)")
        if sha256_file(folder / "model.safetensors") != description["sha256"]:
            raise ValueError("model.safetensors is not the file that was written (its sha256 differs)")
        return _build(description, load_file(folder / "model.safetensors"))
    except DAMAGE as error:
        raise UserError(
            f"the model in {folder} is damaged: use another copy, or remove that folder and run the training's command "
            "again, which writes it anew from the last checkpoint",
            [str(error)],
        ) from error


def _build(description: dict[str, Any], tensors: dict[str, Tensor]) -> Classifier:
    sizes = [int(description[name]) for name in ("num_classes", "in_channels", "image_size")]
    preprocessing = preprocessing_from_json(description["preprocessing"])
    row = description["architecture"]
    architecture = None if row is None else architecture_from_json(row)
    with torch.device("meta"):
        network = new_network(str(description["variant"]), architecture, sizes[0], sizes[1], sizes[2])
        expected = network.state_dict()
        if preprocessing.pixel_normalization.startswith("mean-image"):
            side = preprocessing.resize_size
            expected[MEAN_IMAGE] = torch.empty(side, side, preprocessing.channels)
        expected[TRAINED_ON] = torch.empty(tensors[TRAINED_ON].shape[:1], dtype=torch.int64)
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
    labels = _distinct(classes, labels)
    network.info = ModelInfo(str(description["variant"]), classes, labels, preprocessing, mean_image, trained_on)
    return network.eval()


def _distinct(classes: tuple[str, ...], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels, with the name in the data added where two classes have one label, like ILSVRC's two cranes."""
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
