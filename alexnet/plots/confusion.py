"""The confusion matrix, in an order that puts confused classes side by side, and the accuracy of each class."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.metrics.counts import DENSE_CLASSES, Metrics, describe_images
from alexnet.models.classifier import Classifier
from alexnet.plots.canvas import BLUE, GREY, NARROW_WIDTH, Picture, new_figure, shorten
from alexnet.plots.inputs import FinishedRun, PlotInputs, check_finite
from alexnet.plots.options import Plot, ReportFigure
from alexnet.training.evaluate import log_probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

NAMED = 20  # classes: for more, neither names beside the matrix nor counts in it fit
LABEL_LENGTH = 24
EXTREMES = 10
EMPTY = "#C8C8C8"
CAPTION_MISTAKES = 3  # in the caption


def compose_confusion(predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], title: str) -> Picture:
    """Evaluate the images ``index`` of a dataset with one view. Raises ``UserError`` for more than 2,000 classes."""
    _check_classes(len(dataset.classes))
    counts = Metrics(len(dataset.classes))
    for output, labels in log_probabilities(predictor.model, dataset, index, predictor.device_config):
        counts.add(output, labels)
    check_finite(counts.not_finite.total(), counts.images)
    matrix = counts.confusion_matrix()
    assert matrix is not None
    return plot_confusion(matrix, predictor.model.labels, f"{title}: {len(index):,} images, one view")


def _check_classes(classes: int) -> None:
    if classes > DENSE_CLASSES:
        raise UserError(
            f"{classes:,} classes are too many for a confusion matrix: alexnet evaluate lists confused pairs"
        )


def compose_counted_confusion(result: Mapping[str, Any], model: Classifier, name: str) -> Picture:
    """The confusion matrix of a run's final evaluation; ``name``: of the run, for the title.

    Raises ``UserError`` for a run that was not evaluated, and for more than 2,000 classes.
    """
    if result["split"] is None:
        raise UserError("there are no images that the network was not trained on")
    _check_classes(len(model.classes))
    check_finite(result.get("not_finite", 0), result["images"])
    title = f"{name} on {result['source']}: {describe_images(result)}"
    return plot_confusion(matrix_of_result(result, model.classes), model.labels, title)


def matrix_of_result(result: Mapping[str, Any], classes: Sequence[str]) -> NDArray[np.int64]:
    """``(classes, classes)`` counts, true class by row, from the confused pairs and accuracies in a ``result.json``."""
    number = {name: place for place, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for pair in result["confusions"]:
        matrix[number[pair["true"]], number[pair["predicted"]]] = pair["images"]
    for name, counted in result["per_class"].items():
        matrix[number[name], number[name]] = round((counted["top1"] or 0.0) * counted["images"])
    return matrix


def order_by_confusion(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of the classes that puts confused classes side by side: ``(classes,)`` int64.

    ``matrix`` ``(classes, classes)``: counts, true class by row. The distance of two classes is one minus the mean
    share of images confused in either direction. Average-linkage clustering; leaves in the order with the smallest
    distances between neighbours (Bar-Joseph, Gifford and Jaakkola, "Fast optimal leaf ordering", 2001).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    return np.asarray(leaves_list(tree), np.int64)


def plot_confusion(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> Picture:
    """The matrix as shares of each true class (square-root scale), in the order of confusion, and the accuracies.

    ``matrix`` ``(classes, classes)``: counts, true class by row; ``names``: of the classes. For more than ``NAMED``
    classes the whole matrix has no names; a second one has the classes that are confused most, and bars show the
    hardest and the easiest classes.
    """
    counted = ConfusionMatrix(matrix, tuple(names), order_by_confusion(matrix))
    values = {
        "order": [names[number] for number in counted.order],
        "mistakes": [
            {"true": names[true], "predicted": names[predicted], "images": int(matrix[true, predicted])}
            for true, predicted in counted.mistakes
        ],
        "accuracy": {
            name: share if images else None
            for name, share, images in zip(names, counted.accuracy.tolist(), counted.images, strict=True)
        },
    }
    wide, narrow = (_few_wide, _few_narrow) if len(matrix) <= NAMED else (_many_wide, _many_narrow)
    title = f"{title}, accuracy {int(np.trace(matrix)) / max(int(matrix.sum()), 1):.2%}"
    return Picture(wide(counted, title), _caption(counted, title), values, lambda: narrow(counted, title))


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """``matrix`` ``(classes, classes)``: counts, true class by row; ``order``: the classes to show, in this order."""

    matrix: NDArray[np.int64]
    names: Sequence[str]
    order: NDArray[np.int64]

    @functools.cached_property
    def images(self) -> NDArray[np.int64]:
        """Images of each class."""
        return np.asarray(self.matrix.sum(axis=1))

    @functools.cached_property
    def accuracy(self) -> NDArray[np.float64]:
        """Accuracy of each class; 0 for a class without images."""
        return np.asarray(np.diag(self.matrix) / np.maximum(self.images, 1))

    @functools.cached_property
    def mistakes(self) -> list[tuple[int, int]]:
        """(true class, predicted class) of each confused pair, the most frequent first."""
        wrong = _wrong_counts(self.matrix)
        frequent = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        return [divmod(int(place), len(wrong)) for place in frequent]

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes with images."""
        return np.flatnonzero(self.images)

    @property
    def shares(self) -> NDArray[np.float64]:
        """The matrix in this order, as shares of each true class; NaN for a class without images."""
        images = self.images[self.order, None]
        within = self.matrix[np.ix_(self.order, self.order)] / np.maximum(images, 1)
        return np.where(images > 0, within, np.nan)

    @property
    def mean(self) -> float | None:
        """The mean of the accuracies of the classes with images; None if there are none."""
        return float(self.accuracy[self.present].mean()) if len(self.present) else None

    def select(self, classes: NDArray[np.int64]) -> ConfusionMatrix:
        """The same counts with only some ``classes`` to show, ordered by their confusions."""
        return replace(self, order=classes[order_by_confusion(self.matrix[np.ix_(classes, classes)])])

    def extremes(self) -> NDArray[np.int64]:
        """The classes with the lowest and with the highest accuracy, as many of each, the lowest first."""
        rising = self.present[np.argsort(self.accuracy[self.present], kind="stable")]
        few = min(EXTREMES, max(1, len(rising) // 2))
        return np.concatenate([rising[:few], rising[few:][-few:]])


def _few_wide(counted: ConfusionMatrix, title: str) -> Figure:
    """The matrix on the left, the accuracies on the right, with a row for each class."""
    side = float(np.clip(0.24 * len(counted.order) + 3, 5.5, 16))
    figure = new_figure(side + 3.5, side, title)
    left, right = figure.subplots(1, 2, width_ratios=[side, 2.2])
    _add_scale(figure, left, _plot_labelled(left, counted, 9))
    _plot_accuracies(right, counted, counted.order)
    right.set(yticks=[])
    return figure


def _few_narrow(counted: ConfusionMatrix, title: str) -> Figure:
    """The matrix above the accuracies."""
    rows = 0.17 * len(counted.order)
    figure = new_figure(NARROW_WIDTH, NARROW_WIDTH + 2.4 + rows, title)
    above, below = figure.subplots(2, 1, height_ratios=[NARROW_WIDTH + 1.2, 1 + rows])
    _add_scale(figure, above, _plot_labelled(above, counted, 7))
    _plot_accuracies(below, counted, counted.order)
    return figure


def _many_wide(counted: ConfusionMatrix, title: str) -> Figure:
    """The whole matrix and accuracies above, the most confused classes below."""
    figure = new_figure(11, 15, title)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[5.6, 9])[:, 0]
    left, right = upper.subfigures(1, 2, squeeze=False, width_ratios=[5, 3.2])[0]
    _plot_all_classes(left, left.subplots(), counted)
    above, below = right.subplots(2, 1, height_ratios=[1, 3.2])
    _plot_all_accuracies(above, counted)
    _plot_extremes(below, counted)
    _plot_most_confused(lower, counted, 9)
    return figure


def _many_narrow(counted: ConfusionMatrix, title: str) -> Figure:
    """The same parts, one below the other."""
    figure = new_figure(NARROW_WIDTH, 3.5 * NARROW_WIDTH, title)
    parts = figure.subfigures(4, 1, squeeze=False, height_ratios=[1, 0.4, 0.95, 1.15])[:, 0]
    _plot_all_classes(parts[0], parts[0].subplots(), counted)
    _plot_all_accuracies(parts[1].subplots(), counted)
    _plot_extremes(parts[2].subplots(), counted)
    _plot_most_confused(parts[3], counted, 7)
    return figure


def _plot_all_classes(figure: SubFigure, axes: Axes, counted: ConfusionMatrix) -> None:
    """The whole matrix, with classes by their position in the order."""
    from matplotlib.ticker import MaxNLocator

    _add_scale(figure, axes, _plot_shares(axes, counted))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set(xlabel="predicted class (position in the order)", ylabel="true class (position in the order)")
    axes.set_title(f"all {len(counted.matrix):,} classes, ordered by confusion", fontsize=10)


def _plot_all_accuracies(axes: Axes, counted: ConfusionMatrix) -> None:
    """The accuracy of every class with images, the lowest first."""
    rising = np.sort(counted.accuracy[counted.present])
    axes.fill_between(np.arange(len(rising)), rising, step="mid", color=BLUE)
    axes.set(xlabel="classes, lowest accuracy first", ylabel="accuracy", ylim=(0, 1), xlim=(0, max(1, len(rising) - 1)))
    axes.spines[["top", "right"]].set_visible(False)


def _plot_extremes(axes: Axes, counted: ConfusionMatrix) -> None:
    """The lowest and the highest accuracies of classes."""
    extremes = counted.extremes()
    _plot_accuracies(axes, counted, extremes)
    axes.axhline(len(extremes) // 2 - 0.5, color=GREY, linewidth=0.8)
    axes.set_title(f"the {len(extremes) // 2} lowest and the {len(extremes) // 2} highest", fontsize=10)


def _plot_most_confused(figure: SubFigure, counted: ConfusionMatrix, size: float) -> None:
    """A matrix of the classes in the most frequent mistakes, with names and counts."""
    some = counted.select(most_confused_classes(counted.matrix))
    if not len(some.order):
        figure.text(0.5, 0.5, "no mistakes", ha="center")
        return
    axes = figure.subplots()
    _plot_labelled(axes, some, size)
    figure.suptitle(f"the {len(some.order)} classes in the most frequent mistakes, with counts", fontsize=10)


def _plot_labelled(axes: Axes, counted: ConfusionMatrix, size: float) -> AxesImage:
    """A matrix with the names of classes on both axes, and counts."""
    image = _plot_shares(axes, counted)
    axes.set(xlabel="predicted class", ylabel="true class")
    labels = [shorten(counted.names[number], LABEL_LENGTH) for number in counted.order]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    shares, counts = counted.shares, counted.matrix[np.ix_(counted.order, counted.order)]
    for row, column in np.argwhere(counts):
        colour = "black" if shares[row, column] > 0.4 else "white"
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": min(size, 8), "color": colour}
        axes.text(float(column), float(row), f"{counts[row, column]:,}", **style)
    return image


def _plot_shares(axes: Axes, counted: ConfusionMatrix) -> AxesImage:
    """The matrix without labels. Rows of classes without images are grey; more classes than pixels are averaged."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    colours = colormaps["viridis"].with_extremes(bad=EMPTY)
    return axes.imshow(counted.shares, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="auto")


def _add_scale(figure: Figure | SubFigure, axes: Axes, image: AxesImage) -> None:
    figure.colorbar(image, ax=axes, label="share of the true class (square-root scale)", shrink=0.6, pad=0.01)


def _plot_accuracies(axes: Axes, counted: ConfusionMatrix, shown: NDArray[np.int64]) -> None:
    """A bar with a name for each of the classes ``shown``."""
    axes.barh(range(len(shown)), counted.accuracy[shown], color=BLUE, height=0.8)
    if counted.mean is not None:
        axes.axvline(counted.mean, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(shown)), [shorten(counted.names[number], LABEL_LENGTH) for number in shown], fontsize=7)
    label = "accuracy of each class\n(dashed: mean of all classes)"
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5), xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)


def _wrong_counts(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The matrix with zeros on the diagonal."""
    return np.asarray(matrix - np.diag(np.diag(matrix)))


def most_confused_classes(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """Up to ``NAMED`` classes, sorted: those in the most frequently confused pairs."""
    wrong = _wrong_counts(matrix)
    both = np.triu(wrong + wrong.T)
    classes: list[int] = []
    for place in np.argsort(-both, axis=None, kind="stable"):
        pair = [number for number in divmod(int(place), len(matrix)) if number not in classes]
        if not both.flat[place] or len(classes) + len(pair) > NAMED:
            break
        classes += pair
    return np.sort(np.array(classes, np.int64))


def _caption(counted: ConfusionMatrix, title: str) -> str:
    names, mistakes = counted.names, counted.mistakes
    lines = [
        f"“{names[true]}” predicted as “{names[other]}” ({counted.matrix[true, other]:,})"
        for true, other in mistakes[:CAPTION_MISTAKES]
    ]
    if len(mistakes) > CAPTION_MISTAKES:
        more = len(mistakes) - CAPTION_MISTAKES
        lines.append(f"and {more:,} other pair{'s' if more > 1 else ''}")
    ends = ""
    accuracies = counted.accuracy[counted.present]
    if len(accuracies) and np.ptp(accuracies) > 0:
        lowest, highest = (_with_accuracy(counted, end) for end in (accuracies.min(), accuracies.max()))
        ends = f"; lowest accuracy: {lowest}, highest: {highest}"
    return f"{title}; {', '.join(lines) if lines else 'no mistakes'}{ends}"


def _with_accuracy(counted: ConfusionMatrix, accuracy: float) -> str:
    """The first class with this accuracy, and how many others have it."""
    first, *others = counted.present[counted.accuracy[counted.present] == accuracy]
    more = f" and {len(others)} more" if others else ""
    return f"“{counted.names[first]}”{more} ({accuracy:.0%})"


def _compose(inputs: PlotInputs) -> Picture:
    return compose_confusion(inputs.predictor, inputs.dataset, inputs.test_images.index, inputs.test_images.title)


def _compose_for_report(finished: FinishedRun) -> Picture:
    return compose_counted_confusion(finished.run.result, finished.predictor.model, finished.name)


PLOT = Plot(compose=_compose, options=("data",), report=ReportFigure("Confusion matrix", _compose_for_report))
