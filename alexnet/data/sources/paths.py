"""A source that is a path: a folder of class folders, or a tar of one."""

from __future__ import annotations

from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.data.sources.folders import open_folder
from alexnet.data.sources.imagenet import is_ilsvrc
from alexnet.data.sources.records import Source
from alexnet.data.sources.tars import is_tar, open_tar


def open_path(path: Path) -> Source:
    """The source in a folder of class folders or in a tar of one. Raises ``UserError`` for anything else.

    A folder of ILSVRC-2012 is refused, because its ``val`` is the test set: the error gives the name to use.
    """
    if path.is_dir():
        if is_ilsvrc(path):
            raise UserError(f"{path} is an ILSVRC-2012 directory, whose val/ is the test set: write imagenet:{path}")
        return open_folder(path)
    if is_tar(path):
        return open_tar(path)
    raise UserError(f"{path} is a file but not a tar: expected a folder of class folders, or a tar of one")
