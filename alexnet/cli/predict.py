"""``alexnet predict``: the most probable classes of image files, of folders of them, or of one image on stdin."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from alexnet.api import predict
from alexnet.cli.console import print_json
from alexnet.core.errors import UserError
from alexnet.core.files import FILE_LIMIT
from alexnet.core.names import printable

STDIN = "-"
BAR = 24  # characters that stand for a probability of 1


def main(arguments: argparse.Namespace) -> int:
    """Predict and print; status 2, after all other images, if an image was refused."""
    if arguments.top_k < 1:
        raise UserError(f"--top-k {arguments.top_k}: give 1 or more")
    answers = predict(
        arguments.model, arguments.images, arguments.top_k, device=arguments.device,
        precision=arguments.precision or "auto", reference=arguments.reference,
        stdin=_read_stdin() if STDIN in arguments.images else None,
    )  # fmt: skip
    refused, document = 0, []
    for answer in answers:
        refused += "error" in answer
        if arguments.json:
            document.append(answer)
        else:
            _print_answer(answer)
    if arguments.json:
        print_json(document)
    return 2 if refused else 0


def _read_stdin() -> bytes:
    """Standard input, up to one byte more than a file may have: a longer image is refused. b"" if it is closed."""
    try:
        return sys.stdin.buffer.read(FILE_LIMIT + 1) if sys.stdin else b""
    except OSError as error:
        raise UserError(f"standard input: cannot be read: {error.strerror or error}") from error


def _print_answer(answer: dict[str, Any]) -> None:
    if "error" in answer:
        print(f"alexnet: {answer['error']}", file=sys.stderr)
        return
    print(printable(answer["image"]))
    for found in answer["predictions"]:
        bar = "█" * round(BAR * found["probability"])
        print(f"  {found['probability']:7.2%}  {bar.ljust(BAR)}  {found['label']}")
