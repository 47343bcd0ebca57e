"""Tensors written to a safetensors file with the rights of every other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors, on any device, to ``path``, in their own dtype. Raises ``OSError`` if that fails.

    safetensors writes a temporary file that only its owner may read, and renames it. So an ordinary file is created
    first, and the tensors' file gets its rights (0644 under the usual umask of 022).
    """
    path.touch()
    rights = path.stat().st_mode & 0o777
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:  # safetensors reports errors of the disk, such as a full one, as this type
        raise OSError(f"{path.name}: {error}") from error
    path.chmod(rights)
