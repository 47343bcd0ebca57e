"""A map of images: the last hidden layer's outputs in two dimensions, coloured by class, thumbnails on it.

Principal components first, then t-SNE (van der Maaten and Hinton 2008), both scikit-learn's. Distances between far
groups on such a map mean nothing; what lies close together was close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.features import compute_features
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import MARKS, PHONE, Picture, bare, class_marks, new_figure, shortened, some_of
from alexnet.runtime.log import Reporter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = 1500  # on one map
COMPONENTS = 50
FEWEST = 8  # images of which a map can be made
PERPLEXITY = 30.0
THUMBNAILS = 120
THUMBNAIL_SHARE = 0.045  # of the map's width
CLEAREST = 12  # of more classes than there are marks, so many have one
FAINT = "#C8C8C8"


def show_embedding(
    predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], layer: str, title: str, reporter: Reporter
) -> Picture:
    """Of a store's images ``index``, at most ``IMAGES`` at even distances, by a layer's outputs.

    Raises ``UserError`` for too few images and for a layer that the network does not have.
    """
    some = evenly_spaced(index, IMAGES)
    places = flatten(np.concatenate(list(compute_features(predictor, dataset, some, layer, reporter))))
    names = predictor.model.labels
    seen = predictor.visible(dataset.read(some))
    title = f"{title}: {some_of(len(some), len(index))} images by {layer}, t-SNE, near is alike"
    return draw_embedding(places, dataset.targets[some], seen, names, title)


def flatten(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float64]:
    """Features ``(N, units)`` as places on a map, ``(N, 2)`` in 0 … 1. Raises ``UserError`` for too few images."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise UserError(f"a map needs at least {FEWEST} images, not {len(features)}")
    components = min(COMPONENTS, *features.shape)
    reduced = PCA(components, random_state=seed).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, np.finfo(np.float32).tiny), np.float64)


def draw_embedding(
    places: NDArray[np.float64],
    labels: NDArray[np.int64],
    pixels: NDArray[np.uint8],
    names: Sequence[str],
    title: str,
) -> Picture:
    """``places`` ``(N, 2)`` in 0 … 1 with ``labels`` ``(N,)`` and the images ``pixels`` ``(N, H, W, C)``."""
    own = _own_nearest(places, labels)
    counts = np.bincount(labels)
    by_chance = (counts * (counts - 1)).sum() / max(1, len(labels) - 1)
    says = (
        f"{title}: {own.sum():,} of {len(labels):,} lie nearest to one of their own class, {by_chance:,.3g} by chance"
    )
    present = np.unique(labels)
    named = present
    if len(present) > MARKS:
        named = _clearest(present, labels, own)
        says += f"; the {len(named)} classes that lie closest together are in colour, the others grey"

    def draw(figure: Figure, thumbnails: int, legend: Mapping[str, Any]) -> Figure:
        _draw_map(figure.subplots(), places, labels, pixels, named, names, thumbnails)
        figure.legend(frameon=False, fontsize=8, **legend)
        return figure

    beside = {"loc": "outside right upper", "ncols": 1 + (len(named) > MARKS // 2)}
    below = {"loc": "outside lower center", "ncols": 2}
    return Picture(
        draw(new_figure(11, 8.6, title), THUMBNAILS, beside),
        says,
        {"nearest_is_of_own_class": float(own.mean())},
        lambda: draw(new_figure(PHONE, 1.2 * PHONE + 0.09 * len(named), title), THUMBNAILS // 6, below),
    )


def _draw_map(
    axes: Axes,
    places: NDArray[np.float64],
    labels: NDArray[np.int64],
    pixels: NDArray[np.uint8],
    named: NDArray[np.int64],
    names: Sequence[str],
    thumbnails: int,
) -> None:
    rest = ~np.isin(labels, named)
    if rest.any():
        axes.scatter(
            places[rest, 0],
            places[rest, 1],
            s=10,
            color=FAINT,
            label=f"{len(np.unique(labels[rest]))} other classes",
        )
    for (colour, shape), label in zip(class_marks(len(named)), named, strict=True):
        some = places[labels == label]
        axes.scatter(
            some[:, 0],
            some[:, 1],
            s=30,
            color=colour,
            marker=shape,
            alpha=0.8,
            linewidths=0,
            label=shortened(names[label]),
        )
    for number in _spread(places, thumbnails):
        _thumbnail(axes, places[number], pixels[number])
    room = 0.04 + 1.2 * THUMBNAIL_SHARE
    bare(axes).set(xlim=(-0.04, 1 + room), ylim=(-0.04, 1 + room), aspect="equal")


def _clearest(present: NDArray[np.int64], labels: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The few classes of which most images lie beside one of their own, where there are too many to tell by colour."""
    shares = np.array([own[labels == label].mean() for label in present])
    return np.sort(present[np.argsort(-shares, kind="stable")[:CLEAREST]])


def _thumbnail(axes: Axes, place: NDArray[np.float64], pixels: NDArray[np.uint8]) -> None:
    """The image itself, a little beside its mark, so that both are seen."""
    x, y = place[0] + 0.008, place[1] + 0.008
    grey = pixels.shape[2] == 1
    extent = (x, x + THUMBNAIL_SHARE, y, y + THUMBNAIL_SHARE)
    picture = pixels[:, :, 0] if grey else pixels
    axes.imshow(picture, extent=extent, cmap="gray", vmin=0, vmax=255, zorder=3, interpolation="antialiased")


def _spread(places: NDArray[np.float64], count: int) -> list[int]:
    """Up to ``count`` images whose thumbnails do not cover each other, of all classes alike: in a shuffled order."""
    kept: list[int] = []
    for number in np.random.default_rng(0).permutation(len(places)).tolist():
        place = places[number]
        if len(kept) < count and all(np.abs(place - places[other]).max() > 1.15 * THUMBNAIL_SHARE for other in kept):
            kept.append(number)
    return kept


def _own_nearest(places: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image's nearest neighbour on the map is of its class."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(return_distance=False)[:, 0]
    return np.asarray(labels == labels[nearest])
