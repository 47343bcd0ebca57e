"""What is taken for what: a matrix in which classes that are confused lie together, and each class's accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from alexnet.core.errors import UserError
from alexnet.data.store import Store
from alexnet.inference.predictor import Predictor
from alexnet.training.evaluate import Counts, log_probabilities
from alexnet.visualize.canvas import BLUE, GREY, Picture, new_figure, shortened

NAMED = 60  # classes whose names fit beside the matrix
NUMBERED = 20  # classes whose counts fit into it
ORDERED = 1000  # above, the best order of a tree's leaves takes minutes: the tree's own is taken


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
    tree = linkage(condensed, "average")
    if len(matrix) <= ORDERED:
        tree = optimal_leaf_ordering(tree, condensed)
    return np.asarray(leaves_list(tree), np.int64)


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> Picture:
    """The matrix in that order, as shares of each true class on a scale of roots, and accuracies beside it."""
    from matplotlib.colors import PowerNorm

    classes = len(matrix)
    order = order_by_confusion(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.24 * classes + 3, 5.5, 11))
    figure = new_figure(side + 3.5, side, title)
    left, right = figure.subplots(1, 2, width_ratios=[side, 2.2])
    image = left.imshow(
        shares[np.ix_(order, order)], cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
    )
    figure.colorbar(image, ax=left, label="share of the true class (root scale)", shrink=0.6, pad=0.01)
    left.set(xlabel="taken for", ylabel="true class")
    labels = [shortened(names[number], 18) for number in order]
    if classes <= NAMED:
        size = 9 if classes <= NUMBERED else 6.5
        left.set_xticks(range(classes), labels, rotation=90, fontsize=size)
        left.set_yticks(range(classes), labels, fontsize=size)
    if classes <= NUMBERED:
        for row, true in enumerate(order):
            for column, said in enumerate(order):
                if count := matrix[true, said]:
                    colour = "black" if shares[true, said] > 0.4 else "white"
                    left.text(column, row, f"{count:,}", ha="center", va="center", fontsize=6.5, color=colour)
    accuracy = np.diag(shares)
    right.barh(range(classes), accuracy[order], color=BLUE, height=1.0 if classes > NAMED else 0.8)
    if (counted := matrix.sum(axis=1) > 0).any():
        right.axvline(accuracy[counted].mean(), color=GREY, linestyle="--", linewidth=1)
    right.set(xlim=(0, 1), ylim=(classes - 0.5, -0.5), yticks=[], xlabel="accuracy of each class\n(dashed: their mean)")
    right.spines[["top", "right"]].set_visible(False)
    return Picture(figure, _in_words(matrix, names, title), {"order": order.tolist()})


def _in_words(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> str:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    best = np.argsort(-wrong.flatten(), kind="stable")[:3]
    pairs = [divmod(int(place), len(matrix)) for place in best if wrong.flat[place]]
    said = [f"“{names[true]}” taken for “{names[said]}” ({wrong[true, said]:,})" for true, said in pairs]
    return f"{title}: {', '.join(said) if said else 'no mistakes'}"
