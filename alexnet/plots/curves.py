"""Training curves: loss, accuracy, learning rate and images per second by step, of one run or of several.

The curves are read from ``metrics.jsonl`` (loss, accuracy, learning rate) and ``events.jsonl`` (speed) of a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.config import Recipe
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes
from alexnet.metrics.measures import MEASURES, Measure
from alexnet.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    LINE_COLOURS,
    NARROW_WIDTH,
    ORANGE,
    Picture,
    encode_figure,
    new_figure,
    shorten,
)
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.recipes import differences_from_named
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import distinct_names, run_folder
from alexnet.weights.load import check_is_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECONDS_BETWEEN_WRITES = 10.0
PANEL = 3.2  # inches: the height of a panel with its axis
FIGURE_1_ERROR = 0.25  # the training error at which the paper compares ReLU and tanh
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
SPLIT_STYLES: dict[str, dict[str, Any]] = {
    "train": {},
    "val": {"marker": "o", "markersize": 3, "linestyle": "--"},
    "test": {"marker": "s", "markersize": 3, "linestyle": ":"},
}
STAR: dict[str, Any] = {
    "clip_on": False, "marker": "*", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5,
}  # fmt: skip
SPIKE = 3.0  # a loss above so many times the 95 % quantile would flatten the rest of the curve
GUESSING = 7.0  # about ln 1000, the loss of guessing among 1000 classes: losses below it are always inside the panel
EVALUATED = ("val_loss", "test_loss")
SHARES_END = 1.04  # of the axis of a share


@dataclass(frozen=True)
class History:
    """The records of one run that are plotted.

    ``metrics``: the lines of ``metrics.jsonl``. ``speeds``: step → images per second. ``expected``: the lowest and
    highest test accuracy that the recipe's claim expects; None where the claim does not apply. ``final``: ``split``,
    the main measure and ``kept_epoch`` of the final evaluation. ``measure``: the main measure of its task.
    """

    name: str
    metrics: Sequence[Mapping[str, Any]]
    speeds: Mapping[int, float]
    expected: tuple[float, float] | None = None
    final: Mapping[str, Any] | None = None
    measure: Measure = MEASURES["classification"]

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """The lines with the training loss, about ten for each epoch."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def epochs(self) -> list[Mapping[str, Any]]:
        """The lines at the end of each epoch."""
        return [line for line in self.metrics if "train_loss" in line]


def read_history(run: Run, recipe: Recipe, final: Mapping[str, Any] | None = None, name: str = "") -> History:
    """The records of a run. ``final``: its result, if there is one. ``name``: its folder's if empty."""
    speeds = {event["step"]: event["images_per_second"] for event in run.events() if event["event"] == "speed"}
    expected = recipe.claim.top1 if differences_from_named(recipe) == [] else None
    return History(name or run.name, run.metrics(), speeds, expected, final, MEASURES[recipe.model.task])


def learning_rate(line: Mapping[str, Any]) -> float:
    """The learning rate in a line of ``metrics.jsonl``: ``lr``, which earlier versions wrote as ``rate``."""
    return float(line["lr"] if "lr" in line else line["rate"])


class CurvesFile:
    """Writes a run's ``curves.png`` during training, at most once in ten seconds, so that it costs little time."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._written = -SECONDS_BETWEEN_WRITES

    def __call__(self, run: Run) -> None:
        """Write the file, unless it was written in the last ten seconds."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write(run)

    def write(self, run: Run, final: Mapping[str, Any] | None = None) -> None:
        """Write the file now. ``final``: the result, if there is one. The expected band is shown for an unchanged
        recipe.
        """
        write_bytes(run.folder / "curves.png", plot_curves([read_history(run, self.recipe, final)]).encode())
        self._written = time.monotonic()


def plot_curves(runs: Sequence[History]) -> Picture:
    """Four panels: loss, accuracy, learning rate and speed. One run has a colour per split, several have one per run.

    ``runs``: with different names.
    """
    caption = "; ".join(_caption(run) for run in runs)
    values = {run.name: _values(run) for run in runs}
    return Picture(_panels(runs, 9.6, 2), caption, values, lambda: _panels(runs, NARROW_WIDTH, 1))


