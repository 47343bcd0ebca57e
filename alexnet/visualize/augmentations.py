"""One image as training shows it to the network, epoch by epoch, and as a test does, in ten views where it crops."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import AugmentSpec, Preprocessing, Recipe
from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.core.typed import spell
from alexnet.data.augment import Colours, augment, draw, views
from alexnet.data.building import principal_components, statistics
from alexnet.data.decode import ImageRefusedError, read_pixels
from alexnet.data.store import PHOTOGRAPH_SIDE
from alexnet.model.variants import build, get_variant
from alexnet.visualize.canvas import PHONE, Picture, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

ACROSS = 5
BUILTIN_PIXELS = {  # side and channels, as a store of the set has them
    "digits": (8, 1), "mnist": (28, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3), "cifar100": (32, 3),
    "tiny-imagenet": (64, 3),
}  # fmt: skip


def stored_pixels(recipe: Recipe, image: Path) -> NDArray[np.uint8]:
    """An image file's pixels as a store of the recipe's own images would keep them: ``(S, S, C)``.

    Raises ``UserError`` for an image that cannot be read.
    """
    side, channels = BUILTIN_PIXELS.get(recipe.data.source, (PHOTOGRAPH_SIDE, 3))
    try:
        return read_pixels(image.read_bytes(), recipe.data.stored or side, recipe.data.channels or channels)
    except ImageRefusedError as error:
        raise UserError(f"{printable(str(image))}: {error}") from error


def show_augmentations(recipe: Recipe, pixels: NDArray[np.uint8], colours: Colours | None = None) -> Picture:
    """One stored image ``(S, S, C)`` through a recipe's augmentation, as the image of number 0 in 25 epochs.

    ``colours``: the principal components of a set's colours; the image's own where that is not at hand. Raises
    ``UserError`` where the recipe's crop does not fit.
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
    return draw_augmentations(pixels, _pixels(training, mean), _pixels(tests, mean), recipe.name, what)


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
    """What is done, field by field, as ``--set`` takes it."""
    changed = [
        f"{field.name}={spell(getattr(spec, field.name))}"
        for field in fields(spec)
        if getattr(spec, field.name) != field.default
    ]
    return ", ".join(changed) or "no augmentation"


def draw_augmentations(
    pixels: NDArray[np.uint8], training: NDArray[np.uint8], tests: NDArray[np.uint8], title: str, what: str
) -> Picture:
    """The stored image, 5 × 5 training views on the left, the test views on the right.

    ``pixels`` ``(H, W, C)``, ``training`` ``(25, S, S, C)`` and ``tests`` ``(1 or 10, S, S, C)``, uint8; ``what``: the
    augmentation in words.
    """
    views = "ten test views" if len(tests) > 1 else "the one test view"

    def beside() -> Figure:
        figure = new_figure(12, 6.6, f"{title}: {what}")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.35, 1])[0]
        _draw_views(left, right, pixels, training, tests)
        return figure

    def above() -> Figure:
        figure = new_figure(PHONE, 2.3 * PHONE, f"{title}: {what}")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.1, 1])[:, 0]
        _draw_views(upper, lower, pixels, training, tests)
        return figure

    says = f"The image as {title} trains on it: {what}; 25 training views and {views}"
    return Picture(beside(), says, upright=above)


def _draw_views(
    left: SubFigure,
    right: SubFigure,
    pixels: NDArray[np.uint8],
    training: NDArray[np.uint8],
    tests: NDArray[np.uint8],
) -> None:
    """Training views in one part of a figure; in the other the stored image, and the views that it is tested on."""
    left.suptitle("training: 25 draws, one an epoch", fontsize=11)
    for axes, view in zip(left.subplots(ACROSS, ACROSS).flatten(), training, strict=True):
        show_image(axes, view)
    stored, seen = right.subfigures(2, 1, squeeze=False)[:, 0]
    show_image(stored.subplots(), pixels, f"as stored, {len(pixels)} × {len(pixels)}")
    seen.suptitle("test: ten views" if len(tests) > 1 else "test: one view, for there is no crop", fontsize=11)
    rows = -(-len(tests) // ACROSS)
    for axes, view in zip(seen.subplots(rows, min(ACROSS, len(tests)), squeeze=False).flatten(), tests, strict=True):
        show_image(axes, view)
