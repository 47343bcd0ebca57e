"""``alexnet predict``: labels for image files, folders of them, or one image on standard input."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.cli.console import print_json
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.sources import is_ignored_name
from alexnet.inference.predictor import Predictor
from alexnet.runtime.device import resolve_device

BATCH = 64
STDIN = "-"
BAR = 24


def predict(predictor: Predictor, images: Iterable[str], top_k: int = 5) -> Iterator[dict[str, Any]]:
    """A dict for each image, in order: ``image`` and ``predictions``, or ``image`` and ``error`` if it is refused.

    Folders stand for all the files in them; an empty one, and a path to nothing, are refused like a bad image.
    """
    batch: list[str] = []
    for name in expand(images):
        batch.append(name)
        if len(batch) == BATCH:
            yield from _predict_batch(predictor, batch, top_k)
            batch = []
    yield from _predict_batch(predictor, batch, top_k)


def expand(images: Iterable[str]) -> Iterator[str]:
    """The files that the words mean, in the order given: folders opened, all else as it stands."""
    for name in images:
        found = (path for path in Path(name).rglob("*") if path.is_file())
        inside = [path for path in found if not any(map(is_ignored_name, path.relative_to(name).parts))]
        yield from map(str, sorted(inside)) if inside else [name]


def read(predictor: Predictor, name: str) -> NDArray[np.uint8]:
    """The pixels of an image by its path, or of the one on standard input. Raises ``UserError``."""
    if name == STDIN:
        return predictor.read(sys.stdin.buffer.read(), "standard input")
    if os.path.isdir(name):  # noqa: PTH112 – never raises
        raise UserError(f"{name}: is a folder without files; give image files or folders of them")
    return predictor.read(name)


def _predict_batch(predictor: Predictor, names: list[str], top_k: int) -> Iterator[dict[str, Any]]:
    pixels, errors = {}, {}
    for place, name in enumerate(names):
        try:
            pixels[place] = read(predictor, name)
        except UserError as error:
            errors[place] = error.line
    rows = iter(predictor.probabilities(list(pixels.values())) if pixels else ())
    for place, name in enumerate(names):
        if place in errors:
            yield {"image": name, "error": errors[place]}
        else:
            yield {"image": name, "predictions": [vars(found) for found in predictor.ranked(next(rows), top_k)]}


def main(arguments: argparse.Namespace) -> int:
    """Predict and print; status 2 if an image was refused, after all the others."""
    if arguments.top_k < 1:
        raise UserError(f"--top-k {arguments.top_k}: give 1 or more")
    device_config = resolve_device(arguments.device, arguments.precision or "auto", reference=arguments.reference)
    predictor = Predictor(arguments.run, device_config)
    refused = 0
    answers = []
    for answer in predict(predictor, arguments.images, arguments.top_k):
        refused += "error" in answer
        if arguments.json:
            answers.append(answer)
        else:
            _print_answer(answer)
    if arguments.json:
        print_json(answers)
    return 2 if refused else 0


def _print_answer(answer: dict[str, Any]) -> None:
    if "error" in answer:
        print(f"alexnet: {answer['error']}", file=sys.stderr)
        return
    print(printable(answer["image"]))
    for found in answer["predictions"]:
        bar = "█" * round(BAR * found["probability"])
        print(f"  {found['probability']:7.2%}  {bar.ljust(BAR)}  {found['label']}")
