"""Attribution maps over the image as the network saw it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import unknown
from alexnet.inference.attribution import attribute
from alexnet.inference.predictor import Predictor
from alexnet.model.saved import SavedModel
from alexnet.visualize.canvas import Picture, bare, new_figure, plain, show_image


def show_attributions(predictor: Predictor, pixels: NDArray[np.uint8], chosen: str | None) -> Picture:
    """Where in one image ``(S, S, C)``, read by the predictor, a class is found.

    ``chosen``: the class, by its name or what people call it; None for the most likely. Raises ``UserError`` for one
    that the model does not know, and where Captum is not installed.
    """
    batch = pixels[None]
    probabilities = predictor.probabilities(batch)[0]
    target = int(probabilities.argmax()) if chosen is None else _class_number(predictor.model, chosen)
    found = attribute(predictor.machine.place(predictor.model.network), predictor.view(batch)[0], target)
    name = predictor.model.readable_classes[target]
    return draw_attributions(predictor.visible(batch)[0], found, name, float(probabilities[target]))


def _class_number(model: SavedModel, name: str) -> int:
    for names in (model.classes, model.readable_classes):
        if name in names:
            return names.index(name)
    raise unknown("class", name, model.readable_classes)


def draw_attributions(
    pixels: NDArray[np.uint8], maps: Mapping[str, Tensor], chosen: str, probability: float
) -> Picture:
    """The image, then each method's map over it.

    ``pixels`` ``(S, S, C)``; ``maps``: method → ``(S, S)``, none below 0; ``chosen``: the class they speak for, with
    its ``probability``.
    """
    figure = new_figure(3.1 * (1 + len(maps)), 3.7, f"what speaks for {chosen!r} ({probability:.1%})")
    places = figure.subplots(1, 1 + len(maps))
    show_image(places[0], pixels, "what the network sees")
    centres = {}
    for axes, (name, found) in zip(places[1:], maps.items(), strict=True):
        values = found.float().cpu().numpy().astype(np.float64)
        show_image(axes, pixels)
        strength = values / values.max() if values.max() > 0 else values
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * np.sqrt(strength))
        axes.set_title(plain(name), fontsize=10)
        bare(axes)
        centres[name] = _centre(values)
    lies = "; ".join(f"{name} lies about {_place(*centre)}" for name, centre in centres.items() if centre)
    return Picture(
        figure, f"What speaks for {chosen} in the image, which it is given {probability:.1%}: {lies}", centres
    )


def _centre(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The centre of a map's mass as shares of height and width; None for a map of zeros."""
    total = values.sum()
    if total <= 0:
        return None
    down, across = (np.arange(size) + 0.5 for size in values.shape)
    height, width = values.shape
    return float(values.sum(axis=1) @ down / total / height), float(values.sum(axis=0) @ across / total / width)


def _place(down: float, across: float) -> str:
    """A place in the image in words."""
    rows, columns = ("the upper third", "the middle", "the lower third"), ("left", "centre", "right")
    return f"{rows[min(2, int(3 * down))]}, {columns[min(2, int(3 * across))]}"
