"""``alexnet show``: a plot of a run, a network or a recipe in a file, or the report of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError, cannot_write, unknown
from alexnet.core.names import printable_lines
from alexnet.plots.canvas import Picture, check_format, missing_glyphs_note
from alexnet.plots.compose import compose
from alexnet.plots.options import check_options, known_names
from alexnet.plots.registry import PLOTS, get_plot
from alexnet.report.build import REPORT, rebuild
from alexnet.runtime.device import resolve_device
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run_names import run_folder
from alexnet.weights.load import check_is_run, file_stem


def main(arguments: argparse.Namespace) -> int:
    """Make the plot or the report, write it, and print its caption and its files."""
    if arguments.what == "report":
        return _report(arguments)
    if arguments.what not in PLOTS:
        raise unknown("plot", arguments.what, [*PLOTS, "report"])
    plot = get_plot(arguments.what)
    targets = arguments.targets
    is_name = not Path(targets[0]).is_dir() or targets[0] in known_names(plot)
    path = Path(arguments.out) if arguments.out else _default(arguments.what, targets, is_name)
    check_format(path)
    picture = compose(
        arguments.what, *targets, image=arguments.image, layers=arguments.layer, class_name=arguments.class_name,
        data=arguments.data, data_root=arguments.data_root, weights_root=arguments.weights_root,
        device=arguments.device, precision=arguments.precision or "auto", reporter=make_reporter(),
    )  # fmt: skip
    files = [path, *([path.with_suffix(".svg")] if plot.svg and not arguments.out else [])]
    _save(picture, files)
    _print(arguments, files, picture.caption, picture.values)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    check_options(
        "report", REPORT, targets=arguments.targets, images=arguments.image, layers=arguments.layer,
        class_name=arguments.class_name, data=arguments.data,
    )  # fmt: skip
    (target,) = arguments.targets
    check_is_run(target)
    path = Path(arguments.out) if arguments.out else run_folder(target) / "report.html"
    if path.suffix != ".html":
        raise UserError(f"--out {path}: a report is an HTML page, so the name must end in .html")
    device_config = resolve_device(arguments.device, arguments.precision or "auto")
    sections = rebuild(
        target, path, device_config, make_reporter(), data=arguments.data, data_root=arguments.data_root
    )  # fmt: skip
    _print(arguments, [path], f"the report of {target}", {section.title: section.caption for section in sections})
    return 0


def _default(what: str, targets: Sequence[str], is_name: bool) -> Path:
    """The file without ``--out``: in the run's folder; for a name or for several runs, in the working directory."""
    if is_name:
        return Path(f"{what}-{file_stem(targets[0])}.png")  # of a recipe's JSON file, a weights file or a name
    if len(targets) > 1:
        return Path(f"{what}-of-{len(targets)}.png")
    return run_folder(targets[0]) / f"{what}.png"


def _save(picture: Picture, files: Sequence[Path]) -> None:
    """Write the plot to each file in the format of its name. Raises ``UserError`` if a file cannot be written."""
    for path in files:
        try:
            picture.save(path)
        except OSError as error:
            raise cannot_write(path, error, "give another --out") from error
    if note := missing_glyphs_note([picture.figure]):
        print(printable_lines(note), file=sys.stderr)


def _print(arguments: argparse.Namespace, files: Sequence[Path], caption: str, values: Mapping[str, Any]) -> None:
    if arguments.json:
        print_json({"what": arguments.what, "file": str(files[0]), "caption": caption, "values": dict(values)})
    else:
        print_text(caption, *map(str, files))
