"""The table of what ``alexnet show`` shows, each picture composed of what was asked for."""

from __future__ import annotations

from collections.abc import Callable

from alexnet.inference.features import open_index
from alexnet.models.bundle import load_model, model_folder
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
from alexnet.plots import receptive_field as receptive
from alexnet.plots.canvas import Picture
from alexnet.plots.request import Request
from alexnet.recipes import get_recipe
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import distinct_names, run_folder, short_name


def _curves(request: Request) -> Picture:
    histories = []
    for target, name in distinct_names(request.targets).items():
        run = Run(run_folder(target))
        final = run.result if run.finished and run.result["split"] else None
        histories.append(curves.read_history(run, run.recipe, final, name))
    return curves.draw_curves(histories)


def _activations(request: Request) -> Picture:
    predictor = request.predictor()
    ((name, pixels),) = request.shown_images(predictor)
    title = f"{short_name(request.targets[0])}, layer by layer, of {name}"
    return activations.show_activations(predictor, pixels, list(request.layers), title)


def _attributions(request: Request) -> Picture:
    predictor = request.predictor()
    ((name, pixels),) = request.shown_images(predictor)
    return attributions.show_attributions(
        predictor, pixels, request.chosen, f"{short_name(request.targets[0])}, {name}"
    )


def _predictions(request: Request) -> Picture:
    """Of images that are given, or of those that the run was not trained on."""
    predictor = request.predictor()
    if not request.images:
        return predictions.show_predictions(predictor, *request.test_images(predictor))
    return predictions.show_images(predictor, request.shown_images(predictor), short_name(request.targets[0]))


def _neighbours(request: Request) -> Picture:
    predictor = request.predictor()
    dataset, layer = request.dataset(predictor), request.layer(predictor)
    features = model_folder(request.targets[0]).parent / "features"
    index = open_index(features / layer, predictor, dataset, dataset.subset("train"), layer, request.reporter)
    run = short_name(request.targets[0])
    return neighbours.show_neighbours(predictor, dataset, index, request.shown_images(predictor), layer, run)


def _embedding(request: Request) -> Picture:
    predictor = request.predictor()
    dataset, index, title = request.test_images(predictor)
    return embedding.show_embedding(predictor, dataset, index, request.layer(predictor), title, request.reporter)


def _augmentations(request: Request) -> Picture:
    """Of a recipe by name, or as a run was trained, on an image as the run's own are kept."""
    target = request.targets[0]
    if request.is_named("augmentations"):
        recipe = get_recipe(target)
        return augmentations.show_augmentations(recipe, augmentations.stored_pixels(recipe, request.photograph()))
    ((_, pixels),) = request.shown_images(request.predictor())
    return augmentations.show_augmentations(Run(run_folder(target)).recipe, pixels, name=short_name(target))


def _fields(request: Request) -> Picture:
    """Of a variant, or of the one that a run trained, on an image as the run's network sees it."""
    target = request.targets[0]
    if request.is_named("receptive-field"):
        return receptive.show_fields(target, request.photograph())
    predictor = request.predictor()
    ((_, pixels),) = request.shown_images(predictor)
    return receptive.show_fields_of(predictor.model, predictor.visible([pixels])[0], short_name(target))


def _architecture(request: Request) -> Picture:
    """Of a variant as its authors built it, or of a run's network."""
    target = request.targets[0]
    if request.is_named("architecture"):
        return architecture.show_architecture(target)
    model = load_model(target)
    return architecture.draw_architecture(model, f"{short_name(target)} ({model.variant})")


PICTURES: dict[str, Callable[[Request], Picture]] = {
    "curves": _curves,
    "filters": lambda r: filters.draw_filters({n: load_model(t) for t, n in distinct_names(r.targets).items()}),
    "activations": _activations,
    "attributions": _attributions,
    "predictions": _predictions,
    "confusion": lambda r: confusion.show_confusion(p := r.predictor(), *r.test_images(p)),
    "neighbours": _neighbours,
    "embedding": _embedding,
    "receptive-field": _fields,
    "augmentations": _augmentations,
    "architecture": _architecture,
}
