"""Names of medical images are replaced by numbers: names of DICOM files and their folders often name a person.

A list of images in which one is a DICOM file shows a number for every image, ``image 00017``: in prepared datasets,
logs, reports, predictions and errors. The number is the place of the image in its list, counted from 0. Only
``--names FILE`` writes which file has which number, and only the owner can read that file.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable
from pathlib import Path

from alexnet.core.errors import cannot_write
from alexnet.core.files import open_regular, write_bytes
from alexnet.data.containers import HEAD, SUFFIXES, kind_of


def image_name(number: int) -> str:
    """What an image is called whose file name is not shown."""
    return f"image {number:05d}"


def names_person(path: Path | str) -> bool:
    """Whether the name of a file may name a person: it is a DICOM file by its suffix or by its content.

    Of a file with the suffix of another image format, the suffix decides, so that no photograph is read. A file that
    cannot be read, with an unknown suffix, is taken for one if its suffix is a number, as in names that are UIDs.
    """
    path = Path(path)
    by_name = SUFFIXES.get(path.suffix.lower())
    if by_name:
        return by_name == "DICOM"
    with contextlib.suppress(OSError, ValueError), open_regular(path) as file:
        return kind_of(file.read(HEAD)) == "DICOM"
    return path.suffix[1:].isdigit()


def write_names(path: Path, files: Iterable[tuple[str, str]]) -> None:
    """Write a CSV file ``image,file``, which only its owner can read: the number of each image and its file.

    Raises ``UserError`` if it cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "file"))
    rows.writerows(files)
    try:
        write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"), mode=0o600)
    except OSError as error:
        raise cannot_write(path, error, "give another file with --names") from error
