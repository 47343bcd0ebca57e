"""Attribution maps over the image as the network saw it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from alexnet.analysis.attribution import attribute
from alexnet.core.errors import unknown
from alexnet.inference.predictor import Predictor
from alexnet.models.classifier import Classifier
from alexnet.plots.canvas import PHONE, Picture, bare, grid, new_figure, plain, share, show_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HOW = {
    "Grad-CAM": "last maps, weighed by gradient",
    "saliency": "gradient at each pixel",
    "occlusion": "what is lost when covered",
}


def show_attributions(predictor: Predictor, pixels: NDArray[np.uint8], chosen: str | None, what: str) -> Picture:
    """Where in one image ``(S, S, C)``, read by the predictor, a class is found; ``what``: run and image, for a title.

    ``chosen``: the class, by its name or what people call it; None for the most likely. Raises ``UserError`` for one
    that the model does not know, and where Captum is not installed.
    """
    batch = pixels[None]
    probabilities = predictor.probabilities(batch)[0]
    target = int(probabilities.argmax()) if chosen is None else _class_number(predictor.model, chosen)
    network = predictor.device_config.to_device(copy.deepcopy(predictor.model))
    found = attribute(network, predictor.view(batch)[0], target)
    name = predictor.model.labels[target]
    return draw_attributions(predictor.visible(batch)[0], found, name, float(probabilities[target]), what)


def _class_number(model: Classifier, name: str) -> int:
    for names in (model.classes, model.labels):
        if name in names:
            return names.index(name)
    raise unknown("class", name, model.labels)


def draw_attributions(
    pixels: NDArray[np.uint8], maps: Mapping[str, Tensor], chosen: str, probability: float, what: str
) -> Picture:
    """The image, then each method's map over it.

    ``pixels`` ``(S, S, C)``; ``maps``: method → ``(S, S)``, none below 0; ``chosen``: the class they speak for, with
    its ``probability``.
    """
    title = f"{what}: what speaks for “{chosen}”, given {share(probability)} (each map from nothing to its own most)"
    heat = {name: found.float().cpu().numpy().astype(np.float64) for name, found in maps.items()}
    thirds = {name: _thirds(values) for name, values in heat.items()}
    lies = "; ".join(f"{name} {_place(shares)}" for name, shares in thirds.items())
    return Picture(
        _sheet(pixels, heat, title, 3.1, 1 + len(maps)),
        f"{title}: {lies}; an even spread would give each ninth 11%",
        {name: shares.tolist() for name, shares in thirds.items()},
        lambda: _sheet(pixels, heat, title, PHONE / 2, 2),
    )


def _sheet(
    pixels: NDArray[np.uint8], heat: Mapping[str, NDArray[np.float64]], title: str, inches: float, across: int
) -> Figure:
    """The image, and each map over it, so many ``inches`` wide and ``across``."""
    rows = math.ceil((1 + len(heat)) / across)
    figure = new_figure(inches * across, 0.8 + inches * rows, title)
    places = grid(figure, 1 + len(heat), across)
    show_image(places[0], pixels, "what the network sees")
    for axes, (name, values) in zip(places[1:], heat.items(), strict=True):
        show_image(axes, pixels)
        strength = values / values.max() if values.max() > 0 else values
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * np.sqrt(strength))
        axes.set_title("\n".join([plain(name), *([HOW[name]] if name in HOW else [])]), fontsize=9)
        bare(axes)
    return figure


def _thirds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a map's mass in each of nine fields ``(3, 3)``; zeros for a map of zeros."""
    fields = [[part.sum() for part in np.array_split(band, 3, axis=1)] for band in np.array_split(values, 3)]
    shares = np.array(fields)
    return shares / shares.sum() if shares.sum() > 0 else shares


def _place(shares: NDArray[np.float64]) -> str:
    """The heaviest field in words, with its share."""
    if not shares.any():
        return "finds nothing"
    row, column = divmod(int(shares.argmax()), 3)
    rows, columns = ("the upper", "the middle", "the lower"), ("left", "centre", "right")
    return f"most in {rows[row]} {columns[column]} ninth ({shares.max():.0%})"
