"""The inputs of a plot: the model, the dataset and the images that its targets and options name."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alexnet.config import Task
from alexnet.core.errors import UserError, unknown
from alexnet.core.names import printable
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor, shown_names
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import short_name
from alexnet.training.datasets import choose_test_images, open_dataset_for
from alexnet.weights.load import check_exists, is_meant_as_path, kind_without_run, load_model

NamedImage = tuple[str, NDArray[np.uint8]]
"""A name for people, and pixels ``(S, S, C)`` uint8 as a prepared dataset keeps them."""


@dataclass(frozen=True, eq=False)
class PlotInputs:
    """The targets and options of one plot.

    ``targets``: trained models, or one name from ``names`` (variants or recipes). ``images``: image files.
    ``class_name``: None for the most probable class. ``layers``: empty for the plot's own choice. ``data``: a source in
    place of the run's own. ``what``: the name of the plot; ``tasks``: of the networks that it can be made of.
    """

    targets: tuple[str, ...]
    names: Collection[str]
    images: tuple[str, ...]
    class_name: str | None
    layers: tuple[str, ...]
    data: str | None
    data_root: Path | None
    weights_root: Path | None
    device_config: DeviceConfig
    reporter: Reporter
    what: str = ""
    tasks: tuple[Task, ...] = ("classification",)

    @property
    def target(self) -> str:
        """The first target; most plots have one."""
        return self.targets[0]

    @property
    def run_name(self) -> str:
        """The name of the run's folder."""
        return short_name(self.target)

    def is_name(self) -> bool:
        """Whether the target is the name of a variant or a recipe; if there is a run folder of that name too, it is.

        Raises ``UserError`` for a run whose folder was left out, and for images of a run that a name does not have.
        """
        if self.target not in self.names and is_meant_as_path(self.target):
            check_exists(self.target)
            return False
        if self.data:
            raise UserError(
                f"{self.target} is not a run, and --data gives a run other images: leave it out, or use --image"
            )
        return True

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The trained model."""
        return Predictor(self.load(self.target), self.device_config)

    def load(self, target: str) -> Classifier:
        """The trained model of a target. Raises ``UserError``, also for a model of another task."""
        model = load_model(target, weights_root=self.weights_root, reporter=self.reporter)
        if model.task not in self.tasks:
            raise UserError(f"{target} is a model for {model.task}, and {self.what} is a plot of {_tasks(self.tasks)}")
        return model

    @functools.cached_property
    def dataset(self) -> PreparedDataset:
        """The run's own images, or those of ``data``. Raises ``UserError`` for a model without a run and no data."""
        self._check_images("--data SOURCE")
        return open_dataset_for(self.target, self.predictor.model, self.data, self.data_root, self.reporter)

    @functools.cached_property
    def test_images(self) -> TestImages:
        """The images that the model was not trained on. Raises ``UserError`` if there are none."""
        split, index = choose_test_images([self.predictor.model], self.dataset)
        if not len(index):
            raise UserError(
                f"{self.dataset.name} has no images that {self.target} was not trained on: give other --data"
            )
        return TestImages(index, f"{self.run_name} on {self.dataset.name}, {_in_words(split)}")

    def named_images(self) -> list[NamedImage]:
        """The given image files, or the first test image."""
        if self.images:
            shown = [Path(name).name for name in shown_names(self.images)]
            return [
                (printable(name), self.predictor.read(image)) for name, image in zip(shown, self.images, strict=True)
            ]
        self._check_images("--image FILE")
        return [named_image(self.predictor, self.dataset, self.test_images.index[0])]

    def _check_images(self, option: str) -> None:
        """Raise ``UserError`` for a model without a run, if no images were given."""
        if self.data is None and (kind := kind_without_run(self.target)):
            raise UserError(f"{self.target} is {kind}, so it has no images of its own: give {option}")

    def image_file(self) -> Path:
        """The given image file, or a photograph that scikit-learn contains."""
        return Path(self.images[0]) if self.images else sample_photograph()

    def layer(self) -> str:
        """The given layer, or the last hidden one. Raises ``UserError`` for a layer that the network does not have."""
        if not self.layers:
            return self.predictor.model.last_hidden_layer()
        if self.layers[0] not in (known := self.predictor.model.layer_shapes()):
            raise unknown("layer", self.layers[0], known)
        return self.layers[0]


def _in_words(split: str) -> str:
    return "training images, so accuracies are too high" if split == "training" else split


def _tasks(tasks: Sequence[Task]) -> str:
    return f"models for {' or '.join(tasks)}"


@dataclass(frozen=True, eq=False)
class TestImages:
    """``index`` ``(n,)``: numbers of images of a dataset; ``title``: run, dataset and split, for a plot's title."""

    __test__ = False  # for pytest: this is no class of tests

    index: NDArray[np.int64]
    title: str


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The inputs of a figure of a report: a finished run, its model and its images."""

    run: Run
    predictor: Predictor
    dataset: PreparedDataset

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.run.name

    @functools.cached_property
    def test_images(self) -> TestImages:
        """The images that the model was not trained on. Raises ``UserError`` if there are none."""
        split, index = choose_test_images([self.predictor.model], self.dataset)
        if not len(index):
            raise UserError(f"{self.dataset.name} has no images that the network was not trained on")
        return TestImages(index, f"{self.name} on {self.dataset.name}, {_in_words(split)}")

    def test_image(self) -> NamedImage:
        """The first test image."""
        return named_image(self.predictor, self.dataset, self.test_images.index[0])

    def training_image(self) -> NDArray[np.uint8]:
        """The first training image ``(S, S, C)``."""
        (pixels,) = self.dataset.read(self.dataset.subset("train")[:1])
        return np.asarray(pixels)


def named_image(predictor: Predictor, dataset: PreparedDataset, number: np.int64) -> NamedImage:
    """One image of a dataset, named by its class and its file."""
    one = np.array([number])
    (path,) = dataset.names(one)
    name = predictor.model.labels[int(dataset.targets[number])]
    return f"{name} ({PurePosixPath(path).name})", dataset.read(one)[0]


def check_finite(not_finite: int, images: int) -> None:
    """Raise ``UserError`` if the outputs of the model are not finite for some images: a plot would be wrong."""
    if not_finite:
        count = f"{not_finite:,} of {images:,} images"
        raise UserError(f"for {count} the output of the model is not finite: alexnet evaluate counts them")


def sample_photograph() -> Path:
    """A photograph of a flower that scikit-learn contains, for plots of any image."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"
