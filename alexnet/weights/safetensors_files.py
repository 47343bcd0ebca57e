"""Weights in a safetensors file, under our names or torchvision's.

Names and shapes say which layer a tensor belongs to. Files that ``alexnet export`` wrote also state the network, its
preprocessing and its classes, in the file's metadata; other files hold no such description. It is read by the
``safetensors`` library; nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.names import printable
from alexnet.core.tensors import load_tensors
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.formats import ReadOptions
from alexnet.weights.metadata import parse
from alexnet.weights.state_dict import layers_of

MAX_HEADER = 100 << 20  # the library's own limit, in bytes


def recognises(head: bytes, path: Path) -> bool:
    """A header length below the library's limit, then the first brace of its JSON."""
    return len(head) > 8 and 0 < int.from_bytes(head[:8], "little") <= MAX_HEADER and head[8:9] == b"{"


def read(path: Path, options: ReadOptions) -> ForeignWeights:
    """The layers of the file, see :func:`~alexnet.weights.state_dict.layers_of`. Raises ``UserError``."""
    try:
        tensors = load_tensors(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    except (SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"{printable(str(path))} is no complete safetensors file: use another copy", [printable(str(error))]
        ) from error
    weights = layers_of(tensors, "safetensors", printable(str(path)))
    stated = parse(_metadata(path), printable(str(path)))
    if stated is None or weights.framework != "alexnet":
        return weights
    return replace(
        weights, variant=stated.variant, architecture=stated.architecture, preprocessing=stated.preprocessing,
        mean_image=stated.mean_image, classes=stated.classes, labels=stated.labels, image_size=stated.image_size,
        notes=(*weights.notes, "exported by this program"),
    )  # fmt: skip


def _metadata(path: Path) -> dict[str, str]:
    """The file's own pairs of texts; none if the library cannot open its path."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError, UnicodeEncodeError):
        return {}
