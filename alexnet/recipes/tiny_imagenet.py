"""Recipes for Tiny ImageNet: 64×64 photographs of up to 200 classes.

Two of them train weights to start other trainings from. Both have the same settings, but other classes: see
``docs/transfer.md``. A third trains a smaller network, whose weights for ten random seeds are included: see
``docs/instances.md``. No validation images are set aside, because nothing is chosen during these trainings; the
settings were chosen on images of 40 of the classes, by linear classifiers for ten other ones.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, ModelSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SMALL_NET_SGD

TRUNK = Recipe(
    name="trunk-tiny-imagenet",
    model=ModelSpec(variant="trunk", dropout=0.0),
    data=DataSpec(source="tiny-imagenet", image_size=64, pixel_normalization="channel"),
    augment=AugmentSpec(crop=56, random_resized_crop=(0.35, 1.0), flip=True),
    optim=SMALL_NET_SGD,
    train=TrainSpec(batch_size=128, epochs=40),
    claim=Claim(
        source="this project: weights to start other trainings from, here of 100 classes of Tiny ImageNet",
        expects="depends on the classes",
        cost="about two hours on two CPU cores with bf16",
    ),
)

RECIPES = (
    Recipe(
        name="small-tiny-imagenet-best",
        model=ModelSpec(variant="small", dropout=0.5),
        data=DataSpec(source="tiny-imagenet", image_size=56, pixel_normalization="channel", val_fraction=0.1),
        augment=AugmentSpec(crop=56, flip=True),
        optim=SMALL_NET_SGD,
        train=TrainSpec(batch_size=128, epochs=20, views=10),
        claim=Claim(
            source="this project: its best AlexNet for 100 classes of Tiny ImageNet on a CPU",
            expects="test accuracy of at least 40 % on 100 classes",
            top1=(0.40, 0.55),
            cost="about sixteen minutes on two CPU cores with bf16",
        ),
    ),
    TRUNK,
    replace(
        TRUNK,
        name="trunk-tiny-imagenet-a",
        claim=Claim(
            source="this project: the same, trained on 50 of these 100 classes; the other 50 can be used for tests",
            expects="depends on the classes",
            cost="about an hour on two CPU cores with bf16",
        ),
    ),
    replace(
        TRUNK,
        name="trunk-seeds-tiny-imagenet-a",
        model=replace(TRUNK.model, width=0.65),
        augment=replace(TRUNK.augment, crop=48),
        train=replace(TRUNK.train, epochs=5),
        claim=Claim(
            source="this project: a smaller network, trained with ten random seeds to compare (Mehrer et al. 2020)",
            expects="depends on the classes",
            cost="about five minutes on one CPU core with bf16",
        ),
    ),
)
