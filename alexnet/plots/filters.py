"""First-layer filters by column, as in figure 3 of the paper, with their colour and orientation indices.

In a network with two columns, the first half of conv1's filters belongs to the first column. A network with one column
is split into the same halves as a control: a difference between its halves is due to chance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.analysis.filters import colour_index, column_difference, orientation_index
from alexnet.core.errors import UserError
from alexnet.metrics.measures import MEASURES
from alexnet.models.classifier import Classifier
from alexnet.plots.canvas import BLUE, NARROW_WIDTH, ORANGE, Picture, hide_axes, new_figure, shorten, tiles, wrap
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.run_names import distinct_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BINS = 12
COLUMN_COLOURS = (BLUE, ORANGE)
SCALES = {"colour": "0: grey … 1: only colour", "orientation": "0: none … 1: one orientation"}


def first_kernels(network: Classifier) -> Tensor:
    """conv1's kernels ``(N, C, k, k)`` fp32. Raises ``UserError`` unless the images are grey or RGB."""
    conv = network.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    kernels = conv.weight.detach().float().cpu()
    if kernels.shape[1] not in (1, 3):
        raise UserError(f"filters with {kernels.shape[1]} channels cannot be shown as colours: they need 1 or 3")
    return kernels


def columns_of(network: Classifier) -> int:
    """The number of columns: conv2's groups (2 for the paper's network), else 1."""
    conv = network.get_submodule("conv2")
    return conv.groups if isinstance(conv, nn.Conv2d) else 1


def plot_filters(networks: Mapping[str, Classifier]) -> Picture:
    """A row for each network: its filters in two halves, and a histogram of each index for both halves.

    ``networks``: name → network. If all networks have two columns, each gets a second row as a control, with its
    filters assigned to the halves at random. Raises ``UserError`` unless the images are grey or RGB.
    """
    measured = {name: _measure(name, network) for name, network in networks.items()}
    if all(each.columns == 2 for each in measured.values()):
        measured |= {f"{name}, shuffled": _shuffled(each) for name, each in measured.items()}
    return Picture(
        _networks(measured, WIDE),
        "; ".join(_caption(name, kernels) for name, kernels in measured.items()),
        {name: kernels.values for name, kernels in measured.items()},
        lambda: _networks(measured, NARROW),
    )


@dataclass(frozen=True, eq=False)
class Kernels:
    """The first-layer ``kernels`` ``(N, C, k, k)`` of a network, and their indices.

    ``columns``: of the network; ``kind``: what the two halves are, in words.
    """

    name: str
    kernels: Tensor
    columns: int
    kind: str

    @functools.cached_property
    def indices(self) -> dict[str, Tensor]:
        """Index → its value for each kernel; the colour index for RGB only."""
        colour = {"colour": colour_index(self.kernels)} if self.kernels.shape[1] == 3 else {}
        return {**colour, "orientation": orientation_index(self.kernels)}

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """The number of kernels and columns; for each index the means of both halves and the p-value of their
        difference.
        """
        found: dict[str, Any] = {"kernels": len(self.kernels), "columns": self.columns}
        for what, index in self.indices.items():
            first, second, p = column_difference(index)
            found[what] = {"first": first, "second": second, "p": p}
        return found


def _measure(name: str, network: Classifier) -> Kernels:
    columns = columns_of(network)
    kind = "two columns" if columns == 2 else "one column, split into halves as a control"
    return Kernels(name, first_kernels(network), columns, kind)


def _shuffled(measured: Kernels) -> Kernels:
    """The same kernels in random order: a control, since its halves differ by chance only."""
    order = torch.randperm(len(measured.kernels), generator=torch.Generator().manual_seed(0))
    return Kernels(measured.name, measured.kernels[order], 1, "assigned to halves at random, as a control")


@dataclass(frozen=True)
class Layout:
    """The layout of one network's part of the figure.

    ``width``: inches. ``across``: filters in a row. ``inches``: rows of filters → the part's height, for square
    filters. ``places``: makes the axes of both halves and of the histograms, whose number it receives.
    """

    width: float
    across: int
    inches: Callable[[int], float]
    places: Callable[[SubFigure, int], Sequence[Axes]]


def _wide_axes(part: SubFigure, histograms: int) -> Sequence[Axes]:
    return list(part.subplots(1, 2 + histograms, width_ratios=[1.5, 1.5, *[1] * histograms]))


