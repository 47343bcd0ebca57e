"""t-SNE of a layer's output: many images as points in two dimensions, coloured by class, with thumbnails.

The features (by default of the last hidden layer) are reduced to 50 principal components, then to two dimensions by
t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008); both are scikit-learn's. Points that are
close together have similar features; distances between far groups have no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.feature_index import compute_features
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import MARKERS, NARROW_WIDTH, Picture, class_markers, count_of, hide_axes, new_figure, shorten
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.log import NullReporter, Reporter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = 1500  # in one plot, at most
COMPONENTS = 50
FEWEST = 8  # images
PERPLEXITY = 30.0
THUMBNAILS = 120
THUMBNAIL_SHARE = 0.045  # of the plot's width
CLEAREST = 12  # classes in colour, where there are more classes than markers
FAINT = "#C8C8C8"


def compose_embedding(
    predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], layer: str, title: str, reporter: Reporter
) -> Picture:
    """The images ``index`` of a dataset, at most ``IMAGES`` of them (evenly spaced), by the output of ``layer``.

    Raises ``UserError`` for too few images and for a layer that the network does not have.
    """
    some = evenly_spaced(index, IMAGES)
    points = project_tsne(np.concatenate(list(compute_features(predictor, dataset, some, layer, reporter))))
    names = predictor.model.labels
    pixels = predictor.visible(dataset.read(some))
    title = f"{title}: t-SNE of {layer} for {count_of(len(some), len(index))} images"
    return plot_embedding(points, dataset.targets[some], pixels, names, title)


def project_tsne(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Features ``(N, units)`` → points ``(N, 2)`` in 0 … 1. ``seed``: of t-SNE. Raises ``UserError`` for too few
    images.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise UserError(f"t-SNE needs at least {FEWEST} images, not {len(features)}: give more with --data")
    components = min(COMPONENTS, *features.shape)
    reduced = PCA(components, random_state=seed).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - low) / np.maximum(high - low, np.finfo(np.float32).tiny), np.float64)


def plot_embedding(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    pixels: NDArray[np.uint8],
    names: Sequence[str],
    title: str,
) -> Picture:
    """Points ``(N, 2)`` in 0 … 1 with their classes ``labels`` ``(N,)`` and images ``pixels`` ``(N, H, W, C)`` uint8.

    ``names``: of the classes. The values have the share of images whose nearest point is of the same class.
    """
    own = _nearest_is_of_own_class(points, labels)
    counts = np.bincount(labels)
    by_chance = (counts * (counts - 1)).sum() / max(1, len(labels) - 1)
    caption = (
        f"{title}. For {own.sum():,} of {len(labels):,} points the nearest point is of the same class; "
        f"by chance it would be {by_chance:,.3g}"
    )
    present = np.unique(labels)
    named = present
    if len(present) > MARKERS:
        named = _clearest(present, labels, own)
        caption += f"; the {len(named)} classes that are separated best are in colour, the others in grey"

    def fill(figure: Figure, thumbnails: int, legend: Mapping[str, Any]) -> Figure:
        _plot_points(figure.subplots(), points, labels, pixels, named, names, thumbnails)
        figure.legend(frameon=False, fontsize=8, **legend)
        return figure

    at_right = {"loc": "outside right upper", "ncols": 1 + (len(named) > MARKERS // 2)}
    below = {"loc": "outside lower center", "ncols": 2}
    return Picture(
        fill(new_figure(11, 8.6, title), THUMBNAILS, at_right),
        caption,
        {"nearest_is_of_own_class": float(own.mean())},
        lambda: fill(new_figure(NARROW_WIDTH, 1.2 * NARROW_WIDTH + 0.09 * len(named), title), THUMBNAILS // 6, below),
    )


def _plot_points(
    axes: Axes,
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    pixels: NDArray[np.uint8],
    named: NDArray[np.int64],
    names: Sequence[str],
    thumbnails: int,
) -> None:
    rest = ~np.isin(labels, named)
    if rest.any():
        axes.scatter(
            points[rest, 0],
            points[rest, 1],
            s=10,
            color=FAINT,
            label=f"{len(np.unique(labels[rest]))} other classes",
        )
    for (colour, shape), label in zip(class_markers(len(named)), named, strict=True):
        some = points[labels == label]
        axes.scatter(
            some[:, 0],
            some[:, 1],
            s=30,
            color=colour,
            marker=shape,
            alpha=0.8,
            linewidths=0,
            label=shorten(names[label]),
        )
    for number in _spread(points, thumbnails):
        _plot_thumbnail(axes, points[number], pixels[number])
    margin = 0.04 + 1.2 * THUMBNAIL_SHARE
    hide_axes(axes).set(xlim=(-0.04, 1 + margin), ylim=(-0.04, 1 + margin), aspect="equal")


def _clearest(present: NDArray[np.int64], labels: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The classes whose points most often have a nearest point of the same class."""
    shares = np.array([own[labels == label].mean() for label in present])
    return np.sort(present[np.argsort(-shares, kind="stable")[:CLEAREST]])


def _plot_thumbnail(axes: Axes, point: NDArray[np.float64], pixels: NDArray[np.uint8]) -> None:
    """The image, a little to the side of its marker, so that both are visible."""
    x, y = point[0] + 0.008, point[1] + 0.008
    grey = pixels.shape[2] == 1
    extent = (x, x + THUMBNAIL_SHARE, y, y + THUMBNAIL_SHARE)
    picture = pixels[:, :, 0] if grey else pixels
    axes.imshow(picture, extent=extent, cmap="gray", vmin=0, vmax=255, zorder=3, interpolation="antialiased")


def _spread(points: NDArray[np.float64], count: int) -> list[int]:
    """Up to ``count`` images in random order whose thumbnails do not overlap."""
    kept: list[int] = []
    for number in np.random.default_rng(0).permutation(len(points)).tolist():
        point = points[number]
        if len(kept) < count and all(np.abs(point - points[other]).max() > 1.15 * THUMBNAIL_SHARE for other in kept):
            kept.append(number)
    return kept


def _nearest_is_of_own_class(points: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the nearest point of each point is of its class."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(return_distance=False)[:, 0]
    return np.asarray(labels == labels[nearest])


def _compose(inputs: PlotInputs) -> Picture:
    test, layer = inputs.test_images, inputs.layer()
    return compose_embedding(inputs.predictor, inputs.dataset, test.index, layer, test.title, inputs.reporter)


def _compose_for_report(finished: FinishedRun) -> Picture:
    test, layer = finished.test_images, finished.predictor.model.last_hidden_layer()
    return compose_embedding(finished.predictor, finished.dataset, test.index, layer, test.title, NullReporter())


PLOT = Plot(
    compose=_compose,
    options=("data", "layer"),
    report=ReportFigure("t-SNE of the last hidden layer", _compose_for_report),
)
