"""How much of an image one unit of each layer sees, by arithmetic and by gradient, drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.receptive_field import reach
from alexnet.data.image_file import read_photograph
from alexnet.models.alexnet import Architecture, LinearLayer, architecture_of
from alexnet.models.classifier import Classifier
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import Layer, summarize
from alexnet.plots.canvas import ORANGE, PHONE, Picture, grid, new_figure, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHITE = "#FFFFFF"
MID_GREY = 128
ACROSS, ACROSS_ON_PHONES = 3, 2
PANEL = 2.9  # inches


@dataclass(frozen=True, eq=False)
class Field:
    """The field of a layer's middle unit.

    ``side``: by arithmetic; ``reach`` ``(S, S)``: how strongly each pixel moves the unit, by gradient, 0 where it does
    not.
    """

    layer: str
    side: int
    reach: NDArray[np.float64]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of what the gradient reaches."""
        rows, columns = np.flatnonzero(self.reach.any(axis=1)), np.flatnonzero(self.reach.any(axis=0))
        return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def show_fields_of(model: Classifier, seen: NDArray[np.uint8], name: str) -> Picture:
    """Of a trained network called ``name``, on an image ``(S, S, C)`` as it saw it, drawn to scale."""
    return show_fields(model.variant, seen, architecture_of(model), f"{name} ({model.variant})")


def show_fields(
    variant: str, image: Path | NDArray[np.uint8], architecture: Architecture | None = None, name: str = ""
) -> Picture:
    """Of a variant by its name, on an image: all convolutions and the last pool.

    ``image``: a file, which is scaled to the largest field, or pixels ``(S, S, C)``, which are not. ``architecture``:
    one that departs from the variant's; ``name``: what to call it. The network is built for an image so large that no
    field reaches beyond it. Raises ``UserError`` for an unknown name or an image that cannot be read.
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
    fields = [Field(name, sides[name].receptive_field or 0, reach(network, name).numpy()) for name in shown]
    window = largest + largest // 4
    cropped = [replace(field, reach=_middle(field.reach, window)) for field in fields]
    title = f"{name or variant}: what the middle unit of each layer sees (bright: by many paths; dashed: by arithmetic)"
    if not isinstance(image, Path) and len(image) < window:
        title += f"; grey lies beyond the image of {len(image)} pixels"
    return draw_fields(_ground(image, window), cropped, title)


def _has_window(layer: Layer) -> bool:
    return layer.kind in ("convolution", "locally connected") or layer.kind.endswith("pool")


def _middle(reached: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A square of it about the middle of what is reached."""
    rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
    top, left = ((int(found[0]) + int(found[-1]) + 1 - side) // 2 for found in (rows, columns))
    return reached[top : top + side, left : left + side]


def _ground(image: Path | NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """What fields are drawn on, ``(side, side, C)``: a file scaled to it, or the middle of pixels on mid-grey."""
    if isinstance(image, Path):
        return read_photograph(image, side, 3)
    ground = np.full((side, side, image.shape[2]), MID_GREY, np.uint8)
    within, over = max(0, side - len(image)) // 2, max(0, len(image) - side) // 2
    most = min(side, len(image))
    ground[within : within + most, within : within + most] = image[over : over + most, over : over + most]
    return ground


def draw_fields(pixels: NDArray[np.uint8], fields: Sequence[Field], title: str) -> Picture:
    """A panel for each layer: the image, what moves its middle unit, and the square that arithmetic gives.

    ``pixels`` ``(S, S, C)``, of the side that the fields were measured on.
    """
    said = {field.layer: {"arithmetic": field.side, "gradient": list(field.box[2:])} for field in fields}
    words = ", ".join(f"{name} {sides['arithmetic']} pixels" for name, sides in said.items())

    def panels(across: int, side: float) -> Figure:
        figure = new_figure(side * across, 1.0 + (side + 0.45) * -(-len(fields) // across), title)
        for axes, field in zip(grid(figure, len(fields), across), fields, strict=True):
            _panel(axes, pixels, field)
        return figure

    return Picture(
        panels(min(ACROSS, len(fields)), PANEL),
        f"{title}: the side of what one unit sees: {words}",
        said,
        lambda: panels(ACROSS_ON_PHONES, PHONE / ACROSS_ON_PHONES),
    )


def _panel(axes: Axes, pixels: NDArray[np.uint8], field: Field) -> None:
    """One layer's."""
    top, left, height, width = field.box
    show_image(axes, pixels, f"{field.layer}\narithmetic {field.side},\ngradient {height} × {width} pixels")
    strength = np.sqrt(field.reach / field.reach.max())
    axes.imshow(strength, cmap="viridis", vmin=0, vmax=1, alpha=np.where(field.reach > 0, 0.65, 0.0))
    _square(axes, (left + width / 2 - 0.5, top + height / 2 - 0.5), field.side)
    axes.set(xlim=(-0.5, len(pixels) - 0.5), ylim=(len(pixels) - 0.5, -0.5))


def _square(axes: Axes, middle: tuple[float, float], side: int) -> None:
    """The arithmetic's square, on a light ground so that it is seen on any image."""
    from matplotlib.patches import Rectangle

    corner = (middle[0] - side / 2, middle[1] - side / 2)
    for colour, width, style in ((WHITE, 2.4, "-"), (ORANGE, 1.3, "--")):
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width, linestyle=style))
