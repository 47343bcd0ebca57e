"""A network as blocks, as in figure 2 of the paper: a block for each layer, a row for each column, windows between
them.

Blocks are made from the network's own layers. Their sizes grow with a root of the layer's sizes, because 3 maps of 224
pixels and 4096 units do not fit into one figure to scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alexnet.models.classifier import POOLS, Classifier
from alexnet.models.layers import AdaptiveAvgPool, Dropout, LocallyConnected, LocalResponseNorm, WithinChannelLRN
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import summarize
from alexnet.plots.canvas import BLUE, GREY, NARROW_WIDTH, ORANGE, Picture, new_figure
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SKEW = np.array([0.34, 0.30])  # the step in the plane for a step of 1 into the depth
ROW = 3.3  # distance between the rows of two columns
TALLEST = 2.8  # height of the input's block
LARGEST_NARROW = 0.65  # inches per unit, at most, in the narrow figure
CAPTION_NARROW = 1.65  # inches for captions in the narrow figure
Point = tuple[float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """A block: the input, or a convolution or linear layer with the operations after it.

    ``shape``: ``(maps, side, side)`` or ``(units,)``. ``kernel`` and ``stride``: 0 for the input and for a linear
    layer. ``joined``: whether it reads the outputs of both columns. ``ops``: the operations after it; a pool with its
    output side.
    """

    name: str
    shape: tuple[int, ...]
    kernel: int = 0
    stride: int = 0
    joined: bool = True
    ops: tuple[str, ...] = ()


def network_blocks(network: Classifier) -> list[Block]:
    """The input, then each convolution and linear layer in forward order."""
    side = network.image_size
    found = [Block("input", (network.in_channels, side, side))]
    shapes = network.layer_shapes()
    for name, layer in network.named_children():
        shape = shapes.get(name, found[-1].shape)
        if isinstance(layer, nn.Conv2d):
            found.append(Block(name, shape, layer.kernel_size[0], layer.stride[0], layer.groups == 1))
        elif isinstance(layer, LocallyConnected):
            found.append(Block(name, shape, layer.KERNEL, 1))
        elif isinstance(layer, nn.Linear):
            found.append(Block(name, shape))
        elif not isinstance(layer, nn.Flatten):
            found[-1] = replace(found[-1], ops=(*found[-1].ops, _operation(layer, shape)))
    return found


OPERATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", LocalResponseNorm: "LRN", nn.BatchNorm2d: "batch norm",
    WithinChannelLRN: "within-channel LRN", nn.MaxPool2d: "pool", nn.AvgPool2d: "pool", AdaptiveAvgPool: "average",
}  # fmt: skip


def _operation(layer: nn.Module, shape: tuple[int, ...]) -> str:
    """An operation in a caption, with the output side of a pool and the probability of dropout."""
    if isinstance(layer, Dropout):
        return f"dropout {layer.p:g}"
    name = OPERATIONS.get(type(layer), type(layer).__name__)
    return f"{name} → {shape[1]}" if isinstance(layer, POOLS) else name


def compose_architecture(variant: str) -> Picture:
    """A variant by name, with the classes and channels of its authors. Raises ``UserError`` for an unknown name."""
    row = get_variant(variant)
    network = build(variant, row.architecture, row.num_classes, row.in_channels, None, device="meta")
    return plot_architecture(network, variant)


def plot_architecture(network: Classifier, name: str) -> Picture:
    """The figure of any network; ``name``: for the title."""
    parameters = summarize(network).parameters
    layers = network_blocks(network)
    columns = 2 if any(not layer.joined for layer in layers) else 1
    title = f"{name}: {parameters:,} parameters"
    sizes = ", ".join(f"{layer.name} {' × '.join(map(str, layer.shape))}" for layer in layers)
    return Picture(
        _plot_blocks(layers, columns, title, WIDE),
        f"{name}, {columns} column{'s' if columns > 1 else ''}, {parameters:,} parameters: {sizes}",
        {"columns": columns, "layers": {layer.name: list(layer.shape) for layer in layers}},
        lambda: _plot_blocks(layers, columns, title, _narrow_layout(columns)),
    )


@dataclass(frozen=True)
class Layout:
    """The layout of the figure. ``turn``: maps points ``(N, 2)`` of the left-to-right figure to this layout.

    ``inches``: per unit. ``captions``: space for captions, and ``gap``: between blocks, both in units. ``letters``:
    font size of captions in points.
    """

    turn: Callable[[Points], Points]
    inches: float
    captions: float
    gap: float
    letters: float


def _left_to_right(points: Points) -> Points:
    """From left to right, as in the paper."""
    return points


def _top_to_bottom(points: Points) -> Points:
    """From top to bottom, with the first column on the left and captions on the right."""
    return -points[:, ::-1]


WIDE = Layout(_left_to_right, inches=0.8, captions=2.0, gap=1.15, letters=9.0)


def _narrow_layout(columns: int) -> Layout:
    """From top to bottom, as large as the width allows."""
    blocks = ROW * (columns - 1) + TALLEST
    inches = min(LARGEST_NARROW, (NARROW_WIDTH - CAPTION_NARROW) / blocks)
    return Layout(_top_to_bottom, inches, captions=NARROW_WIDTH / inches - blocks, gap=0.9 / inches, letters=8.5)


@dataclass(frozen=True)
class Canvas:
    """The axes, and the layout that points are mapped to."""

    axes: Axes
    layout: Layout

    def place(self, *points: Sequence[float] | Points) -> Points:
        """Points of the left-to-right figure in this layout: ``(N, 2)``."""
        return self.layout.turn(np.array(points, float))


def _plot_blocks(layers: Sequence[Block], columns: int, title: str, layout: Layout) -> Figure:
    """The whole figure."""
    starts = _starts(layers, columns, layout.gap)
    extent = [[-0.4, -layout.captions], [starts[-1] + 1.2, _top(layers, columns)]]
    low, high = np.sort(layout.turn(np.array(extent)), axis=0)
    width, height = layout.inches * (high - low)
    figure = new_figure(width, height + 0.5, title)
    canvas = Canvas(figure.add_subplot(), layout)
    for number, layer in enumerate(layers):
        rows = _divided(number, layers, columns)
        for row in range(rows):
            y = _foot(row, rows, columns)
            if number:
                _windows(
                    canvas, layers[number - 1], starts[number - 1], layer, (starts[number], y), columns, number == 1
                )
            _block(canvas, layer, (starts[number], y), rows)
        _caption(canvas, layer, starts[number])
    canvas.axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    canvas.axes.axis("off")
    return figure


def _top(layers: Sequence[Block], columns: int) -> float:
    """The height of the highest block, with a margin."""
    tops = []
    for number, layer in enumerate(layers):
        rows = _divided(number, layers, columns)
        side = _block_size(layer, rows)[1]
        back = float(SKEW[1]) * (side if len(layer.shape) == 3 else 0.3)
        tops.append(_foot(0, rows, columns) + side + back)
    return max(tops) + 0.15


def _divided(number: int, layers: Sequence[Block], columns: int) -> int:
    """How many blocks a layer has: one per column; the input and the output have one."""
    return columns if 0 < number < len(layers) - 1 else 1


def _foot(row: int, rows: int, columns: int) -> float:
    """The height of a block's lower edge: the first column is above, and an undivided layer is in the middle."""
    return ROW * (columns - 1) / 2 if rows < columns else ROW * (columns - 1 - row)


