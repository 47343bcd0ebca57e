"""A network as the paper's figure 2 draws it: a block for each layer, a column for each card, windows between them.

Blocks are drawn from the network's own layers. Sides and depths grow with a root of what they stand for, for 3 maps of
224 pixels and 4096 units do not fit one sheet to scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alexnet.models.classifier import POOLS, Classifier
from alexnet.models.layers import AdaptiveAvgPool, LocallyConnected, LocalResponseNorm, WithinChannelLRN
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import summarize
from alexnet.plots.canvas import BLUE, GREY, ORANGE, PHONE, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SKEW = np.array([0.34, 0.30])  # where a step of one pixel into the depth of the sheet goes
ROW = 3.3  # between columns
TALLEST = 2.8  # the input, from its foot to its back
LARGEST_ON_PHONES = 0.65  # inches of one of these units
CAPTION_ON_PHONES = 1.65  # inches
Point = tuple[float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """A block: the input, or a layer with weights and what follows it.

    ``shape`` ``(maps, side, side)`` or ``(units,)``; ``kernel`` and ``stride`` 0 where it sees everything; ``joined``:
    whether both columns feed it; ``ops``: what follows, with the side of the map after a pool.
    """

    name: str
    shape: tuple[int, ...]
    kernel: int = 0
    stride: int = 0
    joined: bool = True
    ops: tuple[str, ...] = ()


def stages(network: Classifier) -> list[Stage]:
    """The input and every layer with weights of its own to sum by, in order."""
    side = network.image_size
    found = [Stage("input", (network.in_channels, side, side))]
    modules = dict(network.named_modules())
    for name, shape in network.layer_shapes().items():
        layer = modules[name]
        if isinstance(layer, nn.Conv2d):
            found.append(Stage(name, shape, layer.kernel_size[0], layer.stride[0], layer.groups == 1))
        elif isinstance(layer, LocallyConnected):
            found.append(Stage(name, shape, layer.KERNEL, 1))
        elif isinstance(layer, nn.Linear):
            found.append(Stage(name, shape))
        else:
            last = found.pop()
            assert last.name != "input"
            word = f"{_word(layer)} → {shape[1]}" if isinstance(layer, POOLS) else _word(layer)
            found.append(Stage(last.name, last.shape, last.kernel, last.stride, last.joined, (*last.ops, word)))
    return [replace(stage, ops=(*stage.ops, *_dropped(network, stage.name))) for stage in found]


WORDS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", LocalResponseNorm: "norm", nn.BatchNorm2d: "norm",
    WithinChannelLRN: "within-channel norm", nn.MaxPool2d: "pool", nn.AvgPool2d: "pool", AdaptiveAvgPool: "average",
}  # fmt: skip


def _word(layer: nn.Module) -> str:
    return WORDS.get(type(layer), type(layer).__name__)


def _dropped(network: Classifier, name: str) -> list[str]:
    """Dropout, where a layer's output is its site."""
    site = "pool5" if name == "conv5" else name
    return [f"dropout {network.dropout_sites[site][1]:g}"] if site in network.dropout_sites else []


def show_architecture(variant: str) -> Picture:
    """A variant by its name, with its authors' classes and channels. Raises ``UserError`` for an unknown name."""
    row = get_variant(variant)
    network = build(variant, row.architecture, row.num_classes, row.in_channels, None, device="meta")
    return draw_architecture(network, variant)


def draw_architecture(network: Classifier, name: str) -> Picture:
    """The figure of a network as it is, whatever its size and classes."""
    parameters = summarize(network).parameters
    layers = stages(network)
    columns = 2 if any(not layer.joined for layer in layers) else 1
    title = f"{name}: {parameters:,} parameters"
    sizes = ", ".join(f"{layer.name} {' × '.join(map(str, layer.shape))}" for layer in layers)
    return Picture(
        _draw(layers, columns, title, LYING),
        f"{name} in {columns} column{'s' if columns > 1 else ''}, {parameters:,} parameters: {sizes}",
        {"columns": columns, "layers": {layer.name: list(layer.shape) for layer in layers}},
        lambda: _draw(layers, columns, title, _for_phones(columns)),
    )


@dataclass(frozen=True)
class Layout:
    """How the figure is laid on a sheet: ``turn`` takes its points ``(N, 2)``, as they lie from left to right, there.

    ``inches``: of a unit; ``captions``: room for them before the feet, and ``gap`` between blocks, in units;
    ``letters``: the captions' size in points.
    """

    turn: Callable[[Points], Points]
    inches: float
    captions: float
    gap: float
    letters: float


def _lying(points: Points) -> Points:
    """From left to right, as the paper has it."""
    return points


def _standing(points: Points) -> Points:
    """From top to bottom, the first column on the left and captions on the right."""
    return -points[:, ::-1]


LYING = Layout(_lying, inches=0.8, captions=2.0, gap=1.15, letters=9.0)


def _for_phones(columns: int) -> Layout:
    """Standing, as large as the width allows."""
    blocks = ROW * (columns - 1) + TALLEST
    inches = min(LARGEST_ON_PHONES, (PHONE - CAPTION_ON_PHONES) / blocks)
    return Layout(_standing, inches, captions=PHONE / inches - blocks, gap=0.9 / inches, letters=8.5)


@dataclass(frozen=True)
class Sheet:
    """What is drawn on."""

    axes: Axes
    layout: Layout

    def place(self, *points: Sequence[float] | Points) -> Points:
        """Where points of the lying figure are: ``(N, 2)``."""
        return self.layout.turn(np.array(points, float))


