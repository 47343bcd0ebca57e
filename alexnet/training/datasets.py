"""Prepared datasets for a training or an evaluation: opened or prepared with progress, and the images to evaluate on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset, open_or_prepare
from alexnet.data.sources import BUILTIN_SOURCES, Source, open_source
from alexnet.models.bundle import model_folder
from alexnet.models.classifier import Classifier
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.training.evaluate import check_classes, not_trained_on

REFUSALS_SHOWN = 20


def prepare(
    source: Source, side: int | None, channels: int | None, reporter: Reporter, *, strict: bool = False
) -> tuple[PreparedDataset, float | None]:
    """The source's store, and the seconds that building it took, None if it was there already.

    ``reporter`` sees progress, refusals and remarks while it is built. Raises ``UserError``; see ``open_or_prepare``.
    """
    start = time.monotonic()
    begun = False

    def progress(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(f"preparing {source.name}", total or 0)
            begun = True
        reporter.advance(done, images_per_second=done / max(1e-9, time.monotonic() - start))

    dataset = open_or_prepare(source, side, channels, strict=strict, progress=progress)
    if not begun:
        return dataset, None
    reporter.finish()
    for line in remarks(dataset):
        reporter.log(line)
    return dataset, time.monotonic() - start


def remarks(dataset: PreparedDataset, most: int = REFUSALS_SHOWN) -> list[str]:
    """Lines on what was refused or is worth knowing, the first ``most`` refusals by name."""
    refused = dataset.meta["refused"]
    lines = [f"note: {warning}" for warning in dataset.meta["warnings"]]
    lines += [f"note: {count:,} × {what}" for what, count in dataset.meta["notes"].items()]
    if refused:
        lines.append(f"refused {len(refused):,} file(s):")
        lines += [f"  {item['name']}: {item['reason']}" for item in refused[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most:,} more, all named in {dataset.path / 'store.json'}")
    return lines


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


def final_split(dataset: PreparedDataset) -> str | None:
    """The split of the final evaluation: test, else val, else None."""
    return next((name for name in ("test", "val") if len(dataset.subset(name))), None)
