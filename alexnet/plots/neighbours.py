"""Images and the training images nearest to them by the features of a layer, as in figure 4 (right) of the paper.

The distance is the Euclidean distance between outputs of the last hidden layer, as in §6.1 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.feature_index import FeatureIndex, compute_features, open_index
from alexnet.inference.predictor import Predictor
from alexnet.models.bundle import model_folder
from alexnet.plots.canvas import Picture, add_frame, count_of, in_two_lines, new_figure, plot_image, shorten
from alexnet.plots.inputs import FinishedRun, NamedImage, PlotInputs
from alexnet.plots.options import Plot, ReportFigure
from alexnet.runtime.log import NullReporter
from alexnet.weights.load import kind_without_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL_LENGTH = 17
NEAREST = 6  # as in the paper
WIDTH = 1.55  # inches of an image
NARROW_COLUMNS = 3
REPORT_IMAGES = 2000  # training images, evenly spaced, that a report compares with


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training image ``(H, W, C)`` uint8, the name of its class, and its distance from the query image."""

    pixels: NDArray[np.uint8]
    name: str
    distance: float


def compose_neighbours(
    predictor: Predictor,
    dataset: PreparedDataset,
    index: FeatureIndex,
    queries: Sequence[NamedImage],
    layer: str,
    run: str,
) -> Picture:
    """The images of ``index`` that are nearest to each of ``queries``, whose pixels are from ``predictor.read``.

    ``index``: the features of the dataset's training images, or of some of them. ``run``: a name for the title.
    """
    found = []
    for point in predictor.features([pixels for _, pixels in queries], layer):
        nearest, distances = index.nearest(point, NEAREST)
        pixels = predictor.visible(dataset.read(nearest))
        names = [predictor.model.labels[label] for label in dataset.targets[nearest]]
        found.append([Neighbour(*item) for item in zip(pixels, names, map(float, distances), strict=True)])
    among = count_of(len(index.images), len(dataset.subset("train")))
    title = f"{run}: nearest of {among} training images of {dataset.name}, with their Euclidean distance in {layer}"
    return plot_neighbours([(name, predictor.visible(pixels[None])[0]) for name, pixels in queries], found, title)


def plot_neighbours(queries: Sequence[NamedImage], found: Sequence[Sequence[Neighbour]], title: str) -> Picture:
    """A row for each of ``queries`` (name and input pixels): the image, then its neighbours, nearest first."""
    most = 1 + max(len(row) for row in found)
    lines = [
        f"{name}: {', '.join(f'{each.name} {_distance(each, neighbours)}' for each in neighbours)}"
        for (name, _), neighbours in zip(queries, found, strict=True)
    ]
    nearest = [
        {"image": name, "nearest": [{"class": each.name, "distance": each.distance} for each in row]}
        for (name, _), row in zip(queries, found, strict=True)
    ]
    return Picture(
        _rows(queries, found, title, most),
        f"{title}. {'. '.join(lines)}",
        {"images": nearest},
        lambda: _rows(queries, found, title, NARROW_COLUMNS),
    )


def _rows(queries: Sequence[NamedImage], found: Sequence[Sequence[Neighbour]], title: str, across: int) -> Figure:
    """For each query as many rows of ``across`` images as its neighbours need."""
    each = -(-(1 + max(len(row) for row in found)) // across)
    figure = new_figure(WIDTH * across, 0.8 + 1.95 * each * len(queries), title)
    places = figure.subplots(each * len(queries), across, squeeze=False).reshape(len(queries), -1)
    for axes in places[:, 1:].flatten():
        axes.set_visible(False)
    for row, (name, pixels), neighbours in zip(places, queries, found, strict=True):
        plot_image(row[0], pixels, in_two_lines(name, LABEL_LENGTH))
        add_frame(row[0])
        for axes, neighbour in zip(row[1:], neighbours, strict=False):
            axes.set_visible(True)
            label = f"{shorten(neighbour.name, LABEL_LENGTH)}\n{_distance(neighbour, neighbours)}"
            plot_image(axes, neighbour.pixels, label)
    return figure


def _distance(neighbour: Neighbour, row: Sequence[Neighbour]) -> str:
    """The distance, with as many decimals as give the largest of its row three significant digits."""
    farthest = max(each.distance for each in row)
    places = max(0, 2 - math.floor(math.log10(farthest))) if farthest > 0 else 0
    return f"{neighbour.distance:,.{places}f}"


def _compose(inputs: PlotInputs) -> Picture:
    """By an index of all training images, which is kept in the run's folder."""
    if kind := kind_without_run(inputs.target):
        raise UserError(
            f"{inputs.target} is {kind}, and neighbours keeps features beside a model folder: make one with alexnet "
            "convert"
        )
    predictor, dataset, layer = inputs.predictor, inputs.dataset, inputs.layer()
    folder = model_folder(inputs.target).parent / "features" / layer
    index = open_index(folder, predictor, dataset, dataset.subset("train"), layer, inputs.reporter)
    return compose_neighbours(predictor, dataset, index, inputs.named_images(), layer, inputs.run_name)


def _compose_for_report(finished: FinishedRun) -> Picture:
    """By an index of some training images, which is not kept."""
    predictor, dataset = finished.predictor, finished.dataset
    query, layer = finished.test_image(), predictor.model.last_hidden_layer()
    train = evenly_spaced(dataset.subset("train"), REPORT_IMAGES)
    features = np.concatenate(list(compute_features(predictor, dataset, train, layer, NullReporter())))
    return compose_neighbours(predictor, dataset, FeatureIndex(train, features), [query], layer, finished.name)


PLOT = Plot(
    compose=_compose, max_images=50, options=("data", "layer"),
    report=ReportFigure("Nearest training images", _compose_for_report),
)  # fmt: skip
