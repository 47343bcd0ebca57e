"""One image as training augments it in 25 epochs, and the views of it that an evaluation uses (one, or ten crops).

The augmentations are those of the paper, §4.1, and of later recipes; see ``data/augment.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import AugmentSpec, Preprocessing, Recipe
from alexnet.core.errors import UserError
from alexnet.core.schema import spell
from alexnet.data.augment import Colours, augment, draw, views
from alexnet.data.image_file import read_photograph
from alexnet.data.prepared import PHOTOGRAPH_SIDE
from alexnet.data.writer import principal_components, statistics
from alexnet.models.registry import build, get_variant
from alexnet.plots.canvas import NARROW_WIDTH, Picture, add_frame, new_figure, plot_image
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.recipes import get_recipe
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import run_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

ACROSS = 5
CENTRE = 4  # the number of the centre crop among the ten views
UNITS = {"crop": " pixels", "pad": " pixels", "rotation": " degrees", "color_noise_until": " epochs"}
BUILTIN_PIXELS = {  # side and channels of the images of built-in sources
    "digits": (8, 1), "mnist": (28, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3), "cifar100": (32, 3),
    "tiny-imagenet": (64, 3),
}  # fmt: skip


def stored_pixels(recipe: Recipe, image: Path) -> NDArray[np.uint8]:
    """The pixels ``(S, S, C)`` of an image file, as a prepared dataset of the recipe would hold them.

    Raises ``UserError`` for an image that cannot be read.
    """
    side, channels = BUILTIN_PIXELS.get(recipe.data.source, (PHOTOGRAPH_SIDE, 3))
    return read_photograph(image, recipe.data.resize_size or side, recipe.data.channels or channels)


def compose_augmentations(
    recipe: Recipe, pixels: NDArray[np.uint8], colours: Colours | None = None, name: str = ""
) -> Picture:
    """One image ``(S, S, C)`` uint8 as a recipe augments it: as image 0 of the dataset, in epochs 0 to 24.

    ``colours``: the principal components of the dataset's colours; None for the image's own. ``name``: for the title;
    the recipe's if empty. Raises ``UserError`` if the recipe's crop is larger than the image.
    """
    side, channels = pixels.shape[0], pixels.shape[2]
    spec = recipe.augment if channels == 3 else replace(recipe.augment, color_noise="none")
    crop = spec.crop or side
    if crop > side + 2 * spec.pad:
        raise UserError(f"{recipe.name} crops {crop} pixels, but the image has {side}: give a larger image")
    what = describe_augmentation(recipe.augment)
    if colours is None and spec.color_noise != "none":
        colours, what = _own_colours(pixels), f"{what} (with the principal components of this image, not of a dataset)"
    mean = pixels.mean(axis=(0, 1))
    size = recipe.data.image_size or _own_size(recipe)
    shown = Preprocessing(
        1 if channels == 1 else 3, side, crop, size, "channel", tuple(map(float, mean)), (1.0,) * channels
    )
    batch, zero = torch.from_numpy(pixels[None]), np.zeros(1, np.int64)
    training = [
        augment(batch, draw(spec, side, 0, epoch, zero, zero, colours), spec, shown, None)
        for epoch in range(ACROSS * ACROSS)
    ]
    tests = list(views(batch, shown, None, 10 if crop < side else 1))
    shown_views = Views(pixels, _pixels(training, mean), _pixels(tests, mean), recipe.train.views == 10)
    return plot_augmentations(shown_views, name or recipe.name, what)


@dataclass(frozen=True, eq=False)
class Views:
    """An image as ``stored`` ``(H, W, C)``, in ``training`` ``(25, S, S, C)``, and in 1 or 10 ``tests`` ``(N, S, S,
    C)``.

    ``averaged``: whether the recipe's final evaluation averages ten views; else it uses the centre crop.
    """

    stored: NDArray[np.uint8]
    training: NDArray[np.uint8]
    tests: NDArray[np.uint8]
    averaged: bool

    @property
    def in_words(self) -> str:
        """What the test views are, and which of them the evaluation uses."""
        if len(self.tests) == 1:
            return "one view, the whole image"
        return "ten views, averaged" if self.averaged else "ten views, only the framed centre is used"


def _own_colours(pixels: NDArray[np.uint8]) -> Colours:
    _, _, covariance = statistics(pixels[None], np.zeros(1, np.int64))
    values, vectors = principal_components(covariance)
    return Colours(np.sqrt(np.maximum(values, 0.0)), vectors)


def _own_size(recipe: Recipe) -> int:
    row = get_variant(recipe.model.variant)
    return build(recipe.model.variant, row.architecture, 2, 1, None, device="meta").image_size


def _pixels(inputs: list[Tensor], mean: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Views ``(1, C, S, S)``, from which ``mean`` ``(C,)`` was subtracted, as pixels ``(N, S, S, C)``."""
    together = torch.cat(inputs).permute(0, 2, 3, 1).double().numpy() + mean
    return np.clip(np.rint(together), 0, 255).astype(np.uint8)


