"""Predictions for the whole of image files that are also drawn: masks and boxes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.core.errors import UserError, cannot_write
from alexnet.core.files import write_bytes
from alexnet.core.names import printable
from alexnet.data.image_file import ImageLike, read_whole_photograph
from alexnet.inference.predictor import Predictor, expand_folders
from alexnet.runtime.log import NullReporter, Reporter, stage

COLOURS = (
    (230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0), (0, 114, 178),
)  # fmt: skip
"""The colours of Okabe and Ito (2008), which people with a colour vision deficiency can tell apart."""

Pixels = NDArray[np.uint8]
Drawings = Mapping[str, tuple[str, Pixels | bytes]]
"""Kind → what is added to the file name, and a picture ``(H, W, 3)`` or the content of a PNG file."""

Predict = Callable[[Pixels, Pixels, str | None], tuple[dict[str, Any], Callable[[], Drawings]]]
"""``predict(pixels with the channels of the model, pixels in colour, name for errors)`` → values, and pictures."""


def annotate_files(
    predictor: Predictor,
    images: Iterable[str],
    predict: Predict,
    key: str,
    stdin: bytes | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> Iterator[dict[str, Any]]:
    """A dict for each image, in order: ``image`` and the values of ``predict``; or ``image`` and ``error``.

    ``key``: the value of ``predict`` that is an empty list for an image that was refused. ``out``: a folder that
    receives the pictures of each image; the dict has their paths, by their kind. The other arguments are those of
    ``predict_files``. Raises ``UserError`` if a file cannot be written.
    """
    names, reporter = list(expand_folders(images)), reporter or NullReporter()
    taken: set[str] = set()
    channels = predictor.model.preprocessing.channels
    with stage(reporter, "predicting", len(names)):
        for done, name in enumerate(names, 1):
            try:
                source: ImageLike = stdin if name == "-" and stdin is not None else name
                shown = "standard input" if name == "-" else None
                colour = read_whole_photograph(source, 3, shown)
                own = colour if channels == 3 else read_whole_photograph(source, channels, shown)
                values, pictures = predict(own, colour, shown)
            except UserError as error:
                yield {"image": name, "error": error.line, key: []}
                continue
            answer = {"image": name, **values}
            if out is not None:
                answer |= _written(pictures(), out, _stem(name, taken))
            reporter.advance(done)
            yield answer


def _stem(name: str, taken: set[str]) -> str:
    """A name for the files of an image that no other image has yet."""
    stem = "standard-input" if name == "-" else Path(name).stem
    free = stem
    number = 1
    while free in taken:
        number += 1
        free = f"{stem}-{number}"
    taken.add(free)
    return free


def _written(pictures: Drawings, out: Path, stem: str) -> dict[str, str]:
    """Write the pictures of an image; kind → path."""
    paths = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind, (ending, picture) in pictures.items():
            path = out / f"{stem}{ending}.png"
            write_bytes(path, picture if isinstance(picture, bytes) else _png(picture))
            paths[kind] = printable(str(path))
    except OSError as error:
        raise cannot_write(out, error, "give another folder with --out") from error
    return paths


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
