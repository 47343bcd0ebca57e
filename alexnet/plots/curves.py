"""Trainings as curves: loss, accuracy, rate and images a second over steps, one run or several laid over each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import Recipe
from alexnet.core.files import write_bytes
from alexnet.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    LINE_COLOURS,
    ORANGE,
    PHONE,
    Picture,
    encoded,
    new_figure,
    shortened,
)
from alexnet.recipes import differences_from_named
from alexnet.runtime.log import read_lines
from alexnet.runtime.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECONDS_BETWEEN_DRAWINGS = 10.0
PANEL = 3.2  # inches, its height with its axis
FIGURE_1_ERROR = 0.25  # the level at which the paper compares ReLU and tanh
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
SPLIT_STYLES: dict[str, dict[str, Any]] = {
    "train": {},
    "val": {"marker": "o", "markersize": 3, "linestyle": "--"},
    "test": {"marker": "s", "markersize": 3, "linestyle": ":"},
}
STAR: dict[str, Any] = {
    "clip_on": False, "marker": "*", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5,
}  # fmt: skip
SPIKE = 3.0  # times what 95 % of losses stay below: a loss above it would flatten all others
GUESSING = 7.0  # about the loss of guessing among a thousand classes: what lies below it is always drawn
COUNTED = ("val_loss", "test_loss")


@dataclass(frozen=True)
class History:
    """What is drawn of one run.

    ``metrics``: the lines of ``metrics.jsonl``; ``speeds``: step → images a second; ``expected``: the claim's band of
    test accuracy, None where the claim does not apply; ``final``: ``split``, ``top1``, ``kept_epoch`` of the last
    count.
    """

    name: str
    metrics: Sequence[Mapping[str, Any]]
    speeds: Mapping[int, float]
    expected: tuple[float, float] | None = None
    final: Mapping[str, Any] | None = None

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """Those written some ten times an epoch."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def epochs(self) -> list[Mapping[str, Any]]:
        """Those written at the end of each epoch."""
        return [line for line in self.metrics if "train_loss" in line]


def read_history(run: Run, recipe: Recipe, final: Mapping[str, Any] | None = None, name: str = "") -> History:
    """A run's records, finished or not; ``final``: its result, once there is one; ``name``: its folder's if empty."""
    events = read_lines(path) if (path := run.folder / "events.jsonl").is_file() else []
    speeds = {event["step"]: event["images_per_second"] for event in events if event.get("event") == "speed"}
    expected = recipe.claim.top1 if differences_from_named(recipe) == [] else None
    return History(name or run.name, run.metrics(), speeds, expected, final)


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
        write_bytes(run.folder / "curves.png", draw_curves([read_history(run, self.recipe, final)]).data())
        self._last = time.monotonic()


def draw_curves(runs: Sequence[History]) -> Picture:
    """Loss and accuracy above, rate and speed below; of one run a colour each split, of several a colour each run.

    ``runs``: their names differ.
    """
    says = "; ".join(_in_words(run) for run in runs)
    figures = {run.name: _in_figures(run) for run in runs}
    return Picture(_panels(runs, 9.6, 2), says, figures, lambda: _panels(runs, PHONE, 1))


