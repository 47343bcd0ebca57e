"""First-layer kernels, column by column, as in the paper's figure 3, and how coloured and oriented each column's are.

Of a network of two columns the first half of conv1's kernels is one column's. A network of one column is cut in the
same halves, as the control: what its halves differ by is what chance does.
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
from alexnet.models.classifier import Classifier
from alexnet.plots.canvas import BLUE, ORANGE, PHONE, Picture, bare, new_figure, shortened, tiles, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

BINS = 12
COLUMN_COLOURS = (BLUE, ORANGE)
SCALES = {"colour": "0 grey … 1 no grey in it", "orientation": "0 none … 1 one direction"}


def first_kernels(network: Classifier) -> Tensor:
    """conv1's kernels ``(N, C, k, k)`` fp32. Raises ``UserError`` where channels are neither grey nor R, G, B."""
    conv = network.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    kernels = conv.weight.detach().float().cpu()
    if kernels.shape[1] not in (1, 3):
        raise UserError(f"kernels of {kernels.shape[1]} channels cannot be shown as colours")
    return kernels


def columns_of(network: Classifier) -> int:
    """2 where conv2 is divided, so that conv1's halves belong to two columns, else 1."""
    conv = network.get_submodule("conv2")
    return conv.groups if isinstance(conv, nn.Conv2d) else 1


def draw_filters(networks: Mapping[str, Classifier]) -> Picture:
    """A row for each network, by its name: its kernels in two halves, and the halves' distributions."""
    measured = {name: _of(name, network) for name, network in networks.items()}
    if all(each.columns == 2 for each in measured.values()):
        measured |= {f"{name}, dealt at random": _dealt(each) for name, each in measured.items()}
    return Picture(
        _networks(measured, BESIDE),
        "; ".join(_in_words(name, kernels) for name, kernels in measured.items()),
        {name: kernels.figures for name, kernels in measured.items()},
        lambda: _networks(measured, BELOW),
    )


@dataclass(frozen=True, eq=False)
class Kernels:
    """A network's first ``kernels`` ``(N, C, k, k)`` in so many ``columns``, and what is measured of them, once.

    ``name``: the network's; ``kind``: what its halves are, in words.
    """

    name: str
    kernels: Tensor
    columns: int
    kind: str

    @functools.cached_property
    def indices(self) -> dict[str, Tensor]:
        """What is asked of each kernel: colour only where there is any."""
        colour = {"colour": colour_index(self.kernels)} if self.kernels.shape[1] == 3 else {}
        return {**colour, "orientation": orientation_index(self.kernels)}

    @functools.cached_property
    def figures(self) -> dict[str, Any]:
        """How many there are, and of each index its mean in both halves and whether these differ."""
        found: dict[str, Any] = {"kernels": len(self.kernels), "columns": self.columns}
        for what, index in self.indices.items():
            first, second, p = column_difference(index)
            found[what] = {"first": first, "second": second, "p": p}
        return found


def _of(name: str, network: Classifier) -> Kernels:
    columns = columns_of(network)
    kind = "two columns" if columns == 2 else "one column, its halves as a control"
    return Kernels(name, first_kernels(network), columns, kind)


def _dealt(measured: Kernels) -> Kernels:
    """The same kernels in another order: halves that no card has made, the control where there is no other."""
    order = torch.randperm(len(measured.kernels), generator=torch.Generator().manual_seed(0))
    return Kernels(measured.name, measured.kernels[order], 1, "dealt at random, as a control")


@dataclass(frozen=True)
class Layout:
    """How a network's part of the figure is laid out.

    ``across``: tiles in a row of a half; ``inches``: rows of tiles → the part's height, for tiles as wide as they are
    high; ``places``: the axes of both halves and of so many distributions.
    """

    width: float
    across: int
    inches: Callable[[int], float]
    places: Callable[[SubFigure, int], Sequence[Axes]]


