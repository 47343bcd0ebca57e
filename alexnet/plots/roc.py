"""ROC curves with AUC and operating point, beside the calibration of the same probabilities (``metrics/roc.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet.core.errors import UserError
from alexnet.metrics.counts import describe_images
from alexnet.metrics.roc import OperatingPoint, measure
from alexnet.plots.canvas import GREY, LINE_COLOURS, NARROW_WIDTH, Picture, escape_dollars, new_figure, shorten
from alexnet.plots.inputs import FinishedRun, PlotInputs, check_finite
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import run_folder
from alexnet.training.operating_point import positive_classes, probabilities
from alexnet.weights.load import kind_without_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = len(LINE_COLOURS)  # curves that can be told apart


def plot_roc(classes: Mapping[str, Mapping[str, Any]], title: str) -> Picture:
    """A curve for each class; ``classes``: name for people → what :func:`~alexnet.metrics.roc.measure` gives."""
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"ROC curves of {len(classes):,} classes cannot be told apart: at most {MOST_CLASSES} are drawn"
        )
    if any(counted["auc"]["value"] is None for counted in classes.values()):
        raise UserError("a ROC curve needs images of the class and of others")
    said = []
    for name, counted in classes.items():
        point = counted["threshold"]
        at = (
            "" if point is None else f", from {point:.3f} on sensitivity {counted['sensitivity']['value']:.1%} and "
            f"specificity {counted['specificity']['value']:.1%}"
        )  # fmt: skip
        said.append(f"“{name}” {_auc(counted)}{at}")
    return Picture(
        _figure(classes, title, 9.5, 4.6, 2), f"{title}. AUC with its 95 % interval: {'; '.join(said)}", dict(classes),
        lambda: _figure(classes, title, NARROW_WIDTH, 8.6, 1),
    )  # fmt: skip


def _auc(counted: Mapping[str, Any]) -> str:
    value, low, high = (counted["auc"][name] for name in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} – {high:.3f})"


def _figure(
    classes: Mapping[str, Mapping[str, Any]], title: str, width: float, height: float, across: int
) -> Figure:  # fmt: skip
    figure = new_figure(width, height, title)
    curves, calibration = figure.subplots(2 // across, across, squeeze=False).flat
    _plot_curves(curves, classes)
    _plot_calibration(calibration, classes)
    return figure


def _plot_curves(axes: Axes, classes: Mapping[str, Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, (name, counted) in zip(LINE_COLOURS, classes.items(), strict=False):
        curve = counted["curve"]
        label = escape_dollars(f"{shorten(name)}: AUC {_auc(counted)}")
        axes.plot(curve["false_positive_rate"], curve["sensitivity"], color=colour, label=label)
        if counted["threshold"] is not None:
            axes.plot(1 - counted["specificity"]["value"], counted["sensitivity"]["value"], "o", color=colour)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_title("ROC curve (point: operating point)", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)


def _plot_calibration(axes: Axes, classes: Mapping[str, Mapping[str, Any]]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, counted in zip(LINE_COLOURS, classes.values(), strict=False):
        bins = counted["reliability"]
        sizes = 12 + 60 * np.array(bins["images"]) / max(bins["images"])
        axes.plot(bins["score"], bins["positives"], color=colour, linewidth=1)
        axes.scatter(bins["score"], bins["positives"], s=sizes, color=colour)
    axes.set(xlabel="mean probability", ylabel="share of the class", aspect="equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title("Calibration (size: images)", fontsize=10)


def _labelled(result: Mapping[str, Any], classes: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    names = dict(zip(classes, labels, strict=True))
    return {names.get(name, name): counted for name, counted in result["roc"]["classes"].items()}


def _compose(inputs: PlotInputs) -> Picture:
    """The curves that the training measured; for other images, and for a run without them, measured now."""
    model = inputs.predictor.model
    run = None if kind_without_run(inputs.target) else Run(run_folder(inputs.target))
    result = run.result if run is not None and run.finished else {}
    if "roc" in result and inputs.data is None:
        title = f"{inputs.run_name} on {result['source']}: {describe_images(result)}"
        return plot_roc(_labelled(result, model.classes, model.labels), title)
    index, dataset = inputs.test_images.index, inputs.dataset
    scores = probabilities(model, dataset, index, inputs.device_config)
    check_finite(int((~np.isfinite(scores).all(axis=1)).sum()), len(scores))
    units = dataset.groups[index] if dataset.has_groups else np.arange(len(index))
    measured = {}
    chosen = result.get("roc", {}).get("classes", {})
    numbers = [model.classes.index(name) for name in chosen] or positive_classes("", model.classes)
    for number in numbers:
        threshold = chosen.get(model.classes[number], {}).get("threshold")
        point = None if threshold is None else OperatingPoint(threshold, scores[:, number] >= threshold)
        positive = np.asarray(dataset.targets[index] == number)
        measured[model.labels[number]] = measure(scores[:, number], positive, units, point, seed=0)
    return plot_roc(measured, f"{inputs.test_images.title}: {len(index):,} images, one view")


def _compose_for_report(finished: FinishedRun) -> Picture:
    result, model = finished.run.result, finished.predictor.model
    title = f"{finished.name} on {result['source']}: {describe_images(result)}"
    return plot_roc(_labelled(result, model.classes, model.labels), title)


PLOT = Plot(
    compose=_compose, options=("data",),
    report=ReportFigure("ROC curve", _compose_for_report, lambda finished: bool(finished.run.result.get("roc"))),
)  # fmt: skip
