"""``alexnet show``: what a training, a network or a recipe looks like, as a picture in a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.cli.console import print_json
from alexnet.cli.naming import run_folder
from alexnet.core.errors import UserError
from alexnet.plots.canvas import Picture, missing_glyphs_note, check_format
from alexnet.plots.inputs import REPORT, check_inputs
from alexnet.plots.registry import PICTURES
from alexnet.plots.request import NAMES, Request
from alexnet.report.build import rebuild
from alexnet.runtime.device import resolve_device
from alexnet.runtime.progress import make_reporter

LINES = ("curves", "architecture")  # which are worth an SVG beside the PNG


def main(arguments: argparse.Namespace) -> int:
    """Draw, write the file, and say what it shows."""
    check_inputs(arguments)
    what, out = arguments.what, arguments.out
    path = Path(out) if out else _default(what, arguments.targets)
    if what == REPORT:
        files = [path]
        sections = rebuild(arguments.targets[0], path, arguments)
        caption = f"the report of {arguments.targets[0]}"
        figures: Mapping[str, Any] = {each.title: each.caption for each in sections}
    else:
        check_format(path)
        picture = PICTURES[what](_request(arguments))
        files = [path, *([path.with_suffix(".svg")] if what in LINES and not out else [])]
        _save(picture, files)
        caption, figures = picture.caption, picture.values
    if arguments.json:
        print_json({"what": what, "picture": str(path), "says": caption, "figures": dict(figures)})
    else:
        print("\n".join([caption, *map(str, files)]))
    return 0


def _save(picture: Picture, files: Sequence[Path]) -> None:
    """Write it in each file's format. Raises ``UserError`` if the disk refuses."""
    for path in files:
        try:
            picture.save(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error
    if note := missing_glyphs_note([picture.figure]):
        print(note, file=sys.stderr)


def _request(arguments: argparse.Namespace) -> Request:
    return Request(
        targets=tuple(arguments.targets), images=tuple(arguments.image),
        chosen=arguments.chosen, layers=tuple(arguments.layer), data=arguments.data, data_root=arguments.data_root,
        device_config=resolve_device(arguments.device, arguments.precision or "auto"), reporter=make_reporter(),
    )  # fmt: skip


def _default(what: str, targets: Sequence[str]) -> Path:
    """Where a picture goes that was given no place: into the run's folder, or, of a name or several runs, here."""
    if not Path(targets[0]).is_dir() or targets[0] in NAMES.get(what, ()):
        return Path(f"{what}-{targets[0]}.png")
    if len(targets) > 1:
        return Path(f"{what}-of-{len(targets)}.png")
    return run_folder(targets[0]) / (f"{what}.html" if what == REPORT else f"{what}.png")
