"""Images with their five most probable classes, as in figure 4 (left) of the paper.

For test images: a sample, the most confident mistakes, and the least certain predictions. The true class is marked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import (
    BLUE,
    GREY,
    NARROW_WIDTH,
    ORANGE,
    Picture,
    count_of,
    new_figure,
    percent,
    plot_image,
    shorten,
)
from alexnet.plots.inputs import FinishedRun, NamedImage, PlotInputs, check_finite
from alexnet.plots.options import Plot, ReportFigure
from alexnet.training.evaluate import log_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = 5
ACROSS, NARROW_COLUMNS = 6, 2
NARROWEST = 3.6  # inches, for the title
LABEL_LENGTH = 22
LETTER = 0.082  # inches: the width of a letter in a title
SAMPLE, MISTAKES = "a sample", "the most confident mistakes"
LEAST_CERTAIN = "the least certain: the two most probable classes are close"
IMAGES = 2000  # of a dataset, evenly spaced, that the groups are chosen from
TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class PredictedImage:
    """The prediction for one image. ``pixels`` ``(H, W, C)`` uint8; ``probabilities`` ``(classes,)``.

    ``label``: the number of the true class, None if unknown; ``file``: the name of its file, empty if ``title`` has it.
    """

    pixels: NDArray[np.uint8]
    title: str
    probabilities: NDArray[np.float32]
    label: int | None = None
    file: str = ""


@dataclass(frozen=True)
class Group:
    """A row of the figure: its title and its images."""

    title: str
    images: Sequence[PredictedImage]


def compose_predictions(
    predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], title: str
) -> Picture:
    """Three groups from the images ``index`` of a dataset, at most ``IMAGES`` of them: see :func:`choose_examples`."""
    title = f"{title}: {count_of(min(len(index), IMAGES), len(index))} images"
    index = evenly_spaced(index, IMAGES)
    batches = log_probabilities(predictor.model, dataset, index, predictor.device_config)
    probabilities = np.concatenate([output.exp().cpu().numpy() for output, _ in batches])
    check_finite(int((~np.isfinite(probabilities).all(axis=1)).sum()), len(index))
    groups, names = [], predictor.model.labels
    for name, places in choose_examples(probabilities, dataset.targets[index], ACROSS).items():
        some = index[places]
        rows = zip(
            predictor.visible(dataset.read(some)), dataset.targets[some].tolist(), probabilities[places],
            dataset.names(some), strict=True,
        )  # fmt: skip
        images = [PredictedImage(pixels, names[label], found, label, file) for pixels, label, found, file in rows]
        groups.append(Group(name, images))
    return plot_predictions(
        groups, names, f"{title} (title of an image: its class; {_legend(names)}, orange: the true class)"
    )


def compose_unlabelled_predictions(predictor: Predictor, images: Sequence[NamedImage], title: str) -> Picture:
    """Images whose classes are not known: name and pixels from ``predictor.read``."""
    pixels = [some for _, some in images]
    probabilities = predictor.probabilities(pixels)
    check_finite(int((~np.isfinite(probabilities).all(axis=1)).sum()), len(images))
    rows = zip(predictor.visible(pixels), images, probabilities, strict=True)
    predicted = [PredictedImage(shown, name, found) for shown, (name, _), found in rows]
    names = predictor.model.labels
    return plot_predictions([Group("", predicted)], names, f"{title} ({_legend(names)})")


def _legend(names: Sequence[str]) -> str:
    return f"bars: the {BARS} most probable classes" if len(names) > BARS else "bars: the probability of each class"


def choose_examples(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> dict[str, NDArray[np.int64]]:
    """Title → positions of up to ``count`` images in ``probabilities`` ``(N, classes)``.

    The groups are an evenly spaced sample, the mistakes with the highest probability, and the images whose two most
    probable classes are closest to each other. ``labels`` ``(N,)``: true classes.
    """
    best = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(labels)), best]
    wrong = np.flatnonzero(best != labels)
    some = evenly_spaced(np.arange(len(labels)), count)
    groups = {SAMPLE: some, MISTAKES: wrong[np.argsort(-confidence[wrong], kind="stable")]}
    if probabilities.shape[1] > 1:
        two = np.partition(probabilities, -2, axis=1)[:, -2:]
        entropy = -(probabilities * np.log(np.maximum(probabilities, TINY))).sum(
            axis=1
        )  # decides ties, which bf16 has many of
        groups[LEAST_CERTAIN] = np.lexsort((-entropy, two[:, 1] - two[:, 0]))
    return {title: places[:count] for title, places in groups.items() if len(places)}


def plot_predictions(groups: Sequence[Group], names: Sequence[str], title: str) -> Picture:
    """A row for each group. ``names``: of the classes. The bar of the true class has another colour."""
    lines = [
        f"{group.title}{': ' * bool(group.title)}{', '.join(_caption(image, names) for image in group.images)}"
        for group in groups
    ]
    across = min(ACROSS, max(len(group.images) for group in groups))
    return Picture(
        _rows(groups, names, title, max(2.0 * across, NARROWEST), across),
        f"{title}. {'. '.join(lines)}",
        {group.title or "given": [_values(image, names) for image in group.images] for group in groups},
        lambda: _rows(groups, names, title, NARROW_WIDTH, min(across, NARROW_COLUMNS)),
    )


def _rows(groups: Sequence[Group], names: Sequence[str], title: str, width: float, across: int) -> Figure:
    """The groups, one below the other, each in as many rows as it needs."""
    needed = [math.ceil(len(group.images) / across) for group in groups]
    figure = new_figure(width, 0.8 + 3.2 * sum(needed), title)
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=needed)
    for part, group, rows in zip(parts[:, 0], groups, needed, strict=True):
        part.suptitle(group.title, fontsize=11)
        axes = part.subplots(2 * rows, across, height_ratios=[1.25, 1] * rows, squeeze=False)
        pairs = [(axes[2 * row, column], axes[2 * row + 1, column]) for row in range(rows) for column in range(across)]
        for (above, bars), image in zip(pairs, group.images, strict=False):
            plot_image(above, image.pixels, shorten(image.title, min(LABEL_LENGTH, int(width / across / LETTER))))
            _plot_bars(bars, image, names)
        for place in itertools.chain(*pairs[len(group.images) :]):
            place.set_visible(False)
    return figure


def _plot_bars(axes: Axes, image: PredictedImage, names: Sequence[str]) -> None:
    """A bar for each of the most probable classes, with its name, the most probable first."""
    best = np.argsort(-image.probabilities, kind="stable")[:BARS]
    shares = image.probabilities[best]
    places = np.arange(len(best))
    colours = [ORANGE if number == image.label else BLUE for number in best]
    axes.barh(places, shares, color=colours, alpha=0.45, height=0.86)
    for place, number in zip(places, best, strict=True):
        mark = "✓ " if number == image.label else ""
        axes.text(
            0.02, float(place), mark + shorten(names[number], LABEL_LENGTH), va="center", fontsize=7.5, clip_on=True
        )
        probability = percent(float(image.probabilities[number])).replace("less than ", "<").replace("more than ", ">")
        axes.text(1.0, float(place), probability, ha="right", va="center", fontsize=7, clip_on=True)
    axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), yticks=[])
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"], fontsize=7, color=GREY)
    axes.set_xlabel("probability", fontsize=7, color=GREY, labelpad=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _caption(image: PredictedImage, names: Sequence[str]) -> str:
    best = int(image.probabilities.argmax())
    predicted = f"“{names[best]}” ({percent(float(image.probabilities[best]))})"
    if image.label is None:
        return f"{image.title}: {predicted}"
    return f"{predicted}, correct" if best == image.label else f"“{image.title}” predicted as {predicted}"


def _values(image: PredictedImage, names: Sequence[str]) -> dict[str, Any]:
    """The image, its class if known, and the plotted probabilities."""
    best = np.argsort(-image.probabilities, kind="stable")[:BARS]
    return {
        "image": image.file or image.title,
        "class": None if image.label is None else names[image.label],
        "probabilities": {names[number]: float(image.probabilities[number]) for number in best},
    }


def _compose(inputs: PlotInputs) -> Picture:
    """The given image files, or groups of test images."""
    if inputs.images:
        return compose_unlabelled_predictions(inputs.predictor, inputs.named_images(), inputs.run_name)
    return compose_predictions(inputs.predictor, inputs.dataset, inputs.test_images.index, inputs.test_images.title)


def _compose_for_report(finished: FinishedRun) -> Picture:
    test = finished.test_images
    return compose_predictions(finished.predictor, finished.dataset, test.index, test.title)


PLOT = Plot(compose=_compose, max_images=24, options=("data",), report=ReportFigure("Predictions", _compose_for_report))
