"""The network of a training, built from a recipe and a prepared dataset.

Settings of the recipe that do not fit the dataset raise an error here, before anything is computed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.config import NO_INIT, Preprocessing, Recipe, Resize, Task
from alexnet.core.errors import UserError, unknown
from alexnet.data.boxes import COLUMNS
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import hold_out
from alexnet.metrics.detection import check_installed
from alexnet.models.alexnet import architecture_of
from alexnet.models.classifier import Classifier, ModelInfo
from alexnet.models.detection import DetectionNet
from alexnet.models.registry import build, change_architecture, create_model
from alexnet.training.detection import check_boxed
from alexnet.training.linear_probe import MOST_IMAGES
from alexnet.training.segmentation import check_masks
from alexnet.training.transfer import check_frozen, transfer_weights, transferred_preprocessing

FEW_IMAGES = 50  # training images a class on average: with fewer, ``train.few_images`` decides
MOST_NUMBERS = 2**31 - 1  # of a tensor: many GPU kernels count in 32 bits
IMBALANCE = 5  # times as many images in the largest class as in the smallest: from this ratio ``auto`` weights classes


def split_indices(recipe: Recipe, dataset: PreparedDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the training and of the validation images in the prepared dataset, ``(n,)`` each.

    Validation images are the val split of the dataset. If it is empty, the recipe's ``data.val_fraction`` of train is
    held out. If a probe is the model, all images but those of a test split of the source are training images. Raises
    ``UserError`` if a split that the recipe needs is empty.
    """
    train, val = dataset.subset("train"), dataset.subset("val")
    if fits_probe_only(recipe, dataset):
        own = has_own_test_images(dataset)
        return (np.sort(np.concatenate([train, val])) if own else np.arange(len(dataset.targets))), np.arange(0)
    if not len(val) and recipe.data.val_fraction > 0:
        fraction, named = recipe.data.val_fraction, dataset.has_groups
        held = hold_out(dataset.targets[train], dataset.groups[train], fraction, large_groups=named)
        train, val = train[~held], train[held]
    if not len(train):
        raise UserError(f"{dataset.name} has no images left to train on: set data.val_fraction to a smaller share")
    deciding = [
        *(["train.keep=last"] if recipe.train.keep == "best-on-val" else []),
        *(["optim.schedule=constant"] if recipe.optim.schedule == "plateau" else []),
        *(["train.early_stopping=0"] if recipe.train.early_stopping else []),
    ]
    if deciding and not len(val):
        raise UserError(
            f"recipe {recipe.name!r} needs validation images, but {dataset.name} has too few images to hold any out: "
            f"add {' '.join(f'--set {setting}' for setting in deciding)}"
        )
    if recipe.train.test_curve and not len(dataset.subset("test")):
        raise UserError(
            f"recipe {recipe.name!r} evaluates test images after each epoch, but {dataset.name} has none: "
            "add --set train.test_curve=false"
        )
    return train, val


def fits_probe_only(recipe: Recipe, dataset: PreparedDataset) -> bool:
    """Whether the images are so few that a linear probe is the model: see ``train.few_images``."""
    wanted = recipe.train.few_images == "cross-validate" and recipe.train.head == "probe"
    images = len(dataset.subset("train"))
    few = images < FEW_IMAGES * len(dataset.classes) and len(dataset.targets) <= MOST_IMAGES
    return wanted and recipe.train.init != NO_INIT and few


def has_own_test_images(dataset: PreparedDataset) -> bool:
    """Whether the source itself has a test split."""
    return not dataset.auto_split and len(dataset.subset("test")) > 0