def _panels(runs: Sequence[History], width: float, across: int) -> Figure:
    several = len(runs) > 1
    legend_rows = 3 + len(runs) // across if several else 0
    title = f"{len(runs)} trainings" if several else runs[0].name
    figure = new_figure(width, PANEL * 4 / across + 0.22 * legend_rows, title)
    loss, accuracy, rate, speed = figure.subplots(4 // across, across).flatten()
    colours = _colours(len(runs)) if several else [""]
    for run, colour in zip(runs, colours, strict=True):
        _plot_splits(loss, run, "loss", colour)
        _plot_splits(accuracy, run, run.measure.name, colour)
        steps = [line["step"] for line in run.lines]
        style: dict[str, Any] = {"color": colour or GREY, "marker": "o" if len(steps) == 1 else None}
        rate.plot(steps, [learning_rate(line) for line in run.lines], **style)
        speed.plot(list(run.speeds), list(run.speeds.values()), **style)
        if run.expected:
            accuracy.axhspan(*run.expected, color=colour or GREEN, alpha=0.12, label="expected on test")
    loss.set(ylabel=_cut_spikes(loss, runs))
    words = list(dict.fromkeys(run.measure.words for run in runs))
    accuracy.set(ylabel=", ".join(words), ylim=(0, SHARES_END))  # room for the star of a perfect result
    rate.set(ylabel="learning rate")
    speed.set(ylabel="images/s")
    last = max([line["step"] for run in runs for line in run.lines], default=1)
    for axes in (loss, accuracy, rate, speed):
        _format_axes(axes, last)
    if several:
        _add_legend(figure, runs, colours, across)
    else:
        for axes in (loss, accuracy):
            if axes.get_legend_handles_labels()[1]:
                axes.legend(frameon=False, fontsize="small")
    return figure


def _colours(count: int) -> list[str]:
    """A colour for each of several runs; more runs than the palette has colours get steps along viridis."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(LINE_COLOURS):
        return list(LINE_COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.95, count))]


def _add_legend(figure: Figure, runs: Sequence[History], colours: Sequence[str], across: int) -> None:
    """Below the panels: each run's colour and final accuracy, and the meaning of lines, stars and bands."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Line2D | Patch] = []
    for run, colour in zip(runs, colours, strict=True):
        final = f", {run.final['split']} {run.final[run.measure.name]:.2%}" if run.final else ""
        entries.append(Line2D([], [], color=colour, linewidth=3, label=f"{shorten(run.name, 44)}{final}"))
    evaluated = {name for run in runs for line in run.epochs for name in line}
    names = {run.measure.name for run in runs}
    splits = [
        split for split in SPLIT_STYLES if split == "train" or any(f"{split}_{name}" in evaluated for name in names)
    ]
    entries += [Line2D([], [], color=GREY, label=split, **SPLIT_STYLES[split]) for split in splits]
    if any(run.final for run in runs):
        entries.append(Line2D([], [], color=GREY, label="final evaluation", linestyle="", **STAR))
    if any(run.expected for run in runs):
        entries.append(Patch(color=GREY, alpha=0.2, label="expected test accuracy (band in the run's colour)"))
    figure.legend(handles=entries, loc="outside lower center", ncols=across, frameon=False, fontsize="small")


def _cut_spikes(axes: Axes, runs: Sequence[History]) -> str:
    """Limit the axis where a few training losses lie far above all others. Returns the axis label."""
    trained = [[line["loss"] for line in run.lines] for run in runs if run.lines]
    evaluated = [value for run in runs for line in run.epochs for name, value in line.items() if name in EVALUATED]
    usual = max([GUESSING, *evaluated, *(float(np.quantile(losses, 0.95)) for losses in trained)])
    highest = max([loss for losses in trained for loss in losses], default=0.0)
    if highest <= SPIKE * usual:
        return "loss (nats)"
    axes.set_ylim(0, 1.5 * usual)
    return f"loss (nats), axis cut; highest {highest:.3g}"


def _format_axes(axes: Axes, last_step: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="step", xlim=(0, last_step * 1.02))  # room for the star
    shares = axes.get_ylim()[1] == SHARES_END
    axes.set_ylim(0, max(axes.get_ylim()[1] * (1.0 if shares else 1.05), 1e-12))
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _plot_splits(axes: Axes, run: History, suffix: str, colour: str) -> None:
    """A curve for train, and one for each evaluated split. ``colour``: the run's; empty for split colours."""
    name = "loss" if suffix == "loss" else "accuracy"
    points = {"train": [(line["step"], line[name]) for line in run.lines]}
    for split in ("val", "test"):
        points[split] = [(e["step"], e[f"{split}_{suffix}"]) for e in run.epochs if f"{split}_{suffix}" in e]
    for split, some in points.items():
        if some:
            single = {"marker": "o"} if len(some) == 1 else {}  # one point makes no line
            style = {"color": colour or SPLIT_COLOURS[split], **SPLIT_STYLES[split], **single}
            other = run.measure.training_words if split == "train" and suffix != "loss" else ""
            axes.plot(*zip(*some, strict=True), label=f"{split}, {other}" if other else split, **style)
    if suffix != "loss" and run.final and run.epochs:
        _plot_final(axes, run, colour)


def _plot_final(axes: Axes, run: History, colour: str) -> None:
    """A star for the final evaluation, at the epoch whose weights were kept; hollow, so that a point under it shows."""
    assert run.final is not None
    split, share, epoch = run.final["split"], run.final[run.measure.name], run.final["kept_epoch"]
    last = run.epochs[-1]["step"] if epoch else 0
    step = next((line["step"] for line in run.epochs if line["epoch"] == epoch), last)
    label = f"{split}, {_kept_weights(run)}: {share:.2%}"
    axes.plot(step, share, color=colour or SPLIT_COLOURS[split], label=label, zorder=3, linestyle="", **STAR)


def _kept_weights(run: History) -> str:
    """Which weights the final evaluation used."""
    assert run.final is not None
    epoch = run.final["kept_epoch"]
    if not epoch:
        return "weights before the first epoch"
    return "final" if epoch == run.epochs[-1]["epoch"] else f"weights of epoch {epoch}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _values(run: History) -> dict[str, Any]:
    """The first and last values of its curves, and its final evaluation."""
    first, last = (run.lines[0], run.lines[-1]) if run.lines else ({}, {})
    final = run.final and {name: run.final[name] for name in ("split", run.measure.name, "kept_epoch")}
    return {
        "steps": last.get("step", 0),
        "loss": [first.get("loss"), last.get("loss")],
        "accuracy": [first.get("accuracy"), last.get("accuracy")],
        "lr": [learning_rate(line) if line else None for line in (first, last)],
        "images_per_second": statistics.median(run.speeds.values()) if run.speeds else None,
        "final": final,
    }


def _caption(run: History) -> str:
    """The first and the last training loss, and the final accuracy, in words."""
    if not run.lines:
        return f"{run.name}: no training steps yet"
    first, last = run.lines[0], run.lines[-1]
    losses = f"{run.name}: training loss from {first['loss']:.2f} to {last['loss']:.2f} in {_steps(last['step'])}"
    final = run.final
    if not final or not run.epochs:
        return losses
    return f"{losses}, {final['split']} {run.measure.words} {final[run.measure.name]:.2%} ({_kept_weights(run)})"


def plot_training_errors(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write ``path`` (PNG): the training error of measured runs by epoch, like figure 1 of the paper.

    ``runs``: name → runs, each with ``epochs``: lines with ``epoch`` and ``train_top1``. Runs of one name have one
    colour. The file's description is :func:`training_errors`, so that a test can check that the file shows these runs.
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
    axes.set_title("Four-layer networks on CIFAR-10 (figure 1 of the paper)")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_bytes(path, encode_figure(figure, training_errors(runs)))


def training_errors(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The plotted numbers as text: a line for each run."""
    return "\n".join(
        f"{name}: " + " ".join(f"{1 - line['train_top1']:.4f}" for line in run["epochs"])
        for name, some in runs.items()
        for run in some
    )


def _check_trained(run: Run) -> None:
    """Raise ``UserError`` for a finished run without a training step."""
    if not run.result["steps"]:
        raise UserError(f"{run.name} was fitted as a linear probe, without training steps, so there are no curves")


def _compose(inputs: PlotInputs) -> Picture:
    histories = []
    for target, name in distinct_names(inputs.targets).items():
        check_is_run(target)
        run = Run(run_folder(target))
        if run.finished:
            _check_trained(run)
        final = run.result if run.finished and run.result["split"] else None
        histories.append(read_history(run, run.recipe, final, name))
    return plot_curves(histories)


def _compose_for_report(finished: FinishedRun) -> Picture:
    run, result = finished.run, finished.run.result
    _check_trained(run)
    return plot_curves([read_history(run, run.recipe, result if result["split"] else None)])


PLOT = Plot(
    compose=_compose, several_runs=True, svg=True, tasks=tuple(MEASURES),
    report=ReportFigure("Training curves", _compose_for_report),
)  # fmt: skip
