"""Checkpoints of cuda-convnet, the program of the 2012 paper: recognized, and refused with a sentence.

A checkpoint is a dictionary with ``model_state`` and ``op``, pickled by Python 2 into a file ``EPOCH.BATCH`` of a
folder, or into the member ``data`` of a zip (cuda-convnet's gpumodel.py and util.py). Its options are objects of the
program's own classes, which a closed unpickler does not build, and no AlexNet has been published in this form. Nothing
is unpickled here: the names in the bytes are looked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from alexnet.core.errors import UserError
from alexnet.core.files import open_regular
from alexnet.core.names import printable
from alexnet.weights.formats import HEAD, ReadOptions

SEARCHED = 1 << 20
"""Bytes at each end of a file in which the names are looked for: the order of a Python 2 dictionary is arbitrary."""
CHECKPOINT = re.compile(r"[0-9]+\.[0-9]+")
PICKLE = b"\x80\x02"
ZIPPED = re.compile(rb"PK\x03\x04.{22}\x04\x00..data", re.DOTALL)
NAMES = (b"model_state", b"options")


def recognises(head: bytes, path: Path) -> bool:
    """A pickle of protocol 2 with the names of a checkpoint, or a zip whose first file is ``data``."""
    if ZIPPED.match(head):
        return True
    if not head.startswith(PICKLE):
        return False
    if all(name in head for name in NAMES):
        return True
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(SEARCHED)
            file.seek(max(0, size - SEARCHED))
            data += file.read(SEARCHED)
    except OSError:
        return False
    return all(name in data for name in NAMES)


def read(path: Path, options: ReadOptions) -> NoReturn:
    """Raise the ``UserError`` that says what the file is and what to do."""
    raise UserError(
        f"{printable(str(path))} is a checkpoint of cuda-convnet, which this version does not read: in cuda-convnet, "
        'save the lists "weights" and "biases" of each layer as a .npy dictionary'
    )


def check_folder(folder: Path) -> None:
    """Raise ``UserError`` for a folder of cuda-convnet's checkpoints; do nothing for any other."""
    try:
        newest = max((file for file in folder.iterdir() if CHECKPOINT.fullmatch(file.name)), default=None)
        if newest is None:
            return
        with open_regular(newest) as file:
            head = file.read(HEAD)
    except OSError:
        return
    if recognises(head, newest):
        read(folder, ReadOptions())
