"""Attribution maps on top of the input image: which pixels matter for a class (see ``analysis/attribution.py``)."""

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
from alexnet.plots.canvas import NARROW_WIDTH, Picture, escape_dollars, grid, hide_axes, new_figure, percent, plot_image
from alexnet.plots.inputs import FinishedRun, PlotInputs, check_finite
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.device import NO_TF32

if TYPE_CHECKING:
    from matplotlib.figure import Figure


METHOD_NOTES = {
    "Grad-CAM": "last maps, weighted by gradient",
    "saliency": "gradient of each pixel",
    "occlusion": "drop when a patch is covered",
}


def compose_attributions(predictor: Predictor, pixels: NDArray[np.uint8], class_name: str | None, what: str) -> Picture:
    """Attribution maps for one image ``(S, S, C)`` uint8 from ``predictor.read``. ``what``: run and image, for the
    title.

    ``class_name``: a class by its name in the data or its label; None for the most probable. Raises ``UserError`` for
    an unknown class, and where Captum is not installed.
    """
    batch = pixels[None]
    probabilities = predictor.probabilities(batch)[0]
    check_finite(int(not np.isfinite(probabilities).all()), 1)
    target = int(probabilities.argmax()) if class_name is None else _class_number(predictor.model, class_name)
    network = predictor.device_config.to_device(copy.deepcopy(predictor.model))
    with NO_TF32:
        found = attribute(network, predictor.view(batch)[0], target)
    name = predictor.model.labels[target]
    return plot_attributions(predictor.visible(batch)[0], found, name, float(probabilities[target]), what)


def _class_number(model: Classifier, name: str) -> int:
    for names in (model.classes, model.labels):
        if name in names:
            return names.index(name)
    raise unknown("class", name, model.labels)


def plot_attributions(
    pixels: NDArray[np.uint8], maps: Mapping[str, Tensor], class_name: str, probability: float, what: str
) -> Picture:
    """The image, then the image with each method's map on top.

    ``pixels`` ``(S, S, C)`` uint8; ``maps``: method → ``(S, S)``, not negative, for the class ``class_name``, to which
    the network gives ``probability``.
    """
    title = f"{what}: evidence for “{class_name}”, probability {percent(probability)} (each map scaled to its maximum)"
    heat = {name: found.float().cpu().numpy().astype(np.float64) for name, found in maps.items()}
    thirds = {name: _thirds(values) for name, values in heat.items()}
    places = "; ".join(f"{name} {_place(shares)}" for name, shares in thirds.items())
    return Picture(
        _sheet(pixels, heat, title, 3.1, 1 + len(maps)),
        f"{title}. Share of each map's sum by ninths of the image (11% each if uniform): {places}",
        {name: shares.tolist() for name, shares in thirds.items()},
        lambda: _sheet(pixels, heat, title, NARROW_WIDTH / 2, 2),
    )


def _sheet(
    pixels: NDArray[np.uint8], heat: Mapping[str, NDArray[np.float64]], title: str, inches: float, across: int
) -> Figure:
    """A panel of ``inches`` for the image and for each map, ``across`` in a row."""
    rows = math.ceil((1 + len(heat)) / across)
    figure = new_figure(inches * across, 0.8 + inches * rows, title)
    places = grid(figure, 1 + len(heat), across)
    plot_image(places[0], pixels, "input")
    for axes, (name, values) in zip(places[1:], heat.items(), strict=True):
        plot_image(axes, pixels)
        strength = values / values.max() if values.max() > 0 else values
        axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.85 * np.sqrt(strength))
        axes.set_title(
            "\n".join([escape_dollars(name), *([METHOD_NOTES[name]] if name in METHOD_NOTES else [])]), fontsize=9
        )
        hide_axes(axes)
    return figure


def _thirds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a map's sum in each ninth of the image, ``(3, 3)``; zeros for a map of zeros."""
    fields = [[part.sum() for part in np.array_split(band, 3, axis=1)] for band in np.array_split(values, 3)]
    shares = np.array(fields)
    return shares / shares.sum() if shares.sum() > 0 else shares


def _place(shares: NDArray[np.float64]) -> str:
    """The ninth with the largest share, in words."""
    if not shares.any():
        return "is zero everywhere"
    row, column = divmod(int(shares.argmax()), 3)
    rows, columns = ("upper", "middle", "lower"), ("left", "centre", "right")
    return f"{shares.max():.0%} in the {rows[row]} {columns[column]}"


def _compose(inputs: PlotInputs) -> Picture:
    ((name, pixels),) = inputs.named_images()
    return compose_attributions(inputs.predictor, pixels, inputs.class_name, f"{inputs.run_name}, {name}")


def _compose_for_report(finished: FinishedRun) -> Picture:
    name, pixels = finished.test_image()
    return compose_attributions(finished.predictor, pixels, None, name)


PLOT = Plot(
    compose=_compose, max_images=1, options=("data", "class"), int8=False,
    report=ReportFigure("Attribution maps", _compose_for_report),
)  # fmt: skip
