"""What is taken for what: a matrix in which classes that are confused lie together, and each class's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from alexnet.core.errors import UserError
from alexnet.data.store import Store
from alexnet.inference.predictor import Predictor
from alexnet.training.evaluate import Counts, log_probabilities
from alexnet.visualize.canvas import BLUE, GREY, PHONE, Picture, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 100  # classes whose names fit beside a matrix
LABEL = 24
NUMBERED = 20  # classes whose counts fit into it


def show_confusion(predictor: Predictor, store: Store, index: NDArray[np.int64], title: str) -> Picture:
    """What is taken for what among a store's images ``index``. Raises ``UserError`` for too many classes to see."""
    counts = Counts(len(store.classes))
    for output, labels in log_probabilities(predictor.model, store, index, predictor.machine):
        counts.add(output, labels)
    if (matrix := counts.confusion_matrix()) is None:
        raise UserError(f"a matrix of {counts.classes:,} classes cannot be seen: alexnet evaluate lists the pairs")
    return draw_confusion(matrix, predictor.model.readable_classes, title)


def order_by_confusion(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of the classes in which those that are confused lie together.

    ``matrix`` ``(classes, classes)``: counts, true class by row. Average-linkage clustering by one minus the mean of
    both directions' shares, leaves in the order that keeps neighbours closest (Bar-Joseph, Gifford, Jaakkola 2001).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    return np.asarray(leaves_list(tree), np.int64)


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> Picture:
    """The matrix in that order, as shares of each true class on a scale of roots, and accuracies beside it.

    Of more than ``SHOWN`` classes those are drawn that are confused most.
    """
    chosen = most_confused(matrix)
    order = chosen[order_by_confusion(matrix[np.ix_(chosen, chosen)])]
    classes, accuracy = len(order), np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)
    if classes < len(matrix):
        title = f"{title}: the {classes} of {len(matrix):,} classes that are confused most"
    figures = {
        "order": [names[number] for number in order],
        "accuracy": dict(zip(names, accuracy.tolist(), strict=True)),
    }
    says = _in_words(matrix, names, accuracy, title)
    upright = (lambda: _above(matrix, accuracy, order, names, title)) if classes <= NUMBERED else None
    return Picture(_beside(matrix, accuracy, order, names, title), says, figures, upright)


def _beside(
    matrix: NDArray[np.int64],
    accuracy: NDArray[np.float64],
    order: NDArray[np.int64],
    names: Sequence[str],
    title: str,
) -> Figure:
    """The matrix on the left, accuracies on the right, a row each class."""
    side = float(np.clip(0.24 * len(order) + 3, 5.5, 16))
    figure = new_figure(side + 3.5, side, title)
    left, right = figure.subplots(1, 2, width_ratios=[side, 2.2])
    _draw_matrix(figure, left, matrix, order, names)
    _draw_accuracies(right, matrix, accuracy, order)
    right.set(yticks=[])
    return figure


def _above(
    matrix: NDArray[np.int64],
    accuracy: NDArray[np.float64],
    order: NDArray[np.int64],
    names: Sequence[str],
    title: str,
) -> Figure:
    """The matrix above the accuracies, whose rows are named again."""
    figure = new_figure(PHONE, PHONE + 2.4 + 0.17 * len(order), title)
    above, below = figure.subplots(2, 1, height_ratios=[PHONE + 1.2, 1 + 0.17 * len(order)])
    _draw_matrix(figure, above, matrix, order, names)
    _draw_accuracies(below, matrix, accuracy, order)
    below.set_yticks(range(len(order)), [shortened(names[number], LABEL) for number in order], fontsize=7)
    return figure


def _draw_matrix(
    figure: Figure, axes: Axes, matrix: NDArray[np.int64], order: NDArray[np.int64], names: Sequence[str]
) -> None:
    from matplotlib.colors import PowerNorm

    classes, counts = len(order), matrix[np.ix_(order, order)]
    shares = counts / np.maximum(matrix.sum(axis=1), 1)[order, None]
    image = axes.imshow(shares, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class (root scale)", shrink=0.6, pad=0.01)
    axes.set(xlabel="taken for", ylabel="true class")
    labels = [shortened(names[number], LABEL) for number in order]
    size = 9 if classes <= NUMBERED else 6.5
    axes.set_xticks(range(classes), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), labels, fontsize=size)
    if classes <= NUMBERED:
        _number(axes, counts, shares)


def _draw_accuracies(
    axes: Axes, matrix: NDArray[np.int64], accuracy: NDArray[np.float64], order: NDArray[np.int64]
) -> None:
    axes.barh(range(len(order)), accuracy[order], color=BLUE, height=0.8)
    if (counted := matrix.sum(axis=1) > 0).any():
        axes.axvline(accuracy[counted].mean(), color=GREY, linestyle="--", linewidth=1)
    label = "accuracy of each class\n(dashed: the mean of all)"
    axes.set(xlim=(0, 1), ylim=(len(order) - 0.5, -0.5), xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)


def most_confused(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """Up to ``SHOWN`` classes, rising: those with most images of theirs, or taken for theirs, among the mistakes."""
    wrong = matrix - np.diag(np.diag(matrix))
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-involved, kind="stable")[:SHOWN])


def _number(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts):
        colour = "black" if shares[row, column] > 0.4 else "white"
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "color": colour}
        axes.text(float(column), float(row), f"{counts[row, column]:,}", **style)


def _in_words(matrix: NDArray[np.int64], names: Sequence[str], accuracy: NDArray[np.float64], title: str) -> str:
    wrong = matrix - np.diag(np.diag(matrix))
    best = np.argsort(-wrong.flatten(), kind="stable")[:3]
    pairs = [divmod(int(place), len(matrix)) for place in best if wrong.flat[place]]
    said = [f"“{names[true]}” taken for “{names[said]}” ({wrong[true, said]:,})" for true, said in pairs]
    counted = np.flatnonzero(matrix.sum(axis=1))
    ends = ""
    if len(counted) > 1:
        low, high = counted[accuracy[counted].argmin()], counted[accuracy[counted].argmax()]
        hardest, easiest = (f"“{names[number]}” ({accuracy[number]:.0%})" for number in (low, high))
        ends = f"; the hardest class is {hardest}, the easiest {easiest}"
    return f"{title}: {', '.join(said) if said else 'no mistakes'}{ends}"