def _narrow_axes(part: SubFigure, histograms: int) -> Sequence[Axes]:
    halves, below = part.subfigures(2, 1, squeeze=False, height_ratios=[1.25, 1])[:, 0]
    return [*halves.subplots(2, 1), *below.subplots(1, histograms, squeeze=False)[0]]


WIDE = Layout(11, 8, lambda rows: max(2.8, 0.42 * rows + 1.0), _wide_axes)
NARROW = Layout(NARROW_WIDTH, 12, lambda rows: 0.8 * rows + 4.2, _narrow_axes)


def _networks(shown: Mapping[str, Kernels], layout: Layout) -> Figure:
    """The whole figure: a part for each network, one below the other."""
    heights = [layout.inches(math.ceil(len(each.kernels) / 2 / layout.across)) for each in shown.values()]
    figure = new_figure(layout.width, max(3.2, sum(heights)))
    parts = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)
    for part, each in zip(parts[:, 0], shown.values(), strict=True):
        _plot_network(part, each, layout)
    return figure


def _plot_network(part: SubFigure, measured: Kernels, layout: Layout) -> None:
    kernels, indices, half = measured.kernels, measured.indices, len(measured.kernels) // 2
    size = f"{len(kernels)} filters, {kernels.shape[2]} × {kernels.shape[3]}"
    part.suptitle(wrap(f"{shorten(measured.name, 48)}: {size}, {measured.kind}", layout.width))
    names = [f"column {number}" if measured.columns == 2 else f"half {number}" for number in (1, 2)]
    first, second, *rest = layout.places(part, len(indices))
    for place, some, name in zip((first, second), (kernels[:half], kernels[half:]), names, strict=True):
        sheet = tiles(as_tiles(some), layout.across)
        hide_axes(place).imshow(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=1)
        place.set_title(name, fontsize=10)
    for place, (what, index) in zip(rest, indices.items(), strict=True):
        _plot_histogram(place, what, index, measured.values[what], names)


def _plot_histogram(axes: Any, what: str, index: Tensor, found: Mapping[str, float], halves: Sequence[str]) -> None:
    """The histogram of an index for each half, and the test of their difference."""
    half = len(index) // 2
    for some, colour, name in zip((index[:half], index[half:]), COLUMN_COLOURS, halves, strict=True):
        style = {"histtype": "stepfilled", "alpha": 0.45, "edgecolor": colour, "linewidth": 1.5}
        axes.hist(some.numpy(), bins=np.linspace(0, 1, BINS + 1), color=colour, label=name, **style)
    title = f"{what} index\nmeans {found['first']:.2f}, {found['second']:.2f}\npermutation test: p = {found['p']:.2g}"
    axes.set_title(title, fontsize=8)
    top = 1.25 * axes.get_ylim()[1]  # room for the legend above the bars
    axes.set(xlabel=SCALES[what], ylabel="filters", xlim=(0, 1), ylim=(0, top))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5, loc="upper center", ncols=2, columnspacing=0.6, handlelength=1)


def as_tiles(kernels: Tensor) -> NDArray[np.float64]:
    """Kernels ``(N, C, k, k)`` as images ``(N, k, k, C)``, 0 … 1: zero is mid-grey, each kernel has its own scale."""
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (0.5 + 0.5 * kernels / largest).permute(0, 2, 3, 1).double().numpy()


def _caption(name: str, kernels: Kernels) -> str:
    found = kernels.values
    halves = "columns" if kernels.columns == 2 else "halves of one column"
    differ = [
        f"{what} index {found[what]['first']:.2f} and {found[what]['second']:.2f} (p = {found[what]['p']:.2g})"
        for what in kernels.indices
    ]
    return f"{name}: {len(kernels.kernels)} first-layer filters in two {halves}; mean {', '.join(differ)}"


def _compose(inputs: PlotInputs) -> Picture:
    return plot_filters({name: inputs.load(run) for run, name in distinct_names(inputs.targets).items()})


def _compose_for_report(finished: FinishedRun) -> Picture:
    return plot_filters({finished.name: finished.predictor.model})


PLOT = Plot(
    compose=_compose, several_runs=True, tasks=tuple(MEASURES),
    report=ReportFigure("First-layer filters", _compose_for_report),
)  # fmt: skip
