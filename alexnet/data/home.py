"""The folder for prepared datasets and downloads."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """``$ALEXNET_HOME`` if it is set, else ``alexnet`` in the user's cache folder. The folder may not exist yet."""
    if home := os.environ.get("ALEXNET_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "alexnet"
