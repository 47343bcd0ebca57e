"""How much of an image one unit of each layer sees, by arithmetic and by gradient, drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.decode import ImageRefusedError, read_pixels
from alexnet.inference.fields import reach
from alexnet.model.network import LinearLayer
from alexnet.model.summary import Layer, summarise
from alexnet.model.variants import build, get_variant
from alexnet.visualize.canvas import ORANGE, Picture, bare, new_figure, show_image

WHITE = "#FFFFFF"


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


def show_fields(variant: str, image: bytes) -> Picture:
    """Of a variant by its name, on an image file's contents: all convolutions and the last pool.

    The network is built for an image so large that no field reaches beyond it. Raises ``UserError`` for an unknown name
    or an image that cannot be read.
    """
    row = get_variant(variant)
    slim = None if row.architecture is None else replace(row.architecture, hidden=(LinearLayer(8), LinearLayer(8)))
    own = build(variant, slim, 2, 1, None, device="meta")
    sides = {layer.name: layer for layer in summarise(own).layers if layer.receptive_field and _has_window(layer)}
    largest = max(layer.receptive_field or 0 for layer in sides.values())
    network = build(variant, slim, 2, 1, own.image_size + 2 * largest, device="cpu")
    network.initialise(seed=0)
    last_pool = [name for name, layer in sides.items() if layer.kind.endswith("pool")][-1:]
    shown = [name for name, layer in sides.items() if not layer.kind.endswith("pool")] + last_pool
    fields = [Field(name, sides[name].receptive_field or 0, reach(network, name).numpy()) for name in shown]
    window = largest + largest // 4
    cropped = [replace(field, reach=_middle(field.reach, window)) for field in fields]
    title = (
        f"{variant}: what the middle unit of each layer sees (bright: by many paths; dashed: the arithmetic's square)"
    )
    return draw_fields(_pixels(image, window), cropped, title)


def _has_window(layer: Layer) -> bool:
    return layer.kind in ("convolution", "locally connected") or layer.kind.endswith("pool")


def _middle(reached: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A square of it about the middle of what is reached."""
    rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
    top, left = ((int(found[0]) + int(found[-1]) + 1 - side) // 2 for found in (rows, columns))
    return reached[top : top + side, left : left + side]


def _pixels(image: bytes, side: int) -> NDArray[np.uint8]:
    try:
        return read_pixels(image, side, 3)
    except ImageRefusedError as error:
        raise UserError(f"the image: {error}") from error


def draw_fields(pixels: NDArray[np.uint8], fields: Sequence[Field], title: str) -> Picture:
    """A panel for each layer: the image, what moves its middle unit, and the square that arithmetic gives.

    ``pixels`` ``(S, S, C)``, of the side that the fields were measured on.
    """
    across = min(4, len(fields))
    down = -(-len(fields) // across)
    figure = new_figure(2.9 * across, 0.7 + 3.2 * down, title)
    places = figure.subplots(down, across, squeeze=False).flatten()
    for axes in places[len(fields) :]:
        axes.set_visible(False)
    said = {}
    for axes, field in zip(places, fields, strict=False):
        top, left, height, width = field.box
        show_image(axes, pixels)
        strength = np.sqrt(field.reach / field.reach.max())
        axes.imshow(strength, cmap="viridis", vmin=0, vmax=1, alpha=np.where(field.reach > 0, 0.65, 0.0))
        middle = (left + width / 2 - 0.5, top + height / 2 - 0.5)
        _square(axes, middle, field.side)
        axes.set(xlim=(-0.5, len(pixels) - 0.5), ylim=(len(pixels) - 0.5, -0.5))
        axes.set_title(f"{field.layer}\narithmetic {field.side}, gradient {height} × {width} pixels", fontsize=9)
        said[field.layer] = {"arithmetic": field.side, "gradient": [height, width]}
    for axes in places:
        bare(axes)
    words = ", ".join(f"{name} {sides['arithmetic']} pixels" for name, sides in said.items())
    return Picture(figure, f"{title}: the side of what one unit sees: {words}", said)


def _square(axes: object, middle: tuple[float, float], side: int) -> None:
    """The arithmetic's square, on a light ground so that it is seen on any image."""
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(axes, Axes)
    corner = (middle[0] - side / 2, middle[1] - side / 2)
    for colour, width, style in ((WHITE, 2.4, "-"), (ORANGE, 1.3, "--")):
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width, linestyle=style))
