"""Photographs and the training images nearest to them in the space of the last hidden layer: figure 4, right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.data.prepared import PreparedDataset
from alexnet.inference.features import FeatureIndex
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import Picture, framed, in_two_lines, new_figure, shortened, show_image, some_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL = 17
NEAREST = 6  # shown, as in the paper
WIDTH = 1.55  # inches, of an image
ON_PHONES = 3  # in a row


Query = tuple[str, NDArray[np.uint8]]
"""A photograph's name and pixels."""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training image ``(H, W, C)``, the name of its class, and how far it is from the photograph."""

    pixels: NDArray[np.uint8]
    name: str
    distance: float


def show_neighbours(
    predictor: Predictor, dataset: PreparedDataset, index: FeatureIndex, queries: Sequence[Query], layer: str, run: str
) -> Picture:
    """The nearest of a store's images to each of ``queries``, whose pixels the predictor read, by an index of its train
    images, or of some of them.
    """
    found = []
    for point in predictor.features([pixels for _, pixels in queries], layer):
        nearest, distances = index.nearest(point, NEAREST)
        seen = predictor.visible(dataset.read(nearest))
        names = [predictor.model.labels[label] for label in dataset.targets[nearest]]
        found.append([Neighbour(*item) for item in zip(seen, names, map(float, distances), strict=True)])
    among = some_of(len(index.images), len(dataset.subset("train")))
    title = (
        f"{run}: the nearest of {among} images in {dataset.name}'s train split, how far they are (Euclidean, {layer})"
    )
    return draw_neighbours([(name, predictor.visible(pixels[None])[0]) for name, pixels in queries], found, title)


def draw_neighbours(queries: Sequence[Query], found: Sequence[Sequence[Neighbour]], title: str) -> Picture:
    """A row for each of ``queries``, (name, pixels as the network saw them), then its neighbours, nearest first."""
    most = 1 + max(len(row) for row in found)
    said = [
        f"{name}: {', '.join(f'{each.name} {_distance(each, neighbours)}' for each in neighbours)}"
        for (name, _), neighbours in zip(queries, found, strict=True)
    ]
    nearest = [
        {"image": name, "nearest": [{"class": each.name, "distance": each.distance} for each in row]}
        for (name, _), row in zip(queries, found, strict=True)
    ]
    return Picture(
        _rows(queries, found, title, most),
        f"{title}. {'. '.join(said)}",
        {"images": nearest},
        lambda: _rows(queries, found, title, ON_PHONES),
    )


def _rows(queries: Sequence[Query], found: Sequence[Sequence[Neighbour]], title: str, across: int) -> Figure:
    """For each of ``queries`` as many rows as its neighbours need."""
    each = -(-(1 + max(len(row) for row in found)) // across)
    figure = new_figure(WIDTH * across, 0.8 + 1.95 * each * len(queries), title)
    places = figure.subplots(each * len(queries), across, squeeze=False).reshape(len(queries), -1)
    for axes in places[:, 1:].flatten():
        axes.set_visible(False)
    for row, (name, pixels), neighbours in zip(places, queries, found, strict=True):
        show_image(row[0], pixels, in_two_lines(name, LABEL))
        framed(row[0])
        for axes, neighbour in zip(row[1:], neighbours, strict=False):
            axes.set_visible(True)
            label = f"{shortened(neighbour.name, LABEL)}\n{_distance(neighbour, neighbours)}"
            show_image(axes, neighbour.pixels, label)
    return figure


def _distance(neighbour: Neighbour, row: Sequence[Neighbour]) -> str:
    """How far it is, to as many places as give the farthest of its row three figures."""
    farthest = max(each.distance for each in row)
    places = max(0, 2 - math.floor(math.log10(farthest))) if farthest > 0 else 0
    return f"{neighbour.distance:,.{places}f}"
