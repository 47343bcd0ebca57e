"""Recipes for the user's own images: a folder of class folders.

``photos-transfer`` starts from trained weights, and is what ``alexnet train --data FOLDER`` uses. ``medical`` does so
too: it is for medical images, whose left and right differ, so it mirrors none and cuts less away, and it adds an
operating point with sensitivity and specificity. The others start from random weights.

A folder often has few images. So ``photos`` trains for at least 1,000 updates and ``photos-small``, whose network is
small, for at least 2,000. ``photos-small`` also crops at random sizes (Szegedy et al. 2014), which helps most if there
are few images. It keeps the last weights: a few dozen validation images choose no better ones. Its settings were chosen
on ten classes of Tiny ImageNet with 40 to 130 images each, and evaluated on ten other classes.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SMALL_NET_SGD

MAX_SMALL_SIDE = 64  # pixels: the images that the variant `small` is made for

TRUNK = "trunk/tiny-imagenet"  # the MODEL that a training on photographs starts from unless told otherwise
TRUNK_SIDE = 80  # pixels: its input here, and the prepared images if they are larger

ADAMW = OptimSpec(optimizer="adamw", lr=1e-4, weight_decay=0.01, decay_biases=False, schedule="one-cycle", warmup=0.25)

FROM_TRUNK_ADAMW = replace(ADAMW, rules=(LayerRule("fc8", lr_mult=30.0),))
FROM_TRUNK = TrainSpec(
    batch_size=64,
    epochs=15,
    min_steps=200,
    label_smoothing=0.1,
    class_weights="auto",
    keep="best-on-val",
    init=TRUNK,
    head="probe",
    few_images="cross-validate",
)

PHOTOS, PHOTOS_SMALL, PHOTOS_TRANSFER, MEDICAL = RECIPES = (
    Recipe(
        name="photos",
        model=ModelSpec(variant="batchnorm", dropout=0.5),
        data=DataSpec(source="", channels=3, image_size=224, pixel_normalization="channel", val_fraction=0.1),
        augment=AugmentSpec(crop=224, flip=True),
        optim=ADAMW,
        train=TrainSpec(
            batch_size=64,
            epochs=30,
            min_steps=1000,
            early_stopping=0.4,
            label_smoothing=0.1,
            class_weights="auto",
            keep="best-on-val",
        ),
        claim=Claim(
            source="this project: a folder of your photographs, with one folder for each class",
            expects="depends on the photographs",
            cost="each epoch one second per 100 images on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="photos-small",
        model=ModelSpec(variant="small", dropout=0.3),
        data=DataSpec(source="", pixel_normalization="channel", val_fraction=0.1, image_size=48),
        augment=AugmentSpec(crop=56, random_resized_crop=(0.35, 1.0), flip=True),
        optim=SMALL_NET_SGD,
        train=TrainSpec(
            batch_size=64,
            epochs=15,
            min_steps=2000,
            label_smoothing=0.1,
            class_weights="auto",
        ),
        claim=Claim(
            source="this project: a folder of your images, all of one size of at most 64 pixels",
            expects="depends on the images",
            cost="each epoch one second per 3,000 images on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="photos-transfer",
        model=ModelSpec(variant="trunk"),  # with other weights in train.init, their variant
        data=DataSpec(source="", channels=3, image_size=TRUNK_SIDE, val_fraction=0.1),
        augment=AugmentSpec(random_resized_crop=(0.35, 1.0), flip=True),
        optim=FROM_TRUNK_ADAMW,
        train=FROM_TRUNK,
        claim=Claim(
            source="this project: a folder of your photographs, from trained weights (Yosinski et al. 2014)",
            expects="depends on the photographs and the weights",
            cost="each epoch one second per 300 images on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="medical",
        model=ModelSpec(variant="trunk"),
        data=DataSpec(source="", channels=3, image_size=TRUNK_SIDE, val_fraction=0.1),
        augment=AugmentSpec(random_resized_crop=(0.6, 1.0)),
        optim=FROM_TRUNK_ADAMW,
        train=replace(FROM_TRUNK, operating_point="youden"),
        claim=Claim(
            source="this project: a folder of medical images, from trained weights; this is no medical device",
            expects="depends on the images and the weights",
            cost="each epoch one second per 300 images on two CPU cores with bf16",
        ),
    ),
)

_TRANSFER = (PHOTOS_TRANSFER.name, MEDICAL.name)


def recipe_for(side: int) -> Recipe:
    """The recipe for images that are prepared at ``side`` pixels: ``photos-small`` up to 64, else ``photos``."""
    return fitted(PHOTOS if side > MAX_SMALL_SIDE else PHOTOS_SMALL, side)


def fitted(recipe: Recipe, side: int) -> Recipe:
    """A recipe for your own images, fitted to images that are prepared at ``side`` pixels; any other as it is.

    Crops have 7/8 of the side. The network of ``photos-small`` has an input of 3/4 of the side, 28 to 48 pixels. With
    the weights that come with this package, whole images are used, prepared at ``TRUNK_SIDE`` pixels if they are
    larger; with other weights, the input has the size that they were trained with.
    """
    if not is_for_own_images(recipe):
        return recipe
    if recipe.name in _TRANSFER and recipe.train.init.split("/")[0] == PHOTOS_TRANSFER.model.variant:
        return replace(recipe, data=replace(recipe.data, resize_size=TRUNK_SIDE if side > TRUNK_SIDE else None))
    small = min(max(28, side * 3 // 4), 48)
    sizes = {PHOTOS_SMALL.name: small, **dict.fromkeys(_TRANSFER)}
    image_size = sizes.get(recipe.name, recipe.data.image_size)
    return replace(
        recipe,
        data=replace(recipe.data, image_size=image_size),
        augment=replace(recipe.augment, crop=max(4, side * 7 // 8)),
    )


def is_for_own_images(recipe: Recipe) -> bool:
    """Whether it is one of the recipes of this module."""
    return recipe.name in (known.name for known in RECIPES)


def for_weights(recipe: Recipe, variant: str, last_layer: str) -> Recipe:
    """A recipe that starts from weights, for the network ``variant`` of these; any other recipe as it is.

    ``last_layer``: the name of the layer that gives the logits, which has a rule of its own.
    """
    if recipe.name not in _TRANSFER or recipe.model.variant != PHOTOS_TRANSFER.model.variant:
        return recipe
    optim = recipe.optim
    if optim.rules == PHOTOS_TRANSFER.optim.rules:
        optim = replace(optim, rules=tuple(replace(rule, layer=last_layer) for rule in optim.rules))
    return replace(recipe, model=replace(recipe.model, variant=variant), optim=optim)
