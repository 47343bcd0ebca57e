"""The pictures of a report, each a title and how it is drawn: those of a training, and those of images it never saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.features import FeatureIndex, compute_features
from alexnet.inference.predictor import Predictor
from alexnet.plots import (
    activations,
    architecture,
    attributions,
    augmentations,
    confusion,
    curves,
    embedding,
    filters,
    neighbours,
    predictions,
)
from alexnet.plots import receptive_field as fields
from alexnet.plots.canvas import Picture
from alexnet.plots.request import named_image
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import Run
from alexnet.training.datasets import choose_test_images

TRAINING_IMAGES = 2000  # of all, at even distances, that a report looks for neighbours among
Drawing = Callable[[], Picture]


def of_training(run: Run, predictor: Predictor, dataset: PreparedDataset) -> dict[str, Drawing]:
    """What needs no image that was held out."""
    recipe, result, network = run.recipe, run.result, predictor.model
    history = curves.read_history(run, recipe, result if result["split"] else None)
    one = dataset.read(dataset.subset("train")[:1])
    colours = dataset.colours if dataset.channels == 3 else None
    name = run.name
    return {
        "How it went": lambda: curves.plot_curves([history]),
        "The network": lambda: architecture.plot_architecture(network, f"{name} ({predictor.model.variant})"),
        "What its units see": lambda: fields.compose_receptive_fields_of(predictor.model, predictor.visible(one)[0], name),
        "What training makes of an image": lambda: augmentations.compose_augmentations(recipe, one[0], colours, name),
        "Its first kernels": lambda: filters.plot_filters({name: network}),
    }


def of_images(run: Run, predictor: Predictor, dataset: PreparedDataset) -> dict[str, Drawing]:
    """What is made of images that the network was not trained on; and what it took for what, as counted in the end."""
    split, index = choose_test_images([predictor.model], dataset)
    name, title = run.name, f"{run.name} on {dataset.name}, {split}"
    layer = predictor.model.last_hidden_layer()

    def held_out() -> NDArray[np.int64]:
        if not len(index):
            raise UserError(f"{dataset.name} has no images that the network was not trained on")
        return index

    def one() -> tuple[str, NDArray[np.uint8]]:
        return named_image(predictor, dataset, held_out()[0])

    def near() -> Picture:
        query, train = one(), evenly_spaced(dataset.subset("train"), TRAINING_IMAGES)
        known = FeatureIndex(
            train, np.concatenate(list(compute_features(predictor, dataset, train, layer, NullReporter())))
        )
        return neighbours.compose_neighbours(predictor, dataset, known, [query], layer, name)

    def maps() -> Picture:
        what, pixels = one()
        return activations.compose_activations(predictor, pixels, [], what)

    def attributed() -> Picture:
        what, pixels = one()
        return attributions.compose_attributions(predictor, pixels, None, what)

    return {
        "What it says of images": lambda: predictions.compose_predictions(predictor, dataset, held_out(), title),
        "What it takes for what": lambda: confusion.compose_counted_confusion(run.result, predictor.model, name),
        "Which images it finds alike": lambda: embedding.compose_embedding(
            predictor, dataset, held_out(), layer, title, NullReporter()
        ),
        "What lies nearest to one of them": near,
        "What its layers make of it": maps,
        "Where in it the network looks": attributed,
    }
