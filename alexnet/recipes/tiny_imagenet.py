"""Recipes for Tiny ImageNet: 64×64 photographs of up to 200 classes."""

from __future__ import annotations

from alexnet.config import AugmentSpec, Claim, DataSpec, ModelSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SMALL_NET_SGD

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
)
