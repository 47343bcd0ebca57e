"""Receptive fields: the part of the image that one unit of each layer depends on, by arithmetic and by gradient.

The arithmetic is that of ``models/summary.py``; the gradient is that of ``analysis/receptive_field.py``. Within a
receptive field, central pixels count most, because more paths lead from them to the unit (Luo, Li, Urtasun and Zemel,
"Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NIPS 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.receptive_field import pixel_influences
from alexnet.data.image_file import read_photograph
from alexnet.models.alexnet import Architecture, LinearLayer, architecture_of
from alexnet.models.classifier import Classifier
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import Layer, summarize
from alexnet.plots.canvas import NARROW_WIDTH, ORANGE, Picture, grid, new_figure, plot_image
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHITE = "#FFFFFF"
MID_GREY = 128
ACROSS, NARROW_COLUMNS = 3, 2
PANEL = 2.9  # inches


@dataclass(frozen=True, eq=False)
class Field:
    """The receptive field of a layer's centre unit.

    ``side``: in pixels, by arithmetic. ``gradient`` ``(S, S)``: how strongly the unit depends on each pixel, 0 outside
    of the receptive field.
    """

    layer: str
    side: int
    gradient: NDArray[np.float64]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of the square where the gradient is not 0."""
        rows, columns = np.flatnonzero(self.gradient.any(axis=1)), np.flatnonzero(self.gradient.any(axis=0))
        return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def compose_receptive_fields_of(model: Classifier, pixels: NDArray[np.uint8], name: str) -> Picture:
    """The receptive fields of a trained network, to scale on an input image ``(S, S, C)`` uint8. ``name``: for the
    title.
    """
    return compose_receptive_fields(model.variant, pixels, architecture_of(model), f"{name} ({model.variant})")


def compose_receptive_fields(
    variant: str, image: Path | NDArray[np.uint8], architecture: Architecture | None = None, name: str = ""
) -> Picture:
    """The receptive fields of all convolutions and of the last pool of a variant, on an image.

    ``image``: a file, which is scaled to the largest receptive field, or pixels ``(S, S, C)``, which keep their scale.
    ``architecture``: used in place of the variant's own. ``name``: for the title. The network is built for an image so
    large that no receptive field extends beyond it. Raises ``UserError`` for an unknown variant and for an image that
    cannot be read.
    """
    whole = architecture or get_variant(variant).architecture
    slim = None if whole is None else replace(whole, hidden=(LinearLayer(8), LinearLayer(8)))
    own = build(variant, slim, 2, 1, None, device="meta")
    sides = {layer.name: layer for layer in summarize(own).layers if layer.receptive_field and _has_window(layer)}
    largest = max(layer.receptive_field or 0 for layer in sides.values())
    network = build(variant, slim, 2, 1, own.image_size + 2 * largest, device="cpu")
    network.init_weights(seed=0)
    last_pool = [name for name, layer in sides.items() if layer.kind.endswith("pool")][-1:]
    shown = [name for name, layer in sides.items() if not layer.kind.endswith("pool")] + last_pool
    gradients = pixel_influences(network, shown)
    fields = [Field(name, sides[name].receptive_field or 0, gradients[name].numpy()) for name in shown]
    window = largest + largest // 4
    cropped = [replace(field, gradient=_crop(field.gradient, window)) for field in fields]
    title = f"{name or variant}: receptive field of the centre unit (bright: large gradient; dashed: by arithmetic)"
    if not isinstance(image, Path) and len(image) < window:
        title += f"; grey: outside of the image of {len(image)} pixels"
    return plot_receptive_fields(_background(image, window), cropped, title)


def _has_window(layer: Layer) -> bool:
    return layer.kind in ("convolution", "locally connected") or layer.kind.endswith("pool")


def _crop(gradient: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A square ``(side, side)`` around the centre of the pixels that are not 0."""
    rows, columns = np.flatnonzero(gradient.any(axis=1)), np.flatnonzero(gradient.any(axis=0))
    top, left = ((int(found[0]) + int(found[-1]) + 1 - side) // 2 for found in (rows, columns))
    return gradient[top : top + side, left : left + side]


def _background(image: Path | NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The background ``(side, side, C)``: a file scaled to it, or the centre of an image on grey."""
    if isinstance(image, Path):
        return read_photograph(image, side, 3)
    square = np.full((side, side, image.shape[2]), MID_GREY, np.uint8)
    within, over = max(0, side - len(image)) // 2, max(0, len(image) - side) // 2
    most = min(side, len(image))
    square[within : within + most, within : within + most] = image[over : over + most, over : over + most]
    return square


def plot_receptive_fields(pixels: NDArray[np.uint8], fields: Sequence[Field], title: str) -> Picture:
    """A panel for each layer: the image, the gradient of its centre unit, and the square given by arithmetic.

    ``pixels`` ``(S, S, C)`` uint8, of the same side as the gradients of ``fields``.
    """
    values = {field.layer: {"arithmetic": field.side, "gradient": list(field.box[2:])} for field in fields}
    words = ", ".join(f"{name} {sides['arithmetic']} pixels" for name, sides in values.items())

    def panels(across: int, side: float) -> Figure:
        figure = new_figure(side * across, 1.0 + (side + 0.45) * -(-len(fields) // across), title)
        for axes, field in zip(grid(figure, len(fields), across), fields, strict=True):
            _panel(axes, pixels, field)
        return figure

    return Picture(
        panels(min(ACROSS, len(fields)), PANEL),
        f"{title}. Side of the receptive field: {words}",
        values,
        lambda: panels(NARROW_COLUMNS, NARROW_WIDTH / NARROW_COLUMNS),
    )


def _panel(axes: Axes, pixels: NDArray[np.uint8], field: Field) -> None:
    """One layer."""
    top, left, height, width = field.box
    plot_image(axes, pixels, f"{field.layer}\narithmetic: {field.side} pixels\ngradient: {height} × {width} pixels")
    strength = np.sqrt(field.gradient / field.gradient.max())
    axes.imshow(strength, cmap="viridis", vmin=0, vmax=1, alpha=np.where(field.gradient > 0, 0.65, 0.0))
    _square(axes, (left + width / 2 - 0.5, top + height / 2 - 0.5), field.side)
    axes.set(xlim=(-0.5, len(pixels) - 0.5), ylim=(len(pixels) - 0.5, -0.5))


def _square(axes: Axes, middle: tuple[float, float], side: int) -> None:
    """The square given by arithmetic, dashed on a white line, so that it is visible on any image."""
    from matplotlib.patches import Rectangle

    corner = (middle[0] - side / 2, middle[1] - side / 2)
    for colour, width, style in ((WHITE, 2.4, "-"), (ORANGE, 1.3, "--")):
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width, linestyle=style))


def _compose(inputs: PlotInputs) -> Picture:
    """A variant, or the network of a run on an image of the size of its inputs."""
    if inputs.is_name():
        return compose_receptive_fields(inputs.target, inputs.image_file())
    ((_, pixels),) = inputs.named_images()
    return compose_receptive_fields_of(inputs.predictor.model, inputs.predictor.visible([pixels])[0], inputs.run_name)


def _compose_for_report(finished: FinishedRun) -> Picture:
    (pixels,) = finished.predictor.visible([finished.training_image()])
    return compose_receptive_fields_of(finished.predictor.model, pixels, finished.name)


PLOT = Plot(
    compose=_compose, target="variant or run", max_images=1, options=("data",),
    report=ReportFigure("Receptive fields", _compose_for_report),
)  # fmt: skip
