"""Real images on which an exported network is checked, and others from which int8 takes its ranges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.data.containers import SUFFIXES
from alexnet.data.image_file import read_photograph
from alexnet.data.prepared import PreparedDataset, find_prepared, open_prepared
from alexnet.data.sources import open_source
from alexnet.data.splits import evenly_spaced
from alexnet.models.classifier import Classifier
from alexnet.runtime.log import Reporter
from alexnet.training.datasets import choose_test_images, describe_training, prepare
from alexnet.training.evaluate import match_classes
from alexnet.weights.export import CheckImages

LEAST = 8  # images, to which mirrored and cut copies are added until there are so many
PHOTOGRAPHS = "scikit-learn's two photographs, whole and in quarters, with their mirror images"


def sample_images(
    model: Classifier,
    run: Path | None,
    data: str | None,
    count: int,
    calibration: int,
    data_root: Path | None,
    reporter: Reporter,
) -> CheckImages:
    """``count`` images to check a network on, as its preprocessing stores them, and ``calibration`` others for int8.

    ``data``: an image file, a folder of images, or a source. Without it: the images of the run at ``run`` that are
    still prepared (test images for the check, training images for the calibration), else scikit-learn's two
    photographs. Raises ``UserError`` for images that cannot be read.
    """
    if data is not None:
        if files := _image_files(Path(data)):
            images = (_read(path, model.preprocessing) for path in files[: count + calibration])
            return _split(list(images), f"those of {data}", count, calibration)
        source = open_source(data, data_root, reporter.log)
        settings = model.preprocessing
        dataset, _ = prepare(
            source, settings.resize_size, settings.channels, reporter, resize=settings.resize, view=settings.view
        )
        return _of_dataset(model, dataset, count, calibration)
    if run is not None and (prepared := _prepared_images(model, run)) is not None:
        return _of_dataset(model, prepared, count, calibration)
    return _split(list(_photographs(model.preprocessing)), PHOTOGRAPHS, count, 0)


def _prepared_images(model: Classifier, run: Path) -> PreparedDataset | None:
    """The prepared dataset that a run was trained on, if it is still in the cache and has the model's sizes."""
    described = describe_training(run)
    path = None if described is None else find_prepared(str(described.get("data")))
    if path is None:
        return None
    with contextlib.suppress(UserError):
        dataset = open_prepared(path)
        if (dataset.side, dataset.channels) == (model.preprocessing.resize_size, model.preprocessing.channels):
            return dataset
    return None


def _of_dataset(model: Classifier, dataset: PreparedDataset, count: int, calibration: int) -> CheckImages:
    split, index = choose_test_images([model], dataset)
    if not len(index):
        split, index = "all", np.arange(len(dataset.targets))
    chosen = evenly_spaced(index, count)  # so that all classes of a sorted set occur
    others = np.setdiff1d(dataset.subset("train") if len(dataset.subset("train")) else index, chosen)
    numbers = _numbers(model, dataset)
    return CheckImages(
        torch.from_numpy(dataset.read(chosen)),
        f"{len(chosen):,} {split} images of {dataset.name}",
        None if numbers is None else torch.from_numpy(numbers[dataset.targets[chosen]]),
        torch.from_numpy(dataset.read(evenly_spaced(others, calibration))) if calibration and len(others) else None,
    )


def _numbers(model: Classifier, dataset: PreparedDataset) -> NDArray[np.int64] | None:
    """For each class of the dataset its number in the model; None if the model does not have them."""
    if list(model.classes) == dataset.classes:
        return np.arange(len(dataset.classes))
    try:
        return np.array(match_classes(model, dataset.classes, dataset.name)[0], np.int64)
    except UserError:
        return None


def _split(images: Sequence[NDArray[np.uint8]], source: str, count: int, calibration: int) -> CheckImages:
    """The first images for the check, the others for the calibration if there are enough."""
    pixels = torch.from_numpy(np.stack(images))
    if len(pixels) < LEAST:
        source = f"{source} and their mirror images"
    while len(pixels) < LEAST:
        pixels = torch.cat([pixels, pixels.flip(2), pixels.flip(1)])
    enough = calibration and len(images) >= 2 * LEAST
    check = pixels[: max(LEAST, min(count, len(images) // 2))] if enough else pixels[:count]
    return CheckImages(check, source, calibration=pixels[len(check) :][:calibration] if enough else None)


def _image_files(path: Path) -> list[Path]:
    """The image files at a path: the file itself, or those of a folder without folders; none for other sources."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    if not path.is_dir() or any(inside.is_dir() for inside in path.iterdir()):
        return []
    return sorted(inside for inside in path.iterdir() if inside.suffix.lower() in SUFFIXES)


def _read(path: Path, settings: Preprocessing) -> NDArray[np.uint8]:
    return read_photograph(path, settings.resize_size, settings.channels, None, settings.resize, settings.view)


def _photographs(settings: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    from sklearn.datasets import load_sample_images

    for photograph in load_sample_images().images:
        height, width = (side // 2 for side in photograph.shape[:2])
        parts = [photograph, photograph[:height, :width], photograph[:height, width:], photograph[height:, :width]]
        for part in [*parts, photograph[height:, width:]]:
            image = np.ascontiguousarray(part)
            pixels = read_photograph(
                image, settings.resize_size, settings.channels, resize=settings.resize, view=settings.view
            )
            yield from (pixels, pixels[:, ::-1])
