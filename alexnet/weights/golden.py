"""The tensor after every layer for one image, to compare another implementation layer by layer.

The file is a ``.npz`` that ``numpy.load(FILE, allow_pickle=False)`` opens: ``input`` and one array for each layer,
fp32, in forward order, and ``golden.json`` with the names, shapes and sha256 of all arrays, the preprocessing, the
variant and the sha256 of the image file. Equal arrays give equal bytes: the archive has no times and is not compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular, write_bytes
from alexnet.core.schema import to_json
from alexnet.models.classifier import Classifier, evaluation_mode
from alexnet.weights.layer_table import table_layers

INPUT, DESCRIPTION = "input", "golden.json"
DESCRIPTION_LIMIT = 1 << 20
FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can state
VERSION = 1


@dataclass(frozen=True)
class Golden:
    """A golden file. ``arrays``: ``input`` and the output of each layer, fp32, ``(1, C, H, W)`` or ``(1, units)``, in
    forward order. ``description``: the JSON value of ``golden.json``.
    """

    arrays: dict[str, np.ndarray]
    description: dict[str, Any]


def golden_outputs(model: Classifier, image: Tensor) -> dict[str, np.ndarray]:
    """``input`` and the output of each layer for one preprocessed image ``(1, C, S, S)``, fp32, in forward order.

    The network runs with reference layers on the CPU in evaluation mode. ``flatten`` and dropout without an effect are
    left out. Raises ``UserError`` for another shape.
    """
    expected = (1, model.in_channels, model.image_size, model.image_size)
    if tuple(image.shape) != expected:
        raise UserError(f"a golden image is {expected}, not {tuple(image.shape)}")
    image = image.detach().cpu().float()
    with torch.inference_mode(), evaluation_mode(model):
        outputs = model.layer_outputs(image, table_layers(model))
    return {
        name: np.ascontiguousarray(tensor.float().numpy(), "<f4") for name, tensor in ((INPUT, image), *outputs.items())
    }


def raw_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays of a golden file one after another, little-endian fp32: what the C program reads."""
    return b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in arrays.values())


def write_golden(model: Classifier, image: Tensor, path: Path, image_sha256: str = "") -> dict[str, np.ndarray]:
    """Write the golden file of a network and one preprocessed image ``(1, C, S, S)``; returns its arrays.

    ``image_sha256``: of the bytes of the image file. Raises ``OSError`` if the file cannot be written.
    """
    arrays = golden_outputs(model, image)
    description = {
        "version": VERSION,
        "variant": model.variant,
        "image_sha256": image_sha256,
        "preprocessing": to_json(model.preprocessing),
        "layers": [
            {"name": name, "shape": list(values.shape), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
            for name, values in arrays.items()
        ],
    }
    members = {DESCRIPTION: (json.dumps(description, indent=1) + "\n").encode()}
    for name, values in arrays.items():
        file = io.BytesIO()
        np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
        members[f"{name}.npy"] = file.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            target.writestr(entry, data)
    write_bytes(path, archive.getvalue())
    return arrays


def read_golden(path: Path) -> Golden:
    """Read a golden file and check every hash and shape. Nothing in it is unpickled.

    Raises ``UserError`` for a file that cannot be read or is no golden file, and if an array has another hash.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path)
    except OSError as error:
        raise cannot_read(path, error) from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is not a golden file: {error}") from error


def _read(archive: zipfile.ZipFile, path: Path) -> Golden:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if DESCRIPTION not in entries or entries[DESCRIPTION].file_size > DESCRIPTION_LIMIT:
        raise UserError(f"{path} is not a golden file: it has no {DESCRIPTION}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise UserError(f"{path} is not a golden file: it is compressed")
    description = json.loads(archive.read(DESCRIPTION))
    arrays = {}
    for row in description["layers"]:
        name, shape = row["name"], tuple(row["shape"])
        member = archive.read(f"{name}.npy")
        values = _array(member, shape)
        if hashlib.sha256(values.tobytes()).hexdigest() != row["sha256"]:
            raise UserError(f"{path}: the array {name} does not have the sha256 that {DESCRIPTION} states")
        arrays[name] = values
    return Golden(arrays, description)


def _array(member: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """An fp32 array of a stated shape from a ``.npy`` member; sizes are compared before memory is taken."""
    file = io.BytesIO(member)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array has another version of the .npy format")
    found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    data = member[file.tell() :]
    if found != shape or fortran or dtype != np.dtype("<f4") or len(data) != 4 * math.prod(shape):
        raise ValueError(f"an array is {found} {dtype}, not {shape} float32 with as many bytes")
    return np.frombuffer(data, "<f4").reshape(shape)