def _places_beside(part: SubFigure, distributions: int) -> Sequence[Axes]:
    return list(part.subplots(1, 2 + distributions, width_ratios=[1.5, 1.5, *[1] * distributions]))


def _places_below(part: SubFigure, distributions: int) -> Sequence[Axes]:
    halves, below = part.subfigures(2, 1, squeeze=False, height_ratios=[1.25, 1])[:, 0]
    return [*halves.subplots(2, 1), *below.subplots(1, distributions, squeeze=False)[0]]


BESIDE = Layout(11, 8, lambda rows: max(2.8, 0.42 * rows + 1.0), _places_beside)
BELOW = Layout(PHONE, 12, lambda rows: 0.8 * rows + 4.2, _places_below)


def _networks(shown: Mapping[str, Kernels], layout: Layout) -> Figure:
    """A part for each network, below each other."""
    heights = [layout.inches(math.ceil(len(each.kernels) / 2 / layout.across)) for each in shown.values()]
    figure = new_figure(layout.width, max(3.2, sum(heights)))
    parts = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)
    for part, each in zip(parts[:, 0], shown.values(), strict=True):
        _draw_network(part, each, layout)
    return figure


def _draw_network(part: SubFigure, measured: Kernels, layout: Layout) -> None:
    kernels, indices, half = measured.kernels, measured.indices, len(measured.kernels) // 2
    size = f"{len(kernels)} kernels of {kernels.shape[2]} × {kernels.shape[3]}"
    part.suptitle(wrapped(f"{shortened(measured.name, 48)}: {size}, {measured.kind}", layout.width))
    names = [f"column {number}" if measured.columns == 2 else f"half {number}" for number in (1, 2)]
    first, second, *rest = layout.places(part, len(indices))
    for place, some, name in zip((first, second), (kernels[:half], kernels[half:]), names, strict=True):
        sheet = tiles(as_tiles(some), layout.across)
        bare(place).imshow(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=1)
        place.set_title(name, fontsize=10)
    for place, (what, index) in zip(rest, indices.items(), strict=True):
        _draw_distribution(place, what, index, measured.figures[what], names)


def _draw_distribution(axes: Any, what: str, index: Tensor, found: Mapping[str, float], halves: Sequence[str]) -> None:
    """The index's histogram in each half, and whether they differ."""
    half = len(index) // 2
    for some, colour, name in zip((index[:half], index[half:]), COLUMN_COLOURS, halves, strict=True):
        style = {"histtype": "stepfilled", "alpha": 0.45, "edgecolor": colour, "linewidth": 1.5}
        axes.hist(some.numpy(), bins=np.linspace(0, 1, BINS + 1), color=colour, label=name, **style)
    title = f"{what} index\nmeans {found['first']:.2f}, {found['second']:.2f}\npermutation test: p = {found['p']:.2g}"
    axes.set_title(title, fontsize=8)
    room = 1.25 * axes.get_ylim()[1]  # above the bars, for the legend
    axes.set(xlabel=SCALES[what], ylabel="kernels", xlim=(0, 1), ylim=(0, room))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5, loc="upper center", ncols=2, columnspacing=0.6, handlelength=1)


def as_tiles(kernels: Tensor) -> NDArray[np.float64]:
    """Kernels ``(N, C, k, k)`` as pictures ``(N, k, k, C)``, 0 … 1, each stretched about its zero, mid-grey."""
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (0.5 + 0.5 * kernels / largest).permute(0, 2, 3, 1).double().numpy()


def _in_words(name: str, kernels: Kernels) -> str:
    found = kernels.figures
    halves = "columns" if kernels.columns == 2 else "halves of one column"
    differ = [
        f"{what} index {found[what]['first']:.2f} and {found[what]['second']:.2f} (p = {found[what]['p']:.2g})"
        for what in kernels.indices
    ]
    return f"{name}: {len(kernels.kernels)} first-layer kernels in two {halves}; {', '.join(differ)}"
