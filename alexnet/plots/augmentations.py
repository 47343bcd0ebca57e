"""One image as training shows it to the network, epoch by epoch, and as a test does, in ten views where it crops."""

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
from alexnet.plots.canvas import PHONE, Picture, framed, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

ACROSS = 5
CENTRE = 4  # of ten views, in the order in which they are made
UNITS = {"crop": " pixels", "pad": " pixels", "rotation": " degrees", "color_noise_until": " epochs"}
BUILTIN_PIXELS = {  # side and channels, as a store of the set has them
    "digits": (8, 1), "mnist": (28, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3), "cifar100": (32, 3),
    "tiny-imagenet": (64, 3),
}  # fmt: skip


def stored_pixels(recipe: Recipe, image: Path) -> NDArray[np.uint8]:
    """An image file's pixels as a store of the recipe's own images would keep them: ``(S, S, C)``.

    Raises ``UserError`` for an image that cannot be read.
    """
    side, channels = BUILTIN_PIXELS.get(recipe.data.source, (PHOTOGRAPH_SIDE, 3))
    return read_photograph(image, recipe.data.resize_size or side, recipe.data.channels or channels)


def show_augmentations(
    recipe: Recipe, pixels: NDArray[np.uint8], colours: Colours | None = None, name: str = ""
) -> Picture:
    """One stored image ``(S, S, C)`` through a recipe's augmentation, as the image of number 0 in 25 epochs.

    ``colours``: the principal components of a set's colours; the image's own where that is not at hand. ``name``: what
    to call it, the recipe's if empty. Raises ``UserError`` where the recipe's crop does not fit.
    """
    side, channels = pixels.shape[0], pixels.shape[2]
    spec = recipe.augment if channels == 3 else replace(recipe.augment, color_noise="none")
    crop = spec.crop or side
    if crop > side + 2 * spec.pad:
        raise UserError(f"{recipe.name} cuts {crop} pixels and the image is kept at {side}: give a larger one")
    what = _in_words(recipe.augment)
    if colours is None and spec.color_noise != "none":
        colours, what = _own_colours(pixels), f"{what} (along the colours of this image, not of a set)"
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
    drawn = Views(pixels, _pixels(training, mean), _pixels(tests, mean), recipe.train.views == 10)
    return draw_augmentations(drawn, name or recipe.name, what)


@dataclass(frozen=True, eq=False)
class Views:
    """An image as stored ``(H, W, C)``, in ``training`` ``(25, S, S, C)``, and in 1 or 10 ``tests`` ``(N, S, S, C)``.

    ``averaged``: whether the recipe's final count is by all ten; else by the centre.
    """

    resize_size: NDArray[np.uint8]
    training: NDArray[np.uint8]
    tests: NDArray[np.uint8]
    averaged: bool

    @property
    def in_words(self) -> str:
        """What the test views are, and which of them are counted."""
        if len(self.tests) == 1:
            return "one view, the whole image"
        return "ten views, averaged" if self.averaged else "ten views, of which the framed one is counted"


def _own_colours(pixels: NDArray[np.uint8]) -> Colours:
    _, _, covariance = statistics(pixels[None], np.zeros(1, np.int64))
    values, vectors = principal_components(covariance)
    return Colours(np.sqrt(np.maximum(values, 0.0)), vectors)


def _own_size(recipe: Recipe) -> int:
    row = get_variant(recipe.model.variant)
    return build(recipe.model.variant, row.architecture, 2, 1, None, device="meta").image_size


def _pixels(seen: list[Tensor], mean: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Views ``(1, C, S, S)``, ``mean`` ``(C,)`` taken off, as pixels ``(N, S, S, C)``."""
    together = torch.cat(seen).permute(0, 2, 3, 1).double().numpy() + mean
    return np.clip(np.rint(together), 0, 255).astype(np.uint8)


def _in_words(spec: AugmentSpec) -> str:
    """What is done, field by field, as ``--set`` takes it, and in what unit."""
    changed = [
        f"{field.name}={spell(getattr(spec, field.name))}{UNITS.get(field.name, '')}"
        for field in fields(spec)
        if getattr(spec, field.name) != field.default
    ]
    return ", ".join(changed) or "no augmentation"


def draw_augmentations(drawn: Views, title: str, what: str) -> Picture:
    """The stored image, 5 × 5 training views on the left, the test views on the right.

    ``what``: the augmentation in words.
    """

    def beside() -> Figure:
        figure = new_figure(12, 6.6, f"{title}: {what}")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.35, 1])[0]
        _draw_views(left, right, drawn)
        return figure

    def above() -> Figure:
        figure = new_figure(PHONE, 2.3 * PHONE, f"{title}: {what}")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.1, 1])[:, 0]
        _draw_views(upper, lower, drawn)
        return figure

    says = f"An image as {title} trains on it: {what}; 25 training views; tested by {drawn.in_words}"
    figures = {"training": len(drawn.training), "test": len(drawn.tests), "averaged": drawn.averaged, "by": what}
    return Picture(beside(), says, figures, above)


def _draw_views(left: SubFigure, right: SubFigure, drawn: Views) -> None:
    """Training views in one part of a figure; in the other the stored image, and the views that it is tested on."""
    left.suptitle("training: 25 draws, one an epoch", fontsize=11)
    for axes, view in zip(left.subplots(ACROSS, ACROSS).flatten(), drawn.training, strict=True):
        show_image(axes, view)
    resize_size, seen = right.subfigures(2, 1, squeeze=False)[:, 0]
    show_image(
        resize_size.subplots(), drawn.resize_size, f"as stored, {len(drawn.resize_size)} × {len(drawn.resize_size)}"
    )
    seen.suptitle(f"test: {drawn.in_words}", fontsize=11)
    count = len(drawn.tests)
    places = seen.subplots(-(-count // ACROSS), min(ACROSS, count), squeeze=False).flatten()
    for number, (axes, view) in enumerate(zip(places, drawn.tests, strict=True)):
        show_image(axes, view)
        if count > 1 and not drawn.averaged and number == CENTRE:
            framed(axes)
