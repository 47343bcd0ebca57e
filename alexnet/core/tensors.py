"""Tensors: in safetensors files, by their hash, and rounded to integers of 8 bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

LARGEST_INT8 = 127
SMALLEST_SCALE = 1e-30  # for filters of zeros


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors, on any device, to ``path``, in their own dtype. Raises ``OSError`` if that fails.

    safetensors writes a temporary file that only its owner may read, and renames it. So an ordinary file is created
    first, and the tensors' file gets its permissions (0644 under the usual umask of 022).
    """
    path.touch()
    rights = path.stat().st_mode & 0o777
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:  # safetensors reports errors of the disk, such as a full one, as this type
        raise OSError(f"{path.name}: {error}") from error
    path.chmod(rights)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, memory-mapped where safetensors can open the path.

    It cannot open a path that is not UTF-8: such a file is read whole. Raises ``OSError`` and ``SafetensorError``.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return load(path.read_bytes())
    return load_file(path)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of named tensors, their shapes and dtypes, in the order of their names, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def to_int8(weight: Tensor, largest: int = LARGEST_INT8) -> tuple[Tensor, Tensor]:
    """A weight ``(filters, …)`` as int8 integers of the same shape, and the fp32 scale of each filter ``(filters,)``.

    The largest absolute value of a filter becomes ``largest``, 1 … 127.
    """
    weight = weight.detach().float()
    scales = (weight.flatten(1).abs().amax(dim=1) / largest).clamp_min(SMALLEST_SCALE)
    return (weight / _column(scales, weight)).round().to(torch.int8), scales


def from_int8(integers: Tensor, scales: Tensor) -> Tensor:
    """The fp32 weight that :func:`to_int8` rounded: each integer times the scale of its filter."""
    return integers.float() * _column(scales, integers)


def _column(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (weight.dim() - 1))
