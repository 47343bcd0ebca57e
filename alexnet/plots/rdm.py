"""Representational dissimilarity matrix: the correlation distance between a layer's features of each pair of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.similarity import correlation_distances
from alexnet.data.splits import evenly_spaced
from alexnet.inference.feature_index import compute_features
from alexnet.plots.canvas import NARROW_WIDTH, Picture, count_of, new_figure, shorten
from alexnet.plots.inputs import PlotInputs
from alexnet.plots.options import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 400  # in `alexnet show rdm`, at most
SHOWN = 1000  # images of a larger matrix in the plot, evenly spaced
NAMED = 30  # classes; of more, none is named


def plot_rdm(distances: NDArray[np.float64], classes: Sequence[str], title: str) -> Picture:
    """A matrix ``(n, n)`` of correlation distances, images in the order of their ``classes`` ("" for none).

    The values have the mean distance within and between classes; images without distances are left out of both.
    """
    names, codes = np.unique(np.array(classes, dtype=np.str_), return_inverse=True)
    order = evenly_spaced(np.argsort(codes, kind="stable"), SHOWN)
    matrix, ordered = distances[np.ix_(order, order)], codes[order]
    same = ordered[:, None] == ordered
    defined = ~np.eye(len(order), dtype=np.bool_) & np.isfinite(matrix)
    values, caption = {}, f"{title}. 0 is an equal pattern of features, 1 an uncorrelated one"
    if len(names) > 1:
        pairs = {"within_classes": same & defined, "between_classes": ~same & defined}
        values = {name: float(matrix[chosen].mean()) for name, chosen in pairs.items() if chosen.any()}
        words = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items()]
        caption += f"; mean distance {', '.join(words)}"

    def fill(figure: Figure) -> Figure:
        axes = figure.subplots()
        shown = axes.imshow(matrix, cmap="viridis", vmin=0, interpolation="nearest")
        figure.colorbar(shown, ax=axes, label="correlation distance, 1 − r")
        axes.set_xticks([])
        axes.set_yticks([])
        if 1 < len(names) <= NAMED:
            present = np.unique(ordered)
            middles = [float(np.flatnonzero(ordered == code).mean()) for code in present]
            axes.set_yticks(middles, [shorten(str(names[code])) for code in present])
        return figure

    return Picture(
        fill(new_figure(8.6, 7.4, title)), caption, values,
        lambda: fill(new_figure(NARROW_WIDTH, 0.95 * NARROW_WIDTH, title)),
    )  # fmt: skip


def _compose(inputs: PlotInputs) -> Picture:
    test, layer, dataset = inputs.test_images, inputs.layer(), inputs.dataset
    some = evenly_spaced(test.index, IMAGES)
    rows = list(compute_features(inputs.predictor, dataset, some, layer, inputs.reporter))
    labels = inputs.predictor.model.labels
    title = f"{test.title}: dissimilarity of {layer}, {count_of(len(some), len(test.index))} images"
    classes = [labels[target] for target in dataset.targets[some].tolist()]
    return plot_rdm(correlation_distances(np.concatenate(rows)), classes, title)


PLOT = Plot(compose=_compose, options=("data", "layer"))