def build_model(recipe: Recipe, dataset: PreparedDataset, seed: int, init: Classifier | None = None) -> Classifier:
    """The recipe's network for the classes and pixels of a prepared dataset, with initialized weights and its ``info``.

    ``seed``: random seed of new weights. ``init``: the network that the training starts from, see ``transfer.py``.
    Raises ``UserError`` if the recipe's settings do not fit the prepared images, or the weights the network.
    """
    check_task(recipe, dataset)
    network = build_network(recipe, dataset, seed, init)
    if recipe.train.positive_class and recipe.train.positive_class not in dataset.classes:
        raise unknown("class", recipe.train.positive_class, dataset.classes)
    if isinstance(network, DetectionNet):
        network.set_anchors(_boxes_to_find(recipe, dataset, network.image_size))
    trained_on = np.sort(dataset.hashes[np.concatenate(split_indices(recipe, dataset))])
    subtracts_image = recipe.data.pixel_normalization.startswith("mean-image")
    if recipe.train.accumulate_steps > 1 and any(isinstance(each, nn.BatchNorm2d) for each in network.modules()):
        raise UserError(
            "train.accumulate_steps cannot be used with batch normalization, whose statistics would be those of parts "
            "of the batch: add --set train.accumulate_steps=1, or --set model.norm_layer=none"
        )
    network.info = ModelInfo(
        variant=recipe.model.variant,
        classes=tuple(dataset.classes),
        labels=tuple(dataset.labels),
        preprocessing=build_preprocessing(recipe, dataset, network.image_size),
        mean_image=torch.from_numpy(dataset.mean_image) if subtracts_image else None,
        trained_on=torch.from_numpy(trained_on.view(np.int64)),
    )
    if init is not None:
        preprocessing = transferred_preprocessing(network.preprocessing, init)
        network.info = replace(network.info, preprocessing=preprocessing, mean_image=None)
        check_frozen(recipe.train.freeze, network, transfer_weights(network, init))
    return network


def _boxes_to_find(recipe: Recipe, dataset: PreparedDataset, image_size: int) -> NDArray[np.floating]:
    """The boxes ``(B, 4)`` of the training images that count, in pixels of the network's input."""
    train, val = split_indices(recipe, dataset)
    boxes = dataset.read_boxes(train).reshape(-1, COLUMNS)
    counted = boxes[(boxes[:, 0] >= 0) & (boxes[:, 5] == 0)]
    if not len(counted):
        raise UserError(f"no training image of {dataset.name} has a box: check that the annotations belong to them")
    decided = dataset.read_boxes(val)
    if recipe.train.keep == "best-on-val" and not ((decided[..., 0] >= 0) & (decided[..., 5] == 0)).any():
        raise UserError(
            f"no validation image of {dataset.name} has a box, so no weights are the best: add --set train.keep=last"
        )
    scale = image_size / (recipe.augment.crop or dataset.side)
    corners: NDArray[np.floating] = counted[:, 1:5].astype(np.float64) * scale
    return corners


def build_network(recipe: Recipe, dataset: PreparedDataset, seed: int, init: Classifier | None = None) -> Classifier:
    """The recipe's network for the classes and channels of a prepared dataset, with initialized weights.

    ``seed``: random seed of the weights. ``init``: the network that the training starts from. If it is of the recipe's
    variant and the recipe changes nothing of it but dropout, it has that network's architecture and image size. Raises
    ``UserError`` if the augmentation does not fit the prepared images.
    """
    check_augmentation(recipe, dataset)
    architecture = None if init is None else architecture_of(init)
    overrides = recipe.model.overrides()
    same = init is not None and init.variant == recipe.model.variant and overrides.keys() <= {"dropout"}
    if init is not None and architecture is not None and same:
        changed = change_architecture(architecture, **overrides)
        side = recipe.data.image_size or init.image_size
        sizes = (len(dataset.classes), dataset.channels, side)
        network = build(recipe.model.variant, changed, *sizes, head=recipe.model.head)
        network.init_weights(seed)
        return network
    return create_model(
        recipe.model.variant,
        num_classes=len(dataset.classes),
        in_channels=dataset.channels,
        image_size=recipe.data.image_size,
        seed=seed,
        head=recipe.model.head,
        **overrides,
    )


