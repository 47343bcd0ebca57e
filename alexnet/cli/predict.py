"""``alexnet predict``: the most probable classes of image files, of folders of them, or of one image on stdin."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from alexnet.api import predict
from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError
from alexnet.core.files import FILE_LIMIT
from alexnet.core.names import printable
from alexnet.inference.sort_into import NONE_OF_THESE
from alexnet.report.tables import csv_rows

STDIN = "-"
BAR = 24  # characters that stand for a probability of 1
TOP_K = 5
_SHARES_HEADER = ("file", "class", "share")  # of a model for segmentation
_OBJECTS_HEADER = ("file", "class", "score", "left", "top", "right", "bottom")  # of a model for detection


def main(arguments: argparse.Namespace) -> int:
    """Predict and print; status 2, after all other images, if an image was refused."""
    if arguments.csv and arguments.json:
        raise UserError("--csv and --json are two forms of the same result: give one of them")
    top_k = (1 if arguments.csv else TOP_K) if arguments.top_k is None else arguments.top_k
    if top_k < 1:
        raise UserError(f"--top-k {top_k}: give 1 or more")
    answers = predict(
        arguments.model, arguments.images, top_k, device=arguments.device,
        precision=arguments.precision or "auto", reference=arguments.reference,
        stdin=_read_stdin() if STDIN in arguments.images else None,
        threshold=arguments.threshold, sort_into=arguments.sort_into, out=arguments.out, names=arguments.names,
        weights_root=arguments.weights_root,
    )  # fmt: skip
    refused, document = 0, []
    titled = False
    for answer in answers:
        if arguments.csv and not titled:
            print(csv_rows([_header(answer, top_k)]), end="")
            titled = True
        refused += "error" in answer
        if arguments.json:
            document.append(answer)
            continue
        if "error" in answer:
            print(f"alexnet: {printable(answer['error'])}", file=sys.stderr)
        if arguments.csv:
            print(csv_rows(_csv_rows(answer)), end="")
        elif "error" not in answer:
            print_text(*_lines(answer, arguments.threshold))
    if arguments.json:
        print_json(document)
    return 2 if refused else 0


def _read_stdin() -> bytes:
    """Standard input, up to one byte more than a file may have: a longer image is refused. b"" if it is closed."""
    try:
        return sys.stdin.buffer.read(FILE_LIMIT + 1) if sys.stdin else b""
    except OSError as error:
        raise UserError(f"standard input: cannot be read: {error.strerror or error}") from error


def _lines(answer: dict[str, Any], threshold: float | None) -> Iterator[str]:
    yield answer["image"]
    for found in answer.get("shares", ()):
        yield f"  {found['share']:7.2%}  {'█' * round(BAR * found['share']):{BAR}}  {found['label']}"
    if answer.get("objects") == []:
        yield "  no object"
    for found in answer.get("objects", ()):
        left, top, right, bottom = found["box"]
        where = f"from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f})"
        yield f"  {found['score']:7.2%}  {found['label']}  {where}"
    if "drawn" in answer:
        yield f"  drawn in {answer['drawn']}"
    if "mask" in answer:
        yield f"  mask {answer['mask']}, overlay {answer['overlay']}"
    if answer.get("none_of_these"):
        yield f"  {NONE_OF_THESE}: no class reaches {threshold:.2%}"
    for found in answer.get("predictions", ()):
        bar = "█" * round(BAR * found["probability"])
        yield f"  {found['probability']:7.2%}  {bar.ljust(BAR)}  {found['label']}"
    if "copied_to" in answer:
        yield f"  copied to {answer['copied_to']}"


def _csv_header(top_k: int) -> list[str]:
    more = [name for rank in range(2, top_k + 1) for name in (f"predicted_{rank}", f"probability_{rank}")]
    return ["file", "predicted", "probability", *more]


def _header(answer: dict[str, Any], top_k: int) -> Sequence[str]:
    if "objects" in answer:
        return _OBJECTS_HEADER
    return _SHARES_HEADER if "shares" in answer else _csv_header(top_k)


def _csv_rows(answer: dict[str, Any]) -> list[list[str]]:
    """The rows of an image: one for each class in its mask, or for each object; else one, also if it was refused."""
    image = answer["image"]
    if "error" in answer and ("objects" in answer or "shares" in answer):
        return [[image, *[""] * (len(_header(answer, 1)) - 1)]]
    if "objects" in answer:
        return [
            [image, each["name"], f"{each['score']:.6f}", *(f"{value:.2f}" for value in each["box"])]
            for each in answer["objects"]
        ]
    if "shares" in answer:
        return [[image, found["name"], f"{found['share']:.6f}"] for found in answer["shares"]]
    return [_csv_row(answer)]


def _csv_row(answer: dict[str, Any]) -> list[str]:
    """A row for an image; one that was refused has no prediction."""
    found = [(each["name"], f"{each['probability']:.6f}") for each in answer.get("predictions", [])]
    if answer.get("none_of_these"):
        found[0] = (NONE_OF_THESE, found[0][1])
    return [answer["image"], *(word for pair in found or [("", "")] for word in pair)]
