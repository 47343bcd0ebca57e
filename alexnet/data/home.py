"""The folder for prepared datasets and downloads."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet.core.errors import UserError


def data_home() -> Path:
    """``$ALEXNET_HOME`` if it is set, else ``alexnet`` in the user's cache folder. The folder may not exist yet.

    The cache folder is ``$XDG_CACHE_HOME``, or ``~/.cache`` if that is not an absolute path (XDG Base Directory
    Specification 0.8). An empty variable counts as one that is not set. Raises ``UserError`` if the home folder of the
    user is not known.
    """
    if home := os.environ.get("ALEXNET_HOME", "").strip():
        return _expand(home, f"ALEXNET_HOME={home} names the home folder of a user who does not exist here")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # noqa: PTH117 – the variable may be empty
        cache = "~/.cache"
    return _expand(cache, "this user has no home folder (no HOME, no entry in the table of users)") / "alexnet"


def _expand(path: str, problem: str) -> Path:
    """``path`` with the home folder instead of ``~``. Raises ``UserError`` with ``problem``."""
    try:
        if path.split("/")[0] == "~" and not os.environ.get("HOME"):
            import pwd  # POSIX systems only

            path = f"{pwd.getpwuid(os.getuid()).pw_dir}{path[1:]}"
        return Path(path).expanduser()
    except (RuntimeError, KeyError, ImportError) as error:
        raise UserError(f"{problem}: set ALEXNET_HOME to a folder, for prepared datasets and downloads") from error
