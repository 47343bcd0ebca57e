"""A source that is a path: a folder of class folders, a tar or zip of one, tars of WebDataset, or a folder of shards.

The content decides, not the suffix. Class folders come first: only a tar or a folder of tars that cannot be read as
class folders is read in the WebDataset format, see ``webdataset.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.data.sources.archives import ArchiveFormat, open_archive
from alexnet.data.sources.folders import open_folder, subfolders
from alexnet.data.sources.imagenet import is_ilsvrc
from alexnet.data.sources.records import Ignored, Source, unreadable
from alexnet.data.sources.shards import holds_shards, open_shard_source
from alexnet.data.sources.split_names import split_of
from alexnet.data.sources.tars import TAR, is_tar
from alexnet.data.sources.webdataset import EXPECTED, find_tars, holds_samples, open_webdataset
from alexnet.data.sources.zips import ZIP, is_zip

_OTHER_ARCHIVES = {b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}


def open_path(path: Path) -> Source:
    """The source in a folder of class folders, in an archive of one, or in tars of WebDataset.

    Raises ``UserError`` for anything else.

    A folder of ILSVRC-2012 is refused, because its ``val`` is the test set: the error gives the name to use.
    """
    if path.is_dir():
        if holds_shards(path):
            return open_shard_source(str(path))
        if is_ilsvrc(path):
            raise UserError(f"{path} is an ILSVRC-2012 directory, whose val/ is the test set: write imagenet:{path}")
        return _or_samples(path, lambda: open_folder(path))
    try:
        with open_regular(path) as file:
            form = archive_format(file)
            file.seek(0)
            start = file.read(4)
    except OSError as error:
        raise unreadable(path, error) from error
    if form is TAR:
        return _or_samples(path, lambda: open_archive(path, TAR))
    if form is not None:
        return open_archive(path, form)
    shown = printable(str(path))
    if start in _OTHER_ARCHIVES:
        raise UserError(f"{shown} is a {_OTHER_ARCHIVES[start]} file, which is not read: unpack it first")
    raise UserError(f"{shown} is a file but not a tar or zip: expected a folder of class folders, or an archive of one")


def _or_samples(path: Path, open_class_folders: Callable[[], Source]) -> Source:
    """The source of class folders; if that is refused, the samples of WebDataset in the tar or folder ``path``."""
    try:
        return open_class_folders()
    except UserError as error:
        tars = find_tars(path)
        if any(holds_samples(tar.path) for tar in tars):
            source = open_webdataset(path, tars)
            if not path.is_dir() or all(split_of(name) for name in subfolders(path, Ignored())):
                return source
            note = f"only the tars are read, not the folders: {error.line}"
            return replace(source, warnings=(*source.warnings, note))
        if not path.is_dir() or not tars:
            raise
        hint = f"its tars are not read as WebDataset: none begins with {EXPECTED}"
        raise UserError(error.line, [*error.details, hint]) from error


def archive_format(file: io.BufferedReader) -> ArchiveFormat | None:
    """The format of an archive that is read, by its content; None for any other file. Raises ``OSError``."""
    for form, matches in ((TAR, is_tar), (ZIP, is_zip)):
        file.seek(0)
        if matches(file):
            return form
    return None
