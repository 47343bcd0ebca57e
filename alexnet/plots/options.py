"""The entry of a plot: what it is a plot of, which options it takes, and the function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet.config import Task
from alexnet.core.errors import UserError
from alexnet.core.names import nearest
from alexnet.models.registry import list_models
from alexnet.plots.registry import PLOTS, get_plot
from alexnet.recipes import RECIPES, installed_recipes

if TYPE_CHECKING:
    from alexnet.plots.canvas import Picture
    from alexnet.plots.inputs import FinishedRun, PlotInputs

Target = Literal["run", "variant or run", "recipe or run"]
Option = Literal["data", "layer", "class"]
IMAGE_SUFFIXES = (  # that an error suggests
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".ppm", ".pgm",
    ".dcm",
)  # fmt: skip
SUGGESTED = 5  # names of files in an error


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """What can be given to a plot or a report.

    ``target``: what it is a plot of. ``several_runs``: whether it takes more than one run. ``max_images``: how many
    image files it takes at most. ``options``: which of ``data``, ``layer`` and ``class`` it uses. ``several_layers``:
    whether it takes more than one layer. ``int8``: whether it can be made with int8 weights. ``tasks``: of the networks
    that it can be made of.
    """

    target: Target = "run"
    several_runs: bool = False
    max_images: int = 0
    options: tuple[Option, ...] = ()
    several_layers: bool = False
    int8: bool = True
    tasks: tuple[Task, ...] = ("classification",)


@dataclass(frozen=True)
class ReportFigure:
    """The plot as a figure of a run's report, under a section ``title``; ``applies``: whether the run has it."""

    title: str
    compose: Callable[[FinishedRun], Picture]
    applies: Callable[[FinishedRun], bool] = lambda finished: True


@dataclass(frozen=True, kw_only=True)
class Plot(Accepts):
    """The entry of a plot. ``compose``: makes it. ``svg``: whether the command writes an SVG beside the PNG.

    ``report``: the same plot in the report of a run, if it is one of its figures.
    """

    compose: Callable[[PlotInputs], Picture]
    svg: bool = False
    report: ReportFigure | None = None


def known_names(accepts: Accepts) -> Collection[str]:
    """The names that can be given in place of a run: variants, recipes, or none."""
    if accepts.target == "variant or run":
        return list_models()
    return {*RECIPES, *installed_recipes()} if accepts.target == "recipe or run" else ()


def check_options(
    what: str,
    accepts: Accepts,
    *,
    targets: Sequence[str],
    images: Sequence[str] = (),
    layers: Sequence[str] = (),
    class_name: str | None = None,
    data: str | None = None,
    precision: str = "auto",
) -> None:
    """Raise ``UserError`` for options that do not go together, before anything is computed."""
    if not targets:
        raise UserError(f"{what} is a plot of one {accepts.target}: give one")
    if len(targets) > 1 and not accepts.several_runs:
        raise UserError(f"{what} is of one {accepts.target}: leave out {targets[1]}")
    if len(images) > accepts.max_images:
        limits = {0: "takes no image", 1: "takes one image"}
        limit = limits.get(accepts.max_images, f"takes {accepts.max_images} images at most")
        raise UserError(f"{what} {limit}: leave out --image {images[accepts.max_images]}")
    given: dict[Option, object] = {"class": class_name, "layer": layers, "data": data}
    for option, value in given.items():
        if value and option not in accepts.options:
            others = ", ".join(name for name in PLOTS if option in get_plot(name).options)
            raise UserError(f"{what} does not use --{option}: leave it out; it is an option of {others}")
    if len(layers) > 1 and not accepts.several_layers:
        raise UserError(f"{what} takes one layer: leave out --layer {layers[1]}")
    for path in map(Path, images):
        if path.is_dir():
            raise UserError(f"--image {path}: is a folder; give one image file")
        if not path.is_file():
            raise UserError(f"--image {path}: there is no such file{_suggestion(path)}")
    if precision == "int8" and not accepts.int8:
        raise UserError(f"{what} is made with the weights as trained: leave out --precision int8")


def _suggestion(path: Path) -> str:
    """What an error adds for a missing file: the nearest name in its folder, or some of the names there."""
    files = sorted(other.name for other in path.parent.glob("*") if other.is_file())
    beside = [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES] or files
    if near := nearest(path.name, beside, cutoff=0.6):
        return f"; did you mean {path.with_name(near[0])}?"
    if not beside:
        return f", and {path.parent} has no files"
    more = f" and {len(beside) - SUGGESTED} more" if len(beside) > SUGGESTED else ""
    return f"; {path.parent} has {', '.join(beside[:SUGGESTED])}{more}"
