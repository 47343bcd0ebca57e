"""A model as files: ``model.safetensors`` and ``model.json``, together enough to predict.

The JSON holds the variant's whole architecture, not only its name, so a saved model stays what it was when the table
changes; the classes; and the preprocessing it was trained with, a mean image included (as a tensor). Nothing is
unpickled; both files are hashed, and names, shapes and types are compared before the network takes any memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet.config import Preprocessing, preprocessing_from_json
from alexnet.core.errors import UserError, no_run
from alexnet.core.files import publish_folder, read_json, sha256_file, sha256_json, write_json
from alexnet.core.names import printable
from alexnet.core.schema import to_json
from alexnet.models.alexnet import AlexNet, Architecture, Classifier, ConvLayer, LinearLayer
from alexnet.models.baselines import BASELINES

SCHEMA = 1
MEAN_IMAGE = "preprocessing.mean_image"
SEEN = "training.seen"
# What reading a file of another shape than expected raises, from the disk to the network built of it.
DAMAGE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, SafetensorError,
)  # fmt: skip


@dataclass(frozen=True)
class SavedModel:
    """A network with what it needs to be used, and to be measured fairly.

    ``labels`` are what people call the classes; ``mean_image`` ``(H, W, C)`` fp32 where its scaling has one;
    ``seen`` ``(n,)`` int64, the content hashes of the images that it was fitted to or chosen by.
    """

    network: Classifier
    variant: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    mean_image: Tensor | None = None
    seen: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


def save_model(folder: Path, model: SavedModel) -> None:
    """Write ``folder`` whole, or leave what was there. Raises ``OSError`` if the disk refuses."""
    network = model.network
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if model.mean_image is not None:
        tensors[MEAN_IMAGE] = model.mean_image.cpu().contiguous()
    tensors[SEEN] = model.seen
    with publish_folder(folder) as beside:
        try:
            save_file(tensors, beside / "model.safetensors")
        except SafetensorError as error:  # a full disk, in safetensors' words
            raise OSError(str(error)) from error
        description = {
            "schema": SCHEMA,
            "variant": model.variant,
            "architecture": to_json(network.architecture) if isinstance(network, AlexNet) else None,
            "num_classes": network.num_classes,
            "in_channels": network.in_channels,
            "image_size": network.image_size,
            "classes": list(model.classes),
            "readable_classes": list(model.labels),
            "preprocessing": to_json(model.preprocessing),
            "sha256": sha256_file(beside / "model.safetensors"),
        }
        write_json(beside / "model.json", {**description, "sha256_of_the_rest": sha256_json(description)})


def model_folder(run: Path | str) -> Path:
    """The model's folder of a run folder, or that folder itself. Raises ``UserError`` if there is none."""
    path = Path(run)
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
            return folder
    if (path / "run.json").is_file():
        raise UserError(
            f"{path} is a training that has not finished: continue it with the command that began it and --out {path}"
        )
    raise no_run(path, f"{path} is no run: expected a folder that alexnet train left, or its model/")


def load_model(run: Path | str) -> SavedModel:
    """The model of a run folder (or of its ``model/``), in evaluation mode on the CPU.

    Raises ``UserError`` if there is none or its files are not what was written.
    """
    folder = model_folder(run)
    try:
        description = read_json(folder / "model.json")
        if (schema := description.get("schema")) != SCHEMA:
            raise ValueError(f"model.json has schema {schema}, this version reads {SCHEMA}")
        if description.pop("sha256_of_the_rest", None) != sha256_json(description):
            raise ValueError("model.json is not what was written (its sha256 differs)")
        if sha256_file(folder / "model.safetensors") != description["sha256"]:
            raise ValueError("model.safetensors is not the file that was written (sha256 differs)")
        return _assemble(description, load_file(folder / "model.safetensors"))
    except DAMAGE as error:
        raise UserError(
            f"the model in {folder} is damaged: use another copy, or remove that folder and give the run's own command "
            "again, which writes it anew from the last checkpoint",
            [str(error)],
        ) from error


def _assemble(description: dict[str, Any], tensors: dict[str, Tensor]) -> SavedModel:
    sizes = (int(description[name]) for name in ("num_classes", "in_channels", "image_size"))
    preprocessing = preprocessing_from_json(description["preprocessing"])
    with torch.device("meta"):
        if description["architecture"] is None:
            network: Classifier = BASELINES[description["variant"]](*sizes)
        else:
            network = AlexNet(architecture_from_json(description["architecture"]), *sizes)
        expected = network.state_dict()
        if preprocessing.pixel_normalization.startswith("mean-image"):
            expected[MEAN_IMAGE] = torch.empty(
                preprocessing.resize_size, preprocessing.resize_size, preprocessing.channels
            )
        expected[SEEN] = torch.empty(tensors[SEEN].shape[:1], dtype=torch.int64)
    for name in sorted(tensors.keys() | expected.keys()):
        if (found := _kind(tensors.get(name))) != (wanted := _kind(expected.get(name))):
            raise ValueError(f"{name}: found {found}, expected {wanted}")
    mean_image, seen = tensors.pop(MEAN_IMAGE, None), tensors.pop(SEEN)
    network.load_state_dict(tensors, assign=True)
    classes, readable = (
        tuple(printable(str(item)) for item in description[name]) for name in ("classes", "readable_classes")
    )
    if not len(classes) == len(readable) == network.num_classes:
        raise ValueError(f"{len(classes)} class names for {network.num_classes} outputs")
    readable = _disambiguated(classes, readable)
    return SavedModel(network.eval(), str(description["variant"]), classes, readable, preprocessing, mean_image, seen)


def _disambiguated(classes: tuple[str, ...], readable: tuple[str, ...]) -> tuple[str, ...]:
    """What people call the classes, with the name in the data where two are called the same, as ILSVRC's cranes are."""
    times = Counter(readable)
    return tuple(f"{said} ({name})" if times[said] > 1 else said for name, said in zip(classes, readable, strict=True))


def _kind(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"


def architecture_from_json(value: dict[str, Any]) -> Architecture:
    """The architecture that ``to_json`` wrote. Raises ``TypeError`` for a field that this version does not know."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
    fields["convs"] = tuple(ConvLayer(**{**layer, "then": tuple(layer["then"])}) for layer in value["convs"])
    fields["hidden"] = tuple(LinearLayer(**layer) for layer in value["hidden"])
    return Architecture(**fields)