def _block_size(layer: Block, rows: int) -> tuple[float, float]:
    """Depth and side of a block for one of ``rows`` equal parts of a layer."""
    if len(layer.shape) == 1:
        return 0.22, 0.45 + 0.09 * (layer.shape[0] / rows) ** 0.36
    maps, side, _ = layer.shape
    return 0.07 * (maps / rows) ** 0.5, 0.17 * side**0.46


def _starts(layers: Sequence[Block], columns: int, gap: float) -> list[float]:
    """The left edge of each block."""
    starts, x = [], 0.0
    for number, layer in enumerate(layers):
        depth, side = _block_size(layer, columns if number else 1)
        starts.append(x)
        x += depth + (SKEW[0] * side if len(layer.shape) == 3 else 0.3) + gap
    return starts


def _block(canvas: Canvas, layer: Block, foot: Point, rows: int) -> None:
    """A box: its length stands for the number of maps, its other sides for the side of a map."""
    depth, side = _block_size(layer, rows)
    back = SKEW * (side if len(layer.shape) == 3 else 0.3)
    a = np.array(foot)
    along, up = np.array([depth, 0.0]), np.array([0.0, side])
    faces = {
        "#DCE9F3": [a, a + along, a + along + up, a + up],
        "#F1F6FA": [a + up, a + along + up, a + along + up + back, a + up + back],
        "#BBD3E6": [a + along, a + along + back, a + along + up + back, a + along + up],
    }
    for colour, corners in faces.items():
        canvas.axes.fill(*canvas.place(*corners).T, facecolor=colour, edgecolor=BLUE, linewidth=0.9, zorder=2)