def _panels(runs: Sequence[History], width: float, across: int) -> Figure:
    several = len(runs) > 1
    rows = 3 + len(runs) // across if several else 0  # of the legend
    title = f"{len(runs)} trainings" if several else runs[0].name
    figure = new_figure(width, PANEL * 4 / across + 0.22 * rows, title)
    loss, accuracy, rate, speed = figure.subplots(4 // across, across).flatten()
    colours = _colours(len(runs)) if several else [""]
    for run, colour in zip(runs, colours, strict=True):
        _draw_splits(loss, run, "loss", colour)
        _draw_splits(accuracy, run, "top1", colour)
        steps = [line["step"] for line in run.lines]
        style: dict[str, Any] = {"color": colour or GREY, "marker": "o" if len(steps) == 1 else None}
        rate.plot(steps, [line.get("lr", line.get("rate")) for line in run.lines], **style)
        speed.plot(list(run.speeds), list(run.speeds.values()), **style)
        if run.expected:
            accuracy.axhspan(*run.expected, color=colour or GREEN, alpha=0.12, label="expected on test")
    loss.set(ylabel=_cut_spikes(loss, runs))
    accuracy.set(ylabel="accuracy", ylim=(0, 1.04))  # the star of a perfect count is seen whole
    rate.set(ylabel="learning rate")
    speed.set(ylabel="images/s")
    last = max([line["step"] for run in runs for line in run.lines], default=1)
    for axes in (loss, accuracy, rate, speed):
        _tidy(axes, last)
    if several:
        _add_key(figure, runs, colours, across)
    else:
        for axes in (loss, accuracy):
            if axes.get_legend_handles_labels()[1]:
                axes.legend(frameon=False, fontsize="small")
    return figure


def _colours(count: int) -> list[str]:
    """One for each of several runs, all different: more than a palette holds are steps along viridis."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(LINE_COLOURS):
        return list(LINE_COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.95, count))]


def _add_key(figure: Figure, runs: Sequence[History], colours: Sequence[str], across: int) -> None:
    """Below the panels: each run's colour and final count, and what the kinds of line, stars and bands are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Line2D | Patch] = []
    for run, colour in zip(runs, colours, strict=True):
        final = f", {run.final['split']} {run.final['top1']:.2%}" if run.final else ""
        entries.append(Line2D([], [], color=colour, linewidth=3, label=f"{shortened(run.name, 44)}{final}"))
    counted = {name for run in runs for line in run.epochs for name in line}
    drawn = {split: style for split, style in SPLIT_STYLES.items() if split == "train" or f"{split}_top1" in counted}
    entries += [Line2D([], [], color=GREY, label=split, **style) for split, style in drawn.items()]
    if any(run.final for run in runs):
        entries.append(Line2D([], [], color=GREY, label="final count", linestyle="", **STAR))
    if any(run.expected for run in runs):
        entries.append(Patch(color=GREY, alpha=0.2, label="band in a run's colour: expected on test"))
    figure.legend(handles=entries, loc="outside lower center", ncols=across, frameon=False, fontsize="small")


def _cut_spikes(axes: Axes, runs: Sequence[History]) -> str:
    """Leave a few training losses far above all others out of the panel; its label, which says so."""
    trained = [[line["loss"] for line in run.lines] for run in runs if run.lines]
    counted = [value for run in runs for line in run.epochs for name, value in line.items() if name in COUNTED]
    usual = max([GUESSING, *counted, *(float(np.quantile(losses, 0.95)) for losses in trained)])
    highest = max([loss for losses in trained for loss in losses], default=0.0)
    if highest <= SPIKE * usual:
        return "loss (nats)"
    axes.set_ylim(0, 1.5 * usual)
    return f"loss (nats), cut off: up to {highest:.3g}"


def _tidy(axes: Axes, last_step: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="step", xlim=(0, last_step * 1.02))  # the star needs some room
    axes.set_ylim(0, max(axes.get_ylim()[1] * (1.0 if axes.get_ylabel() == "accuracy" else 1.05), 1e-12))
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _draw_splits(axes: Axes, run: History, suffix: str, colour: str) -> None:
    """Training as it went, and each counted split at the end of its epochs; ``colour``: the run's, or empty."""
    name = "loss" if suffix == "loss" else "accuracy"
    points = {"train": [(line["step"], line[name]) for line in run.lines]}
    for split in ("val", "test"):
        points[split] = [(e["step"], e[f"{split}_{suffix}"]) for e in run.epochs if f"{split}_{suffix}" in e]
    for split, some in points.items():
        if some:
            exclusive_lock = {"marker": "o"} if len(some) == 1 else {}  # of one point there is no line
            style = {"color": colour or SPLIT_COLOURS[split], **SPLIT_STYLES[split], **exclusive_lock}
            axes.plot(*zip(*some, strict=True), label=split, **style)
    if suffix == "top1" and run.final and run.epochs:
        _draw_star(axes, run, colour)


def _draw_star(axes: Axes, run: History, colour: str) -> None:
    """The final count, at the epoch whose weights were counted; hollow, so that a point below it can be seen."""
    assert run.final is not None
    split, share, epoch = run.final["split"], run.final["top1"], run.final["kept_epoch"]
    step = next((line["step"] for line in run.epochs if line["epoch"] == epoch), run.epochs[-1]["step"])
    label = f"{split}, {_when(run)}: {share:.2%}"
    axes.plot(step, share, color=colour or SPLIT_COLOURS[split], label=label, zorder=3, linestyle="", **STAR)


def _when(run: History) -> str:
    """Whose weights the final count is of."""
    assert run.final is not None
    epoch = run.final["kept_epoch"]
    return "in the end" if epoch == run.epochs[-1]["epoch"] else f"by the weights of epoch {epoch}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _in_figures(run: History) -> dict[str, Any]:
    """The ends of its curves, and the final count."""
    first, last = (run.lines[0], run.lines[-1]) if run.lines else ({}, {})
    final = run.final and {name: run.final[name] for name in ("split", "top1", "kept_epoch")}
    return {
        "steps": last.get("step", 0),
        "loss": [first.get("loss"), last.get("loss")],
        "accuracy": [first.get("accuracy"), last.get("accuracy")],
        "lr": [each.get("lr", each.get("rate")) for each in (first, last)],
        "images_per_second": statistics.median(run.speeds.values()) if run.speeds else None,
        "final": final,
    }


def _in_words(run: History) -> str:
    """Where a training began and ended, for those who cannot see its curves."""
    if not run.lines:
        return f"{run.name}: nothing trained yet"
    first, last = run.lines[0], run.lines[-1]
    ended = f"{run.name}: training loss from {first['loss']:.2f} to {last['loss']:.2f} in {_steps(last['step'])}"
    final = run.final
    return ended + (f", {final['split']} accuracy {final['top1']:.2%} {_when(run)}" if final and run.epochs else "")


def draw_training_errors(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write ``path`` (PNG): training error over epochs of measured runs, a colour a name, as the paper's figure 1.

    ``runs``: name → runs, each with ``epochs``, lines that hold ``epoch`` and ``train_top1``. The file's description is
    :func:`training_errors`, so that it can be told whether a picture is of these runs.
    """
    figure = new_figure(6.4, 4)
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
    write_bytes(path, encoded(figure, training_errors(runs)))


def training_errors(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The same in words, a line for each run: every figure that is drawn."""
    return "\n".join(
        f"{name}: " + " ".join(f"{1 - line['train_top1']:.4f}" for line in run["epochs"])
        for name, some in runs.items()
        for run in some
    )
