"""Open the prepared dataset for a training or an evaluation, and choose its test images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.config import NO_INIT, Recipe, Resize, Task, first_difference, override
from alexnet.core.dicom_view import AS_STATED, DicomView
from alexnet.core.errors import UserError, is_absent
from alexnet.data.prepared import PreparedDataset, find_prepared, open_or_prepare, open_prepared
from alexnet.data.sources import BUILTIN_SOURCES, Annotations, Source, absolute_text, open_source
from alexnet.data.sources.class_folders import same_name
from alexnet.data.uses import note_run
from alexnet.models.bundle import model_folder
from alexnet.models.classifier import Classifier
from alexnet.recipes import get_recipe
from alexnet.recipes.photos import PHOTOS_TRANSFER, is_for_own_images
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.training.evaluate import check_classes, match_classes, not_trained_on

REFUSED_SHOWN = 20
ANNOTATIONS: Mapping[Task, Annotations] = {"classification": "labels", "segmentation": "masks", "detection": "boxes"}
"""Task → what must be known of each image."""


def prepare(
    source: Source,
    side: int | None,
    channels: int | None,
    reporter: Reporter,
    *,
    strict: bool = False,
    resize: Resize = "short-side",
    view: DicomView = AS_STATED,
) -> tuple[PreparedDataset, float | None]:
    """The prepared dataset of a source, and the seconds that preparing took; None if the dataset existed already.

    ``side``: of the prepared images in pixels, None for the default. ``channels``: 1 or 3, None for those of the
    source. ``resize``, ``view``: see :class:`~alexnet.config.Preprocessing`. ``strict``: raise an error at the first
    refused file. ``reporter`` receives progress and remarks while the dataset is prepared. Raises ``UserError``; see
    ``open_or_prepare``.
    """
    start = time.monotonic()
    started = False

    def progress(done: int, total: int | None) -> None:
        nonlocal started
        if not started:
            reporter.begin(f"preparing {source.name}", total or 0)
            started = True
        reporter.advance(done, images_per_second=done / max(1e-9, time.monotonic() - start))

    dataset = open_or_prepare(source, side, channels, resize=resize, view=view, strict=strict, progress=progress)
    if not started:
        return dataset, None
    reporter.finish()
    for line in remarks(dataset):
        reporter.log(line)
    return dataset, time.monotonic() - start


def open_begun(
    run: Run, recipe: Recipe, location: str, labels: Sequence[str], now: Path, reporter: Reporter
) -> PreparedDataset | None:
    """The images that an interrupted training began with, if its source has changed since; otherwise None.

    ``location``: where the training's images are, see ``absolute_source``; ``labels``: the files with their classes;
    ``now``: the folder of the prepared dataset of the source as it is now. None also if another recipe, other images or
    other labels were given, or if the images of the beginning are not in the cache. Raises ``UserError`` if
    ``run.json`` is damaged.
    """
    if not (run.folder / "run.json").is_file() or run.finished or run.is_empty:
        return None
    began = run.description
    same = began["source"] == location and list(began.get("labels") or ()) == list(labels)
    same = same and first_difference(run.recipe, recipe) is None
    path = find_prepared(began["data"], now) if same else None
    if path is None or path == now:
        return None
    reporter.log(
        f"note: {location} has changed since the training in {run.folder} began: it continues on the images that it "
        "began with; to train on the changed images, give another folder with --out"
    )
    return open_prepared(path)


def run_without_source(
    data: Path | str,
    runs: Sequence[Run],
    recipe: Recipe | str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    init: Path | str | None,
    labels: Sequence[str],
) -> tuple[Run, PreparedDataset] | None:
    """The interrupted run among ``runs`` that began with the images at ``data``, which are gone, and these images.

    ``recipe``, ``overrides``, ``init``: what the user gave, and ``labels`` the files with the classes; they must fit
    the run. None if the images at ``data`` are there, if no run fits or several do, and if the prepared dataset is not
    in the cache.
    """
    name, colon, rest = str(data).partition(":")
    place = rest if colon and name in BUILTIN_SOURCES else str(data)
    if not place or not is_absent(Path(place).expanduser()):
        return None
    try:
        wanted = absolute_text(str(data))
    except ValueError:  # text that no path can be
        return None
    found = []
    for run in runs:
        with contextlib.suppress(UserError, OSError):
            if not (run.folder / "run.json").is_file() or run.finished or run.is_empty:
                continue
            began, trained = run.description, run.recipe
            same = began["source"] == wanted and list(began.get("labels") or ()) == list(labels)
            if not (same and _asks_for(trained, recipe, overrides, init)):
                continue
            if path := find_prepared(began["data"]):
                found.append((run, path))
    if len(found) != 1:
        return None
    run, path = found[0]
    return run, open_prepared(path)


def _asks_for(
    trained: Recipe,
    recipe: Recipe | str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    init: Path | str | None,
) -> bool:
    """Whether a user who gave these arguments of ``train`` asks for the recipe ``trained``.

    The sizes in a recipe for the user's own images follow from the images, which are gone, so they are not compared.
    """
    if recipe is None:
        transfer = trained.name == PHOTOS_TRANSFER.name
        asked = get_recipe(trained.name)
        if not is_for_own_images(trained) or transfer != (init != NO_INIT):
            return False
    else:
        asked = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
    if asked.name != trained.name or (init or asked.train.init) != trained.train.init:
        return False
    changed = override(trained if is_for_own_images(trained) else asked, overrides)
    same_place = replace(changed, data=replace(changed.data, source=trained.data.source))
    same_init = replace(same_place, train=replace(same_place.train, init=trained.train.init))
    return first_difference(trained, same_init) is None


def note_use(dataset: PreparedDataset, run: Run, reporter: Reporter) -> None:
    """Name the place of the images, and note there that the training of ``run`` needs them until it has finished."""
    reporter.log(f"the prepared dataset is in {dataset.path}")
    try:
        note_run(dataset.path, run.folder)
    except OSError as error:  # another person's cache, a full disk: the training itself holds the dataset
        reporter.log(
            f"warning: cannot write into {dataset.path} that this training needs it ({error.strerror or error}): if it "
            "is interrupted, continue it before its images change"
        )


def remarks(dataset: PreparedDataset, most: int = REFUSED_SHOWN) -> list[str]:
    """Lines about warnings, notes and refused files of a prepared dataset, the first ``most`` refused files by name."""
    refused = dataset.meta["refused"]
    lines = [f"note: {warning}" for warning in dataset.meta["warnings"]]
    lines += [f"note: {count:,} × {what}" for what, count in dataset.meta["notes"].items()]
    if refused:
        lines.append(f"refused {len(refused):,} file(s):")
        lines += [f"  {item['name']}: {item['reason']}" for item in refused[:most]]
    if len(refused) > most:
        lines.append(f"  and {len(refused) - most:,} more; {dataset.path / 'store.json'} lists them all")
    return lines


def open_dataset_for(
    run: Path | str,
    model: Classifier,
    data: Path | str | None,
    data_root: Path | None,
    reporter: Reporter,
    labels: Sequence[Path] = (),
) -> PreparedDataset:
    """The prepared dataset of the source ``data``, or of the run's own source, as ``model`` needs its images.

    Its classes become those of the model, matched by name; ``reporter`` receives a note on the model's classes that the
    images do not have. ``run``: the run folder, or its model folder. ``labels``: files with the classes of the images
    in ``data``, which is the folder of the first of them if it is None. Raises ``UserError``, also for images with a
    class that the model does not have.
    """
    data = str(labels[0].parent) if labels and data is None else data
    if data is None:
        if not (described := describe_training(run)):
            raise UserError(f"{run} is a model without its run folder, so its images are unknown: give --data SOURCE")
        data = str(described["source"])
        name, _, rest = data.partition(":")
        place = Path(rest if name in BUILTIN_SOURCES else data)
        if place.is_absolute() and not place.exists():
            raise UserError(f"the images of {run} are no longer at {place}: give their new path with --data")
        labels = [Path(path) for path in described.get("labels") or ()]
        if gone := [path for path in labels if not path.exists()]:
            raise UserError(f"the labels of {run} are no longer at {gone[0]}: give their new path with --labels")
    source = open_source(str(data), data_root, reporter.log, labels, ANNOTATIONS[model.task])
    if not set(map(same_name, source.classes)) & set(map(same_name, (*model.classes, *model.labels))):
        match_classes(model, source.classes, source.name)  # raises; before images are decoded, which takes long
    settings = model.preprocessing
    dataset, _ = prepare(
        source, settings.resize_size, settings.channels, reporter, resize=settings.resize, view=settings.view
    )
    if list(model.classes) == dataset.classes:
        return dataset
    if model.task != "classification":  # masks and boxes hold the numbers of classes
        check_classes(model, dataset.classes, source.name)
    numbers, notes = match_classes(model, dataset.classes, source.name)
    for note in notes:
        reporter.log(note)
    return dataset.with_classes(model.classes, model.labels, numbers)


def describe_training(run: Path | str) -> dict[str, Any] | None:
    """``run.json`` of the run that the model at ``run`` belongs to; None for a model without its run folder."""
    folder = model_folder(run)
    place = next((place for place in (folder, folder.parent) if (place / "run.json").is_file()), None)
    return Run(place).description if place else None


def choose_test_images(models: Sequence[Classifier], dataset: PreparedDataset) -> tuple[str, NDArray[np.int64]]:
    """The images to evaluate on: the name of the split and the positions ``(n,)`` of its images.

    A source with its own splits: its test images, or the val images if it has no test split. A source that was split by
    this package: every image that was not a training or validation image of any of the models, in whatever split it is
    now. The name is then ``"test"`` if these are the images of the test split, otherwise ``"unseen"``. If
    there is no such image, as for a cross-validated model, all images, and the name ``"training"``.
    """
    split = final_split(dataset)
    index = not_trained_on(models, dataset)
    if dataset.auto_split and split == "test" and not len(index):
        return "training", np.arange(len(dataset.targets))
    if not dataset.auto_split or not len(index):
        return split or "test", dataset.subset(split or "test")
    own = split == "test" and np.array_equal(index, dataset.subset("test"))
    return ("test" if own else "unseen"), index


def final_split(dataset: PreparedDataset) -> str | None:
    """The split of the final evaluation: test, else val, else None."""
    return next((name for name in ("test", "val") if len(dataset.subset(name))), None)
