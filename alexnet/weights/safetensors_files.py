"""Weights in a safetensors file, under our names or torchvision's.

The file holds no description of the network: names and shapes say which layer a tensor belongs to. It is read by the
``safetensors`` library; nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.names import printable
from alexnet.core.tensors import load_tensors
from alexnet.weights.foreign import ForeignWeights
from alexnet.weights.formats import ReadOptions
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
        raise UserError(f"{printable(str(path))} is no complete safetensors file", [printable(str(error))]) from error
    return layers_of(tensors, "safetensors", printable(str(path)))
