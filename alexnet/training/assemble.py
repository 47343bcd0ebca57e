"""What a training starts from: a recipe meets a store, and what does not fit is said before anything is computed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.config import Preprocessing, Recipe
from alexnet.core.errors import UserError
from alexnet.data.splits import hold_out
from alexnet.data.store import Store
from alexnet.model.network import Classifier
from alexnet.model.saved import SavedModel
from alexnet.model.variants import create_model


def split_indices(recipe: Recipe, store: Store) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The store's images to fit and to validate on: its own val, or the share of train that the recipe holds out.

    Raises ``UserError`` if the recipe cannot do without a split that is empty.
    """
    train, val = store.subset("train"), store.subset("val")
    if not len(val) and recipe.data.validation > 0:
        held = hold_out(store.labels[train], store.hashes[train], recipe.data.validation)
        train, val = train[~held], train[held]
    if not len(train):
        raise UserError(f"{store.name} has no images to train on: give data.validation a smaller share of them")
    deciding = [
        *(["train.keep=last"] if recipe.train.keep == "best-on-val" else []),
        *(["optim.schedule=constant"] if recipe.optim.schedule == "plateau" else []),
    ]
    if deciding and not len(val):
        raise UserError(
            f"recipe {recipe.name!r} decides by validation and {store.name} has too few images to hold any out: "
            f"add {' '.join(f'--set {setting}' for setting in deciding)}"
        )
    if recipe.train.test_curve and not len(store.subset("test")):
        raise UserError(
            f"recipe {recipe.name!r} plots test after each epoch and {store.name} has no test images: "
            "add --set train.test_curve=false"
        )
    return train, val


def assemble(recipe: Recipe, store: Store, seed: int) -> SavedModel:
    """The recipe's model for the store's classes and pixels, its weights drawn.

    Raises ``UserError`` if the recipe's settings do not fit the stored images.
    """
    network = build_network(recipe, store, seed)
    return SavedModel(
        network=network,
        variant=recipe.model.variant,
        classes=tuple(store.classes),
        readable_classes=tuple(store.readable_classes),
        preprocessing=build_preprocessing(recipe, store, network.image_size),
        mean_image=torch.from_numpy(store.mean_image) if recipe.data.scaling.startswith("mean-image") else None,
        seen=torch.from_numpy(np.sort(store.hashes[np.concatenate(split_indices(recipe, store))]).view(np.int64)),
    )


def build_network(recipe: Recipe, store: Store, seed: int) -> Classifier:
    """The recipe's network for the store's classes and channels, its weights drawn."""
    if recipe.augment.color_noise != "none" and store.channels != 3:
        raise UserError(f"augment.color_noise needs colour and {store.name} is grey: --set augment.color_noise=none")
    crop, pad = recipe.augment.crop, recipe.augment.pad
    if (crop or 0) > store.side + 2 * pad or pad >= store.side:
        raise UserError(
            f"augment.crop={crop} with augment.pad={pad} does not fit the stored images of {store.side} pixels: "
            f"choose a smaller one, e.g. --set augment.crop={store.side}"
        )
    return create_model(
        recipe.model.variant, len(store.classes), store.channels, recipe.data.image_size, seed=seed,
        **recipe.model.departures(),
    )  # fmt: skip


def build_preprocessing(recipe: Recipe, store: Store, image_size: int) -> Preprocessing:
    """What turns the store's pixels into this network's input."""
    scaling = recipe.data.scaling
    constants = {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5)}
    if scaling == "channel":
        mean, deviation = store.mean, store.deviation
    else:
        mean, deviation = ((value,) * store.channels for value in constants.get(scaling, (0.0, 1.0)))
    channels: Literal[1, 3] = 1 if store.channels == 1 else 3
    crop = recipe.augment.crop or store.side
    return Preprocessing(channels, store.side, crop, image_size, scaling, tuple(mean), tuple(deviation))
