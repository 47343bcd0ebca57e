"""What each picture of ``alexnet show`` is of, and which options mean something to it."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass
from pathlib import Path

from alexnet.core.errors import UserError, unknown

REPORT = "report"
AS_TRAINED = ("activations", "attributions")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of images, as a hint names them
NAMED = 5  # files, of those that are where one is not
VARIANT_OR_RUN, RECIPE_OR_RUN = "variant or run", "recipe or run"


@dataclass(frozen=True)
class PlotInputs:
    """What a picture is of, of how many, how many images it can be given, and which options mean something to it."""

    of: str = "run"
    several: bool = False
    images: int = 0
    options: tuple[str, ...] = ()


ONE, SOME, MANY = 1, 24, 50
WHAT = {
    "curves": PlotInputs(several=True),
    "filters": PlotInputs(several=True),
    "activations": PlotInputs(images=ONE, options=("data", "layer")),
    "attributions": PlotInputs(images=ONE, options=("data", "class")),
    "predictions": PlotInputs(images=SOME, options=("data",)),
    "confusion": PlotInputs(options=("data",)),
    "neighbours": PlotInputs(images=MANY, options=("data", "layer")),
    "embedding": PlotInputs(options=("data", "layer")),
    "receptive-field": PlotInputs(VARIANT_OR_RUN, images=ONE, options=("data",)),
    "augmentations": PlotInputs(RECIPE_OR_RUN, images=ONE, options=("data",)),
    "architecture": PlotInputs(VARIANT_OR_RUN),
    REPORT: PlotInputs(options=("data",)),
}


def check_inputs(arguments: argparse.Namespace) -> None:
    """Raise ``UserError`` for what does not go together, before anything is computed."""
    if arguments.what not in WHAT:
        raise unknown("picture", arguments.what, WHAT)
    what, images, fitting = arguments.what, arguments.image, WHAT[arguments.what]
    if len(arguments.targets) > 1 and not fitting.several:
        raise UserError(f"show {what} is of one {fitting.of}: leave out {arguments.targets[1]}")
    if len(images) > (most := fitting.images):
        kind = "takes no image" if not most else f"is of {'one image' if most == 1 else f'{most} images at most'}"
        raise UserError(f"show {what} {kind}: leave out --image {images[most]}")
    given = {"class": arguments.chosen, "layer": arguments.layer, "data": arguments.data}
    for option, value in given.items():
        if value and option not in fitting.options:
            those = ", ".join(name for name, other in WHAT.items() if option in other.options)
            raise UserError(f"show {what} has no use for --{option}: it goes with {those}")
    if len(arguments.layer) > 1 and what != "activations":
        raise UserError(f"show {what} is by one layer: leave out --layer {arguments.layer[1]}")
    for path in map(Path, images):
        if path.is_dir():
            raise UserError(f"--image {path}: is a folder; give one image file")
        if not path.is_file():
            raise UserError(f"--image {path}: there is no such file{_hint(path)}")
    if arguments.precision == "int8" and what in AS_TRAINED:
        raise UserError(f"show {what} is of the weights as they were trained: leave out --precision int8")
    if what == REPORT and arguments.out and not arguments.out.endswith(".html"):
        raise UserError(f"--out {arguments.out}: a report is a page, end the name in .html")


def _hint(path: Path) -> str:
    """The nearest name in the folder where a file is not, or some of those that are there."""
    files = sorted(other.name for other in path.parent.glob("*") if other.is_file())
    beside = [name for name in files if Path(name).suffix.lower() in SUFFIXES] or files
    near = difflib.get_close_matches(path.name, beside, n=1)
    if near:
        return f"; did you mean {path.with_name(near[0])}?"
    if not beside:
        return f", nor any other in {path.parent}"
    more = f" and {len(beside) - NAMED} more" if len(beside) > NAMED else ""
    return f"; in {path.parent} there are {', '.join(beside[:NAMED])}{more}"
