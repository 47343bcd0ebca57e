"""A training as curves: loss and accuracy over epochs, and the rate that drove them.

Colours are Okabe and Ito's (2008), which people with any colour vision can tell apart.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.config import Recipe
from alexnet.core.files import write_bytes
from alexnet.recipes import departures_from_name
from alexnet.runtime.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
SECONDS_BETWEEN_DRAWINGS = 10.0
FIGURE_1_ERROR = 0.25  # the level at which the paper compares ReLU and tanh
SPLIT_COLOURS = {"val": ORANGE, "test": GREEN}


class CurveDrawer:
    """Redraws a run's ``curves.png`` as the training goes, not so often that drawing costs more than training."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._last = -SECONDS_BETWEEN_DRAWINGS

    def __call__(self, run: Run) -> None:
        """Draw, unless the last drawing is fresh."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_DRAWINGS:
            self.draw(run)

    def draw(self, run: Run, final: Mapping[str, Any] | None = None) -> None:
        """Draw now; ``final`` is the result, once there is one. The claim's band is drawn for the recipe as it is."""
        expected = self.recipe.claim.top1 if departures_from_name(self.recipe) == [] else None
        draw_curves(run.metrics(), self.recipe.name, run.folder / "curves.png", expected, final)
        self._last = time.monotonic()


def draw_curves(
    metrics: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
    expected: tuple[float, float] | None = None,
    final: Mapping[str, Any] | None = None,
) -> None:
    """Write ``path`` (PNG) from the lines of ``metrics.jsonl``.

    ``expected``: the claim's band of test accuracy; ``final``: ``split``, ``top1``, ``kept_epoch`` of the last count.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in metrics if "loss" in line]
    epochs = [line for line in metrics if "train_loss" in line]
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss, accuracy, rate = figure.subplots(1, 3)
    _draw_side(loss, lines, epochs, "loss", "loss (nats)")
    _draw_side(accuracy, lines, epochs, "accuracy", "accuracy")
    if expected:
        accuracy.axhspan(*expected, color=GREEN, alpha=0.15, label="expected on test")
    if final and epochs:
        _draw_star(accuracy, final, epochs[-1]["epoch"])
    rate.plot([line["epoch"] for line in lines], [line["rate"] for line in lines], color=GREY)
    rate.set(xlabel="epoch", ylabel="learning rate")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, max([line["epoch"] for line in lines], default=1) * 1.02)  # the star needs some room
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    accuracy.set_ylim(0, 1.04)  # the star of a perfect count is seen whole
    for axes in (loss, accuracy):
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())


def _draw_star(axes: Axes, final: Mapping[str, Any], last_epoch: int) -> None:
    """The final count, at the epoch whose weights were counted; hollow, so that a point below it can be seen."""
    split, share, epoch = final["split"], final["top1"], final["kept_epoch"]
    when = "in the end" if epoch == last_epoch else f"weights of epoch {epoch}"
    style: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5, "zorder": 3}
    axes.plot(epoch, share, "*", color=SPLIT_COLOURS[split], label=f"{split}, {when}: {share:.2%}", **style)


def _draw_side(axes: Axes, lines: Sequence[Any], epochs: Sequence[Any], name: str, label: str) -> None:
    """Training as it went, and each counted split at the end of its epochs."""
    suffix = "loss" if name == "loss" else "top1"
    axes.plot([line["epoch"] for line in lines], [line[name] for line in lines], color=BLUE, label="train")
    for split, colour in SPLIT_COLOURS.items():
        points = [(line["epoch"], line[f"{split}_{suffix}"]) for line in epochs if f"{split}_{suffix}" in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=split)
    axes.set(xlabel="epoch", ylabel=label)


def draw_training_errors(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write ``path`` (PNG): training error over epochs of measured runs, a colour a name, as the paper's figure 1.

    ``runs``: name → runs, each with ``epochs``, lines that hold ``epoch`` and ``train_top1``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, some), colour, style in zip(runs.items(), (BLUE, ORANGE, GREEN), ("-", "--", ":"), strict=False):
        for number, run in enumerate(some):
            epochs = [(line["epoch"], 1 - line["train_top1"]) for line in run["epochs"]]
            label = f"{name}, {len(some)} seeds" if number == 0 else None
            axes.plot(*zip(*epochs, strict=True), style, color=colour, alpha=0.8, label=label)
    axes.axhline(FIGURE_1_ERROR, color=GREY, linewidth=0.8)
    axes.annotate("25 %", (0, FIGURE_1_ERROR), xytext=(2, 3), textcoords="offset points", color=GREY)
    axes.set(xlabel="epoch", ylabel="training error", xlim=(0, None), ylim=(0, None))
    axes.set_title("Four-layer nets on CIFAR-10 (the paper's figure 1)")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
