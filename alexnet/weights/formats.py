"""The table of weights formats: which files each reader recognizes.

A format is one module with two functions: ``recognises(head, path) -> bool`` decides from the first bytes of a file
(and its name, where bytes cannot decide), and ``read(path, options) -> ForeignWeights`` reads it. A module is imported
when its format is tried, so a format whose library is absent costs nothing. To add a format, write its module and add a
row.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.weights.foreign import ForeignWeights

HEAD = 4096  # bytes from which a format is recognized


@dataclass(frozen=True)
class ReadOptions:
    """What a user says of a file that the file does not say itself. ``mean``: a file with the mean image."""

    mean: Path | None = None


class Reader(Protocol):
    """What the module of a format offers."""

    def recognises(self, head: bytes, path: Path) -> bool:
        """Whether the file may be of this format; ``head``: its first bytes, up to ``HEAD``."""

    def read(self, path: Path, options: ReadOptions) -> ForeignWeights:
        """The contents of the file. Raises ``UserError`` for a file that is damaged or holds another network."""


FORMATS: dict[str, str] = {
    "PyTorch": "alexnet.weights.torch_files",
    "safetensors": "alexnet.weights.safetensors_files",
    "MatConvNet": "alexnet.weights.matconvnet",
    "Keras": "alexnet.weights.keras_files",
    "NumPy": "alexnet.weights.numpy_files",
    "ONNX": "alexnet.weights.onnx_files",
    "Caffe": "alexnet.weights.caffe",
}
"""Name for people → module. Formats with a signature come first; ONNX and Caffe files have none."""
REFUSED: dict[str, str] = {
    "cuda-convnet": "alexnet.weights.cuda_convnet",
}
"""Formats that are only recognized, before the others: ``read`` raises the ``UserError`` that says why."""


def read_weights(path: Path, options: ReadOptions | None = None) -> ForeignWeights:
    """The contents of a weights file in any format of ``FORMATS``.

    Raises ``UserError`` for a file that cannot be read, that is empty, whose format is not known, or that its reader
    refuses.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error
    if not head:
        raise UserError(f"{printable(str(path))} is empty")
    for module in (*REFUSED.values(), *FORMATS.values()):
        reader = cast("Reader", importlib.import_module(module))
        if reader.recognises(head, path):
            return reader.read(path, options or ReadOptions())
    raise UserError(
        f"{printable(str(path))} is not a weights file that this version reads: it reads {', '.join(FORMATS)}"
    )
