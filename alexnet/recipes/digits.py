"""Recipes for the 8×8 digits that come with scikit-learn."""

from __future__ import annotations

from alexnet.config import AugmentSpec, Claim, DataSpec, ModelSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SMALL_NET_SGD

RECIPES = (
    Recipe(
        name="small-digits",
        model=ModelSpec(variant="small", dropout=0.2),
        data=DataSpec(source="digits", image_size=24, pixel_normalization="channel"),
        augment=AugmentSpec(rotation=10.0),
        optim=SMALL_NET_SGD,
        train=TrainSpec(batch_size=64, epochs=20),
        claim=Claim(
            source="this project: the digits of scikit-learn, so that the first training needs no download",
            expects="test accuracy of at least 98 %, the mean of three seeds",
            top1=(0.98, 1.0),
            cost="ten seconds of training on two CPU cores with bf16; the whole command takes half a minute",
        ),
    ),
)
