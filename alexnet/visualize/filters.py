"""First-layer kernels, column by column, as in the paper's figure 3, and how coloured and oriented each column's are.

Of a network of two columns the first half of conv1's kernels is one column's. A network of one column is cut in the
same halves, as the control: what its halves differ by is what chance does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.core.errors import UserError
from alexnet.model.kernels import colour_index, column_difference, orientation_index
from alexnet.model.network import Classifier
from alexnet.visualize.canvas import BLUE, ORANGE, PHONE, Picture, bare, new_figure, shortened, tiles, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

TILES_ACROSS = 8
ROWS_ON_PHONES = 2  # kernels above, distributions below
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
    shown = {name: (first_kernels(network), columns_of(network)) for name, network in networks.items()}
    if all(columns == 2 for _, columns in shown.values()):
        shown |= {f"{name}, dealt at random": (_dealt(kernels), 1) for name, (kernels, _) in shown.items()}
    measured = {name: Kernels(kernels, columns) for name, (kernels, columns) in shown.items()}
    return Picture(
        _networks(measured, 11, 1),
        "; ".join(_in_words(name, kernels) for name, kernels in measured.items()),
        {name: kernels.figures for name, kernels in measured.items()},
        lambda: _networks(measured, PHONE, ROWS_ON_PHONES),
    )


@dataclass(frozen=True, eq=False)
class Kernels:
    """A network's first ``kernels`` ``(N, C, k, k)`` in so many ``columns``, and what is measured of them, once."""

    kernels: Tensor
    columns: int

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


def _networks(shown: Mapping[str, Kernels], width: float, rows: int) -> Figure:
    """A part for each network, kernels and distributions beside each other or in two rows."""
    heights = [_height(each.kernels) * (1.55 if rows > 1 else 1) for each in shown.values()]
    figure = new_figure(width, max(3.2, sum(heights)))
    parts = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)
    for part, (name, each) in zip(parts[:, 0], shown.items(), strict=True):
        _draw_network(part, name, each, width, rows)
    return figure


def _dealt(kernels: Tensor) -> Tensor:
    """The same kernels in another order: halves that no card has made, the control where there is no other."""
    return kernels[torch.randperm(len(kernels), generator=torch.Generator().manual_seed(0))]


def _height(kernels: Tensor) -> float:
    """Inches for a network's row: its tiles stay as wide as they are high."""
    rows = -(-(len(kernels) // 2) // TILES_ACROSS)
    return max(2.8, 0.42 * rows + 1.0)


def _draw_network(part: SubFigure, name: str, measured: Kernels, width: float, rows: int) -> None:
    kernels, columns, indices = measured.kernels, measured.columns, measured.indices
    kind = "two columns" if columns == 2 else "one column, its halves as a control"
    title = f"{shortened(name, 48)}: {len(kernels)} kernels of {kernels.shape[2]} × {kernels.shape[3]}, {kind}"
    part.suptitle(wrapped(title, width))
    if rows > 1:
        axes = part.subplots(rows, 2).flatten()
        axes[-1].set_visible(len(indices) > 1)
    else:
        axes = part.subplots(1, 2 + len(indices), width_ratios=[1.5, 1.5, *[1] * len(indices)])
    half = len(kernels) // 2
    halves = [f"column {number}" if columns == 2 else f"half {number}" for number in (1, 2)]
    for place, some, title in zip(axes, (kernels[:half], kernels[half:]), halves, strict=False):
        sheet = tiles(as_tiles(some), TILES_ACROSS)
        bare(place).imshow(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=1)
        place.set_title(title, fontsize=10)
    for place, (what, index) in zip(axes[2:], indices.items(), strict=False):
        _draw_distribution(place, what, index, measured.figures[what], halves)


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
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=2, columnspacing=1, handlelength=1.2)


def as_tiles(kernels: Tensor) -> NDArray[np.float64]:
    """Kernels ``(N, C, k, k)`` as pictures ``(N, k, k, C)``, 0 … 1, each stretched about its zero, mid-grey."""
    largest = kernels.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (0.5 + 0.5 * kernels / largest).permute(0, 2, 3, 1).double().numpy()


def _in_words(name: str, kernels: Kernels) -> str:
    found = kernels.figures
    kind = "two columns" if kernels.columns == 2 else "two halves of one column"
    differ = [
        f"{what} index {found[what]['first']:.2f} and {found[what]['second']:.2f} (p = {found[what]['p']:.2g})"
        for what in kernels.indices
    ]
    return f"{name}: {len(kernels.kernels)} first-layer kernels in {kind}; {', '.join(differ)}"
