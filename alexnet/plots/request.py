"""What a person asked ``alexnet show`` for, and the model and images that this means."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import RUNS, UserError, no_run, unknown
from alexnet.core.names import printable
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.models.variants import VARIANTS
from alexnet.recipes import RECIPES
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import Reporter
from alexnet.runtime.run_names import short_name
from alexnet.training.datasets import choose_test_images, open_dataset_for

# What can be given for a run, where that is more than runs.
NAMES: dict[str, Collection[str]] = {"receptive-field": VARIANTS, "architecture": VARIANTS, "augmentations": RECIPES}


@dataclass(frozen=True)
class Request:
    """What a person asked to see. ``chosen``: a class by name, None for the most likely one."""

    targets: tuple[str, ...]
    images: tuple[str, ...]
    chosen: str | None
    layers: tuple[str, ...]
    data: str | None
    data_root: Path | None
    device_config: DeviceConfig
    reporter: Reporter

    def is_named(self, what: str) -> bool:
        """Whether the target is a variant's or a recipe's name and no run; a name stays one beside a folder called so.

        Raises ``UserError`` for a run without its folder, and for images that a name has no use for.
        """
        target, known = self.targets[0], NAMES[what]
        if target not in known and Path(target).is_dir():
            return False
        if target not in known and (RUNS / target).is_dir():
            raise no_run(Path(target), "")
        if self.data:
            raise UserError(f"{target} is no run, and --data is for a run's images: leave it out, or give --image")
        return True

    def predictor(self) -> Predictor:
        """The model of the one run."""
        return Predictor(self.targets[0], self.device_config)

    def dataset(self, predictor: Predictor) -> PreparedDataset:
        """The run's images, or those given."""
        return open_dataset_for(self.targets[0], predictor.model, self.data, self.data_root, self.reporter)

    def test_images(self, predictor: Predictor) -> tuple[PreparedDataset, NDArray[np.int64], str]:
        """The images that the run was not trained on, and a title for them."""
        dataset = self.dataset(predictor)
        split, index = choose_test_images([predictor.model], dataset)
        if not len(index):
            raise UserError(
                f"{dataset.name} has no images that {self.targets[0]} was not trained on: give --data others"
            )
        return dataset, index, f"{short_name(self.targets[0])} on {dataset.name}, {split}"

    def shown_images(self, predictor: Predictor) -> list[tuple[str, NDArray[np.uint8]]]:
        """Name and pixels of the images given, or of the first that the run was not trained on."""
        if self.images:
            return [(printable(Path(image).name), predictor.read(image)) for image in self.images]
        dataset, index, _ = self.test_images(predictor)
        return [named_image(predictor, dataset, index[0])]

    def photograph(self) -> Path:
        """The image file given, or the photograph that comes along."""
        return Path(self.images[0]) if self.images else photograph()

    def layer(self, predictor: Predictor) -> str:
        """The layer asked for, or the last hidden one. Raises ``UserError`` for one that the network does not have."""
        if not self.layers:
            return predictor.model.last_hidden_layer()
        if self.layers[0] not in (known := predictor.model.layer_shapes()):
            raise unknown("layer", self.layers[0], known)
        return self.layers[0]


def named_image(predictor: Predictor, dataset: PreparedDataset, number: np.int64) -> tuple[str, NDArray[np.uint8]]:
    """An image of a store: what people call its class, with its file's name, and its pixels ``(S, S, C)``."""
    one = np.array([number])
    (path,) = dataset.names(one)
    name = predictor.model.labels[int(dataset.targets[number])]
    return f"{name} ({PurePosixPath(path).name})", dataset.read(one)[0]


def photograph() -> Path:
    """The photograph that comes along, for pictures where any will do."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"
