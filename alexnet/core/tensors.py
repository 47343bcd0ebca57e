"""Tensors in safetensors files: written with the permissions of other files, and read from any path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor


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
    """The sha256 of named tensors on the CPU, in the order of their names, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