def check_task(recipe: Recipe, dataset: PreparedDataset) -> None:
    """Raise ``UserError`` for settings that the task of the recipe does not have, and for images without its targets.

    A folder with masks can be opened as a prepared dataset of its own only, so this is about trainings in Python too.
    """
    task = recipe.model.task
    if task == "classification":
        return
    check_targets(task, dataset)
    unused = {
        "train.views=1": recipe.train.views == 1,
        "train.head=random": recipe.train.head == "random",
        "augment.rotation=0": recipe.augment.rotation == 0,
    }
    if task == "detection":
        unused |= {
            "train.class_weights=none": recipe.train.class_weights == "none",
            "train.label_smoothing=0": recipe.train.label_smoothing == 0,
            "train.accumulate_steps=1": recipe.train.accumulate_steps == 1,
            f"augment.crop={dataset.side}": recipe.augment.crop in (None, dataset.side),  # no object is cut off
            "augment.pad=0": recipe.augment.pad == 0,  # mirrored margins would show objects without boxes
        }
    for setting, right in unused.items():
        if not right:
            raise UserError(f"recipe {recipe.name!r} is for {task}, which needs {setting}: add --set {setting}")


def resize_of(recipe: Recipe) -> Resize:
    """How the images of a recipe are resized: for detection both sides, so that no object is cut off."""
    return "stretch" if recipe.model.task == "detection" else "short-side"


def check_targets(task: Task, dataset: PreparedDataset) -> None:
    """Raise ``UserError`` for a dataset without the targets of a task, and if a package of its extra is missing."""
    if task == "segmentation":
        check_masks(dataset)
    if task == "detection":
        check_boxed(dataset)
        check_installed()


def class_weights(
    choice: Literal["none", "auto", "balanced"], targets: NDArray[np.int64], num_classes: int
) -> torch.Tensor | None:
    """The weight of each class in the loss, ``(num_classes,)`` float32, None if all are equal.

    ``targets``: ``(n,)`` classes of the training images. A class with k of the n images has the weight
    n / (classes · k), as in scikit-learn's ``class_weight="balanced"`` (King and Zeng 2001); their mean over the images
    is 1. ``choice``: as ``TrainSpec.class_weights``. A class without training images has the weight 0.
    """
    counts = np.bincount(targets, minlength=num_classes)
    present = counts[counts > 0]
    if choice == "none" or (choice == "auto" and present.max() < IMBALANCE * present.min()):
        return None
    weights = np.where(counts > 0, len(targets) / (len(present) * np.maximum(counts, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))


def check_size(network: Classifier, images: int) -> None:
    """Raise ``UserError`` if the output of a layer for so many images has more numbers than GPU kernels count to."""
    largest = max(math.prod(shape) for shape in network.layer_shapes().values())
    if images * largest > MOST_NUMBERS:
        raise UserError(
            f"a layer of {network.variant} has more than 2³¹ outputs for {images:,} images, too many for a GPU: "
            f"at most {MOST_NUMBERS // largest:,} fit; lower train.batch_size or raise train.accumulate_steps"
        )


def check_augmentation(recipe: Recipe, dataset: PreparedDataset) -> None:
    """Raise ``UserError`` if the recipe's augmentation does not fit the prepared images."""
    if recipe.augment.color_noise != "none" and dataset.channels != 3:
        raise UserError(
            f"augment.color_noise needs colour images and those of {dataset.name} are grey: "
            "add --set augment.color_noise=none"
        )
    crop, pad = recipe.augment.crop, recipe.augment.pad
    if (crop or 0) > dataset.side + 2 * pad or pad >= dataset.side:
        raise UserError(
            f"augment.crop={crop} with augment.pad={pad} does not fit the prepared images of {dataset.side} pixels: "
            f"choose a smaller crop, e.g. --set augment.crop={dataset.side}"
        )


def build_preprocessing(recipe: Recipe, dataset: PreparedDataset, image_size: int) -> Preprocessing:
    """The preprocessing that turns the pixels of a prepared dataset into the input of this network."""
    pixel_normalization = recipe.data.pixel_normalization
    constants = {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5)}
    if pixel_normalization == "channel":
        mean, std = dataset.mean, dataset.std
    else:
        mean, std = ((value,) * dataset.channels for value in constants.get(pixel_normalization, (0.0, 1.0)))
    channels: Literal[1, 3] = 1 if dataset.channels == 1 else 3
    crop = recipe.augment.crop or dataset.side
    return Preprocessing(
        channels, dataset.side, crop, image_size, pixel_normalization, tuple(mean), tuple(std),
        resize=resize_of(recipe), window=recipe.data.window, frame=recipe.data.frame,
    )  # fmt: skip