def _draw(layers: Sequence[Stage], columns: int, title: str, layout: Layout) -> Figure:
    """The whole figure."""
    starts = _starts(layers, columns, layout.gap)
    extent = [[-0.4, -layout.captions], [starts[-1] + 1.2, _top(layers, columns)]]
    low, high = np.sort(layout.turn(np.array(extent)), axis=0)
    width, height = layout.inches * (high - low)
    figure = new_figure(width, height + 0.5, title)
    sheet = Sheet(figure.add_subplot(), layout)
    for number, layer in enumerate(layers):
        rows = _divided(number, layers, columns)
        for row in range(rows):
            y = _row(row, rows, columns)
            if number:
                _windows(
                    sheet, layers[number - 1], starts[number - 1], layer, (starts[number], y), columns, number == 1
                )
            _block(sheet, layer, (starts[number], y), rows)
        _caption(sheet, layer, starts[number])
    sheet.axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    sheet.axes.axis("off")
    return figure


def _top(layers: Sequence[Stage], columns: int) -> float:
    """The height of what stands highest, with a little air."""
    tops = []
    for number, layer in enumerate(layers):
        rows = _divided(number, layers, columns)
        side = _size(layer, rows)[1]
        back = float(SKEW[1]) * (side if len(layer.shape) == 3 else 0.3)
        tops.append(_row(0, rows, columns) + side + back)
    return max(tops) + 0.15


def _divided(number: int, layers: Sequence[Stage], columns: int) -> int:
    """Into how many blocks a layer falls: neither the input nor the output is divided."""
    return columns if 0 < number < len(layers) - 1 else 1


def _row(row: int, rows: int, columns: int) -> float:
    """The height of a block's foot: of two columns the first is above; what is not divided stands in the middle."""
    return ROW * (columns - 1) / 2 if rows < columns else ROW * (columns - 1 - row)


def _size(layer: Stage, rows: int) -> tuple[float, float]:
    """Depth along the sheet and side of a block, of the column's share of the layer."""
    if len(layer.shape) == 1:
        return 0.22, 0.45 + 0.09 * (layer.shape[0] / rows) ** 0.36
    maps, side, _ = layer.shape
    return 0.07 * (maps / rows) ** 0.5, 0.17 * side**0.46


def _starts(layers: Sequence[Stage], columns: int, gap: float) -> list[float]:
    """Where each block begins, from left to right."""
    starts, x = [], 0.0
    for number, layer in enumerate(layers):
        depth, side = _size(layer, columns if number else 1)
        starts.append(x)
        x += depth + (SKEW[0] * side if len(layer.shape) == 3 else 0.3) + gap
    return starts


def _block(sheet: Sheet, layer: Stage, foot: Point, rows: int) -> None:
    """A box whose length is the maps and whose other sides are the map's."""
    depth, side = _size(layer, rows)
    back = SKEW * (side if len(layer.shape) == 3 else 0.3)
    a = np.array(foot)
    along, up = np.array([depth, 0.0]), np.array([0.0, side])
    faces = {
        "#DCE9F3": [a, a + along, a + along + up, a + up],
        "#F1F6FA": [a + up, a + along + up, a + along + up + back, a + up + back],
        "#BBD3E6": [a + along, a + along + back, a + along + up + back, a + along + up],
    }
    for colour, corners in faces.items():
        sheet.axes.fill(*sheet.place(*corners).T, facecolor=colour, edgecolor=BLUE, linewidth=0.9, zorder=2)


def _windows(sheet: Sheet, before: Stage, start: float, layer: Stage, foot: Point, columns: int, first: bool) -> None:
    """The window that one unit looks through, on the end of each block that feeds it, and its rays to the unit."""
    unit = np.array(foot) + np.array([0.0, _size(layer, columns)[1] * 0.55])
    rows = 1 if first else columns
    for row in range(rows):
        y = _row(row, rows, columns)
        if not first and not layer.joined and abs(y - foot[1]) > 1e-9:
            continue
        long, tall = _size(before, rows)
        corner = np.array([start + long, y])
        if len(before.shape) == 3 and layer.kernel:
            share = min(1.0, layer.kernel / before.shape[1]) ** 0.6
            low = corner + SKEW * tall * (0.5 - share / 2) + [0.0, tall * (0.5 - share / 2)]
            across, up = SKEW * tall * share, np.array([0.0, tall * share])
            corners = [low, low + across, low + across + up, low + up]
            sheet.axes.fill(*sheet.place(*corners).T, facecolor="none", edgecolor=ORANGE, linewidth=1.0, zorder=3)
        else:
            back = SKEW * (tall if len(before.shape) == 3 else 0.3)
            corners = [corner + back / 2, corner + back / 2 + [0.0, tall]]
        for point in corners:
            sheet.axes.plot(*sheet.place(point, unit).T, color=ORANGE, linewidth=0.5, alpha=0.8, zorder=3)


def _caption(sheet: Sheet, layer: Stage, x: float) -> None:
    """Name, shape, window, and what follows, before the feet of the lowest column."""
    shape = " × ".join(map(str, layer.shape))
    lines = [shape]
    if layer.kernel:
        lines.append(f"{layer.kernel} × {layer.kernel}" + (f", stride {layer.stride}" if layer.stride > 1 else ""))
        lines[-1] += "" if layer.joined else ", in column"
    place = tuple(sheet.place((x, -0.3))[0])
    sheet.axes.text(place[0], place[1], layer.name, fontsize=sheet.layout.letters + 2, fontweight="bold", va="top")
    sheet.axes.annotate(
        "\n".join([*lines, *layer.ops]), place, (0, -6 - sheet.layout.letters),
        textcoords="offset points", va="top", color=GREY,
        fontsize=sheet.layout.letters, linespacing=1.35,
    )  # fmt: skip
