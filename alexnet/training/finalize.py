"""The end of a training: write the model folder, evaluate the model once on the test images, remove the checkpoints."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from alexnet.core.errors import UserError
from alexnet.core.files import check_place
from alexnet.data.prepared import PreparedDataset
from alexnet.metrics.counts import CROSS_VALIDATED, Metrics
from alexnet.models.bundle import load_model, save_model
from alexnet.models.classifier import Classifier
from alexnet.runtime.checkpoint import list_checkpoints
from alexnet.runtime.device import describe_hardware
from alexnet.runtime.lock import MovedError
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.training.build import has_own_test_images
from alexnet.training.datasets import final_split
from alexnet.training.evaluate import evaluate_models, most_probable, prediction_rows
from alexnet.training.linear_probe import CrossValidation
from alexnet.training.loop import Training
from alexnet.training.operating_point import measure_classes
from alexnet.training.statistics import model_statistics
from alexnet.training.tasks import evaluate_task


def finalize(training: Training, model: Classifier, matrix_gflops: float) -> dict[str, Any]:
    """Write ``model/`` and return the content of ``result.json``: final metrics, training time and hardware.

    ``matrix_gflops``: speed of the hardware in GFLOP/s, measured just before the training. The model is evaluated on
    the test images; on val if there are none; on nothing (``split`` is None) if there is neither. For a probe on few
    images without a test split of their own, the metrics are those of the folds. Raises ``OSError`` if the files cannot
    be written.
    """
    recipe, dataset, device_config = training.recipe, training.dataset, training.device_config
    save_model(model, training.run.model_folder)
    folds, split, counted = training.cross_validation, final_split(dataset), dict[str, Any]()
    in_folds = metrics_in_folds(dataset, folds) if folds else None
    if split and recipe.model.task != "classification":
        counted = evaluate_task(model, dataset, dataset.subset(split), device_config, training.reporter).summary()
    elif in_folds and not has_own_test_images(dataset):
        split, counted = CROSS_VALIDATED, in_folds.summary(dataset.classes)
    elif split:
        views = recipe.train.views
        (counts,) = evaluate_models([model], [dataset], dataset.subset(split), device_config, views, training.reporter)
        counted = counts.summary(dataset.classes) | model_statistics(
            model, dataset, dataset.subset(split), device_config
        )
        if views == 10:  # also one view, to compare (paper §4.1)
            (single,) = evaluate_models([model], [dataset], dataset.subset(split), device_config, 1, training.reporter)
            counted["one_view"] = {"top1": single.top1, "top5": single.top5}
    if split and recipe.train.operating_point != "none":
        counted["roc"] = measure_classes(
            recipe, model, dataset, device_config, split, training.val_index, folds, training.seed
        )
    if folds and in_folds:
        counted["cross_validation"] = _describe_folds(dataset, folds, in_folds)
    seconds = training.state.seconds
    epochs = [line for line in training.run.metrics() if "train_loss" in line]
    transferred = training.transferred
    if transferred is not None:
        layers = {"copied": transferred.copied, "new": transferred.new, "frozen": training.frozen}
        counted["init"] = {"model": recipe.train.init, **{name: list(value) for name, value in layers.items()}}
    return {
        "recipe": recipe.name,
        **({} if recipe.model.task == "classification" else {"task": recipe.model.task}),
        "seed": training.seed,
        "source": dataset.name,
        "data": dataset.digest,
        "splits": {
            "train": len(training.train_index),
            "val": len(training.val_index),
            "test": 0 if split == CROSS_VALIDATED else len(dataset.subset("test")),
        },
        "split": split,
        "views": recipe.train.views,
        "epochs": training.epochs,
        "kept_epoch": training.kept_epoch,
        **counted,
        "last_epoch": epochs[-1] if epochs else None,  # None if the metrics were removed
        "steps": training.state.step,
        "seconds": seconds,
        "images_per_second": training.images_trained_on / max(seconds, 1e-9),
        "matrix_gflops": matrix_gflops,
        "hardware": describe_hardware(device_config),
    }


def metrics_in_folds(dataset: PreparedDataset, found: CrossValidation) -> Metrics:
    """The metrics of the images in the folds."""
    metrics = Metrics(len(dataset.classes), split=CROSS_VALIDATED, class_names=tuple(dataset.classes))
    metrics.add(torch.from_numpy(found.nested.log_probabilities), torch.from_numpy(dataset.targets[found.index]))
    return metrics


def _describe_folds(dataset: PreparedDataset, found: CrossValidation, metrics: Metrics) -> dict[str, Any]:
    """The accuracy in the folds, the probe that is the model, and the mistakes in the folds by file."""
    titles, *rows = predictions_in_folds(dataset, found)
    return {
        "folds": found.folds,
        "images": metrics.images,
        "top1": metrics.top1,
        "layer": found.choice.layer,
        "regularization": found.choice.regularization,
        "mistakes": [dict(zip(titles, row, strict=True)) for row in rows if row[1] != row[2]],
    }


def predictions_in_folds(dataset: PreparedDataset, found: CrossValidation) -> list[tuple[str, str, str, str]]:
    """The rows of :func:`prediction_rows` for the images in the folds."""
    best = most_probable(torch.from_numpy(found.nested.log_probabilities))
    return prediction_rows(dataset, found.index, best)


def remove_checkpoints(run: Run, reporter: Reporter) -> None:
    """Remove the checkpoints of a finished run once its model has been read and verified; else warn and keep them.

    The copy of the model that it started from is removed too.
    """
    folders = [folder for folder in (run.checkpoints, run.init_folder) if folder.exists()]
    if not folders:
        return
    try:
        load_model(run.model_folder)
        for folder in folders:
            check_place(folder)
            shutil.rmtree(folder)
    except MovedError:
        raise
    except (UserError, OSError) as error:
        reporter.log(f"warning: the checkpoints in {run.checkpoints} are not removed: {error}")


def check_not_lost(run: Run) -> None:
    """Raise ``UserError`` for a run that lost its model or its result and has no checkpoint to write it again from."""
    if list_checkpoints(run.checkpoints):  # a damaged one that was renamed does not count
        return
    if (run.folder / "result.json").is_file():
        raise UserError(
            f"{run.folder} has finished but has no model in {run.model_folder}, and no checkpoint to write it from: "
            "put back a copy of that folder, or train again in another folder with --out"
        )
    if (run.model_folder / "model.json").is_file():
        raise UserError(
            f"{run.folder} has a model but no result.json, and no checkpoint to write it from: 'alexnet evaluate "
            f"{run.folder}' measures the model; to train again, give another folder with --out"
        )
