"""Recipes for the user's own images: a folder of class folders."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SMALL_NET_SGD

MIN_SMALL_SIDE, MAX_SMALL_SIDE = 28, 64  # pixels: the images that the variant `small` is made for

PHOTOS, PHOTOS_SMALL = RECIPES = (
    Recipe(
        name="photos",
        model=ModelSpec(variant="batchnorm", dropout=0.5),
        data=DataSpec(source="", channels=3, image_size=224, pixel_normalization="channel", val_fraction=0.1),
        augment=AugmentSpec(crop=224, flip=True),
        optim=OptimSpec(
            optimizer="adamw",
            lr=1e-4,
            weight_decay=0.01,
            decay_biases=False,
            schedule="one-cycle",
            warmup=0.25,
        ),
        train=TrainSpec(batch_size=64, epochs=30, label_smoothing=0.1, keep="best-on-val"),
        claim=Claim(
            source="this project: a folder of your photographs, with one folder for each class",
            expects="depends on the photographs",
            cost="each epoch one second per 100 images on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="photos-small",
        model=ModelSpec(variant="small", dropout=0.3),
        data=DataSpec(source="", pixel_normalization="channel", val_fraction=0.1, image_size=32),
        augment=AugmentSpec(pad=2, flip=True),
        optim=SMALL_NET_SGD,
        train=TrainSpec(batch_size=128, epochs=15, label_smoothing=0.1, keep="best-on-val"),
        claim=Claim(
            source="this project: a folder of your images, all of one size of at most 64 pixels",
            expects="depends on the images",
            cost="each epoch one second per 3,000 images on two CPU cores with bf16",
        ),
    ),
)


def recipe_for(side: int) -> Recipe:
    """The recipe for a folder of images that are prepared at ``side`` pixels.

    Up to 64 pixels it is ``photos-small``; the network's input has the size of the images, at least 28 pixels. Above 64
    pixels it is ``photos``, with crops of 7/8 of the side, which are resized to the network's input.
    """
    if side > MAX_SMALL_SIDE:
        return replace(PHOTOS, augment=replace(PHOTOS.augment, crop=side * 7 // 8))
    return replace(PHOTOS_SMALL, data=replace(PHOTOS_SMALL.data, image_size=max(MIN_SMALL_SIDE, side)))