def _windows(canvas: Canvas, before: Block, start: float, layer: Block, foot: Point, columns: int, first: bool) -> None:
    """The kernel's window on each block that a layer reads, with lines from its corners to one unit of the layer."""
    unit = np.array(foot) + np.array([0.0, _block_size(layer, columns)[1] * 0.55])
    rows = 1 if first else columns
    for row in range(rows):
        y = _foot(row, rows, columns)
        if not first and not layer.joined and abs(y - foot[1]) > 1e-9:
            continue
        long, tall = _block_size(before, rows)
        corner = np.array([start + long, y])
        if len(before.shape) == 3 and layer.kernel:
            share = min(1.0, layer.kernel / before.shape[1]) ** 0.6
            low = corner + SKEW * tall * (0.5 - share / 2) + [0.0, tall * (0.5 - share / 2)]
            across, up = SKEW * tall * share, np.array([0.0, tall * share])
            corners = [low, low + across, low + across + up, low + up]
            canvas.axes.fill(*canvas.place(*corners).T, facecolor="none", edgecolor=ORANGE, linewidth=1.0, zorder=3)
        else:
            back = SKEW * (tall if len(before.shape) == 3 else 0.3)
            corners = [corner + back / 2, corner + back / 2 + [0.0, tall]]
        for point in corners:
            canvas.axes.plot(*canvas.place(point, unit).T, color=ORANGE, linewidth=0.5, alpha=0.8, zorder=3)


def _caption(canvas: Canvas, layer: Block, x: float) -> None:
    """Name, shape, kernel and operations, below the blocks."""
    shape = " × ".join(map(str, layer.shape))
    lines = [shape]
    if layer.kernel:
        lines.append(f"{layer.kernel} × {layer.kernel}" + (f", stride {layer.stride}" if layer.stride > 1 else ""))
        lines[-1] += "" if layer.joined else ", 2 groups"
    place = tuple(canvas.place((x, -0.3))[0])
    canvas.axes.text(place[0], place[1], layer.name, fontsize=canvas.layout.letters + 2, fontweight="bold", va="top")
    canvas.axes.annotate(
        "\n".join([*lines, *layer.ops]), place, (0, -6 - canvas.layout.letters),
        textcoords="offset points", va="top", color=GREY,
        fontsize=canvas.layout.letters, linespacing=1.35,
    )  # fmt: skip


def _compose(inputs: PlotInputs) -> Picture:
    """A variant as its authors built it, or the network of a run."""
    if inputs.is_name():
        return compose_architecture(inputs.target)
    model = inputs.load(inputs.target)
    return plot_architecture(model, f"{inputs.run_name} ({model.variant})")


def _compose_for_report(finished: FinishedRun) -> Picture:
    model = finished.predictor.model
    return plot_architecture(model, f"{finished.name} ({model.variant})")


PLOT = Plot(
    compose=_compose, target="variant or run", svg=True,
    report=ReportFigure("Network architecture", _compose_for_report),
)  # fmt: skip
