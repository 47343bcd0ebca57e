"""``alexnet evaluate``: exact counts of finished runs, a row each, and one for their ensemble."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexnet.cli.console import print_json
from alexnet.cli.prepare import prepare
from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset
from alexnet.data.sources import BUILTIN_SOURCES, open_source
from alexnet.models.bundle import load_model, model_folder
from alexnet.models.classifier import Classifier
from alexnet.report.text import describe_counts
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import NullReporter, Reporter
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run
from alexnet.training.evaluate import check_classes, evaluate_models, not_trained_on
from alexnet.training.finalize import final_split


def evaluate(
    *runs: Path | str,
    data: Path | str | None = None,
    views: Literal[1, 10] = 1,
    device: str | None = None,
    precision: str = "auto",
    reference: bool = False,
    data_root: Path | str | None = None,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Count each run, then their ensemble if there are several: a dict each with ``run``, ``split``, ``top1``, ``top5``
    (shares), ``loss``, ``images``, ``per_class``, ``calibration_error``, ``confusions`` (wrong pairs) and
    ``confusion_matrix`` (images, true class by row; None above 2,000 classes).

    A run given twice counts once. ``data``: other images than the run's own. Of a set without splits those are counted
    that no run was trained on. Raises ``UserError``.
    """
    runs = tuple({model_folder(run).resolve(): run for run in runs}.values())
    device_config = resolve_device(device, precision, reference=reference)
    models = [load_model(run) for run in runs]
    for run, model in zip(runs, models, strict=True):
        if views == 10 and model.preprocessing.crop == model.preprocessing.resize_size:
            raise UserError(f"{run} sees whole images, it was trained without augment.crop: ten views need a crop")
    root = Path(data_root) if data_root else None
    reporter = reporter or NullReporter()
    datasets = [open_dataset_for(run, model, data, root, reporter) for run, model in zip(runs, models, strict=True)]
    split, index = choose_test_images(models, datasets[0])
    with device_config.enough_memory("give fewer runs at a time, or --device cpu"):
        counts = evaluate_models(models, datasets, index, device_config, views, reporter)
    names = [str(run) for run in runs] + ["ensemble"]
    rows = []
    for name, count in zip(names, counts, strict=False):
        matrix = count.confusion_matrix()
        row = {"run": name, "split": split, "views": views, **count.summary(datasets[0].classes)}
        rows.append({**row, "confusion_matrix": None if matrix is None else matrix.tolist()})
    return rows


def open_dataset_for(
    run: Path | str, model: Classifier, data: Path | str | None, data_root: Path | None, reporter: Reporter
) -> PreparedDataset:
    """The images given, or those of the run, as the model wants them. Raises ``UserError``, for other classes too."""
    if data is None:
        if not (trained := trained_on(run)):
            raise UserError(f"{run} is a model without its run, so its images are not known: give --data SOURCE")
        data = str(trained["source"])
        name, _, rest = data.partition(":")
        place = Path(rest if name in BUILTIN_SOURCES else data)
        if place.is_absolute() and not place.exists():
            raise UserError(f"the images of {run} are no longer at {place}: say where with --data")
    source = open_source(str(data), data_root, reporter.log)
    check_classes(model, source.classes, source.name)
    dataset, _ = prepare(source, model.preprocessing.resize_size, model.preprocessing.channels, reporter)
    return dataset


def trained_on(run: Path | str) -> dict[str, Any] | None:
    """What ``run.json`` says of the training that left a model; None for a model without its run folder."""
    folder = model_folder(run)
    place = next((place for place in (folder, folder.parent) if (place / "run.json").is_file()), None)
    return Run(place).description if place else None


def choose_test_images(models: Sequence[Classifier], dataset: PreparedDataset) -> tuple[str, NDArray[np.int64]]:
    """What to count, and a word for it: the test images (else val) of a set that has splits of its own.

    Of a set that was dealt here, every image that no model was fitted to or chosen by, wherever it lies now and
    whatever else has come to it: ``"test"`` if these are the ones held out, else ``"unseen"``.
    """
    split = final_split(dataset)
    index = not_trained_on(models, dataset)
    if not dataset.auto_split or not len(index):
        return split or "test", dataset.subset(split or "test")
    own = split == "test" and np.array_equal(index, dataset.subset("test"))
    return ("test" if own else "unseen"), index


def main(arguments: argparse.Namespace) -> int:
    """Count and print."""
    rows = evaluate(
        *arguments.runs, data=arguments.data, views=arguments.views, device=arguments.device, reference=arguments.reference,
        precision=arguments.precision or "auto", data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    if arguments.json:
        print_json(rows if len(rows) > 1 else rows[0])
        return 0
    print(describe_counts(rows))
    return 0