def describe_augmentation(spec: AugmentSpec) -> str:
    """The fields that differ from no augmentation, as ``--set`` takes them, with units."""
    changed = [
        f"{field.name}={spell(getattr(spec, field.name))}{UNITS.get(field.name, '')}"
        for field in fields(spec)
        if getattr(spec, field.name) != field.default
    ]
    return ", ".join(changed) or "no augmentation"


def plot_augmentations(views: Views, title: str, what: str) -> Picture:
    """5 × 5 training views on the left; the stored image and the test views on the right.

    ``what``: the augmentation in words.
    """

    def wide() -> Figure:
        figure = new_figure(12, 6.6, f"{title}: {what}")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.35, 1])[0]
        _plot_views(left, right, views)
        return figure

    def narrow() -> Figure:
        figure = new_figure(NARROW_WIDTH, 2.3 * NARROW_WIDTH, f"{title}: {what}")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.1, 1])[:, 0]
        _plot_views(upper, lower, views)
        return figure

    caption = f"An image as {title} augments it: {what}. 25 training views; test: {views.in_words}"
    values = {"training": len(views.training), "test": len(views.tests), "averaged": views.averaged, "by": what}
    return Picture(wide(), caption, values, narrow)


def _plot_views(left: SubFigure, right: SubFigure, views: Views) -> None:
    """Training views in the left part of a figure; the stored image and the test views in the right part."""
    left.suptitle("training: one view in each of 25 epochs", fontsize=11)
    for axes, view in zip(left.subplots(ACROSS, ACROSS).flatten(), views.training, strict=True):
        plot_image(axes, view)
    upper, lower = right.subfigures(2, 1, squeeze=False)[:, 0]
    plot_image(upper.subplots(), views.stored, f"as stored, {len(views.stored)} × {len(views.stored)}")
    lower.suptitle(f"test: {views.in_words}", fontsize=11)
    count = len(views.tests)
    places = lower.subplots(-(-count // ACROSS), min(ACROSS, count), squeeze=False).flatten()
    for number, (axes, view) in enumerate(zip(places, views.tests, strict=True)):
        plot_image(axes, view)
        if count > 1 and not views.averaged and number == CENTRE:
            add_frame(axes)


def _compose(inputs: PlotInputs) -> Picture:
    """A recipe by name; or the recipe of a run, on an image of the run's own size."""
    if inputs.is_name():
        recipe = get_recipe(inputs.target)
        return compose_augmentations(recipe, stored_pixels(recipe, inputs.image_file()))
    ((_, pixels),) = inputs.named_images()
    return compose_augmentations(Run(run_folder(inputs.target)).recipe, pixels, name=inputs.run_name)


def _compose_for_report(finished: FinishedRun) -> Picture:
    dataset = finished.dataset
    colours = dataset.colours if dataset.channels == 3 else None
    return compose_augmentations(finished.run.recipe, finished.training_image(), colours, finished.name)


PLOT = Plot(
    compose=_compose, target="recipe or run", max_images=1, options=("data",),
    report=ReportFigure("Data augmentation", _compose_for_report),
)  # fmt: skip
