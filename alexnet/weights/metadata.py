"""What belongs to a network besides its weights, as text entries in a file of another format.

ONNX (``metadata_props``), safetensors (``__metadata__``) and ``.pt2`` archives hold pairs of texts. :func:`describe`
gives the pairs of a network: its variant with every setting, classes, labels, preprocessing and mean image. A program
that reads the file finds the preprocessing there, and :func:`parse` gives it all back, so that an exported network can
be converted again. Values are JSON; the mean image is fp32 in base64. Keys begin with ``alexnet.``.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from alexnet.config import MAX_SIDE, Preprocessing
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.core.schema import from_json, to_json, validated
from alexnet.models.alexnet import Architecture, architecture_of
from alexnet.models.classifier import Classifier

VARIANT = "alexnet.variant"
PREPROCESSING_IN_GRAPH = "alexnet.preprocessing_in_graph"
"""``true`` if the file contains the crop and the normalization, so that it takes uint8 images ``(N, H, W, C)``."""


@dataclass(frozen=True)
class Description:
    """What :func:`describe` wrote. ``architecture``: None for a network that is no AlexNet."""

    variant: str
    architecture: Architecture | None
    image_size: int
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    mean_image: Tensor | None


def describe(model: Classifier, *, pixels: bool = False) -> dict[str, str]:
    """The entries of a network. ``pixels``: whether the file contains the preprocessing."""
    architecture = architecture_of(model)
    entries = {
        VARIANT: model.variant,
        "alexnet.architecture": json.dumps(None if architecture is None else to_json(architecture)),
        "alexnet.image_size": json.dumps(model.image_size),
        "alexnet.classes": json.dumps(model.classes),
        "alexnet.labels": json.dumps(model.labels),
        "alexnet.preprocessing": json.dumps(to_json(model.preprocessing)),
        PREPROCESSING_IN_GRAPH: json.dumps(pixels),
    }
    if model.mean_image is not None:
        image = model.mean_image.to("cpu", torch.float32).contiguous().numpy().astype("<f4")
        entries["alexnet.mean_image"] = base64.b64encode(image.tobytes()).decode("ascii")
    return entries


def parse(entries: Mapping[str, str], name: str) -> Description | None:
    """What the entries describe; None if they are not those of :func:`describe`. ``name``: the file's name in errors.

    Raises ``UserError`` for entries that are damaged.
    """
    if VARIANT not in entries:
        return None
    try:
        return _parse(entries)
    except (ValueError, TypeError, LookupError, RecursionError, ArithmeticError) as error:
        raise UserError(f"{name}: what it states about the network is damaged", [printable(str(error))]) from error


def _parse(entries: Mapping[str, str]) -> Description:
    stated = {key: json.loads(entries[f"alexnet.{key}"]) for key in ("architecture", "image_size", "classes", "labels")}
    preprocessing = from_json(Preprocessing, json.loads(entries["alexnet.preprocessing"]))
    _check_preprocessing(preprocessing)
    architecture = None
    if stated["architecture"] is not None:
        if strange := set(stated["architecture"]) - {field.name for field in fields(Architecture)}:
            raise ValueError(f"this version does not know the settings {sorted(strange)}")
        architecture = TypeAdapter(Architecture).validate_json(json.dumps(stated["architecture"]), strict=True)
    classes, labels = (
        tuple(printable(item) for item in validated(tuple[str, ...], stated[key], key)) for key in ("classes", "labels")
    )
    image_size = validated(int, stated["image_size"], "image_size")
    if not 1 <= image_size <= MAX_SIDE or image_size != preprocessing.image_size:
        raise ValueError(f"images of {image_size} pixels and a preprocessing to {preprocessing.image_size}")
    if len(classes) != len(labels):
        raise ValueError(f"{len(classes)} classes and {len(labels)} labels")
    return Description(
        printable(entries[VARIANT]), architecture, image_size, classes, labels, preprocessing,
        _mean_image(entries, preprocessing),
    )  # fmt: skip


def _check_preprocessing(settings: Preprocessing) -> None:
    if settings.crop >= 2 * settings.resize_size:
        raise ValueError(f"a crop of {settings.crop} pixels from {settings.resize_size}")
    if settings.pixel_normalization.startswith("mean-image"):
        return
    if not len(settings.mean) == len(settings.std) == settings.channels:
        raise ValueError(
            f"{len(settings.mean)} means and {len(settings.std)} deviations for {settings.channels} channels"
        )
    if not all(
        math.isfinite(mean) and 0 < std < math.inf for mean, std in zip(settings.mean, settings.std, strict=True)
    ):
        raise ValueError("a mean or a deviation of the pixels is not a number above 0")


def _mean_image(entries: Mapping[str, str], settings: Preprocessing) -> Tensor | None:
    if not settings.pixel_normalization.startswith("mean-image"):
        return None
    shape = (settings.resize_size, settings.resize_size, settings.channels)
    try:
        data = base64.b64decode(entries["alexnet.mean_image"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the mean image is no base64: {error}") from error
    if len(data) != 4 * math.prod(shape):
        raise ValueError(f"the mean image has {len(data):,} bytes, expected {4 * math.prod(shape):,}")
    image = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(image).all():
        raise ValueError("the mean image holds numbers that are not finite")
    return torch.from_numpy(image)
