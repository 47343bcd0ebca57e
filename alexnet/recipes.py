"""The named recipes: each a complete training with its claim, nothing inherited and nothing hidden.

A claim says what the source reports and what it costs; what was measured stands in ``results/``.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexnet.config import AugmentSpec, Claim, DataSpec, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.core.errors import unknown

_RECIPES = (
    Recipe(
        name="small-digits",
        model=ModelSpec(variant="small", dropout=0.2),
        data=DataSpec(source="digits", image_size=24, scaling="channel"),
        augment=AugmentSpec(rotation=10.0),
        optim=OptimSpec(
            update="sgd", rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=64, epochs=20),
        claim=Claim(
            source="this project: the digits that come with scikit-learn, so that a first training needs no download",
            expects="mean test accuracy of three seeds at least 98 %",
            top1=(0.98, 1.0),
            cost="ten seconds on two CPU cores with bf16, half a minute with everything around it",
        ),
    ),
    Recipe(
        name="d2l-fashion-mnist",
        model=ModelSpec(variant="d2l"),
        data=DataSpec(source="fashion-mnist", image_size=224, scaling="unit"),
        optim=OptimSpec(update="sgd", rate=0.01),
        train=TrainSpec(batch_size=128, epochs=10, test_curve=True),
        claim=Claim(
            source="Dive into Deep Learning §8.1",
            expects="training loss 0.33, training accuracy 88 %, test accuracy 89 % after 10 epochs",
            top1=(0.88, 0.90),
            cost="about two hours on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="small-fashion-mnist-quick",
        model=ModelSpec(variant="small", dropout=0.2),
        data=DataSpec(source="fashion-mnist", scaling="channel"),
        augment=AugmentSpec(flip=True),
        optim=OptimSpec(
            update="sgd", rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=128, epochs=4),
        claim=Claim(
            source="this project: what a CPU can do in about a minute",
            expects="test accuracy of at least 90 %",
            top1=(0.90, 0.94),
            cost="about a minute on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="torchvision-cifar10",
        model=ModelSpec(variant="torchvision"),
        data=DataSpec(source="cifar10", image_size=224, scaling="symmetric"),
        optim=OptimSpec(update="adam", rate=1e-3),
        train=TrainSpec(batch_size=64, epochs=5),
        claim=Claim(
            source="a widespread tutorial, to the letter: CIFAR-10 at 224 pixels, Adam at 1e-3, five epochs",
            expects="a falling loss; no accuracy is reported",
            cost="about forty minutes on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="paper-imagenet",
        model=ModelSpec(variant="paper"),
        data=DataSpec(source="imagenet", image_size=224, scaling="mean-image", validation=0.1),
        augment=AugmentSpec(crop=224, flip=True, color_noise="paper"),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, schedule="plateau", patience=3,
        ),
        train=TrainSpec(batch_size=128, epochs=90, views=10),
        claim=Claim(
            source="Krizhevsky, Sutskever and Hinton 2012, §4 and §5; table 2, '1 CNN'",
            expects="top-1 59.3 %, top-5 81.8 % on ILSVRC-2012's val, ten views",
            top1=(0.58, 0.60),
            cost="five to six days on two GTX 580 in 2012",
        ),
    ),
    Recipe(
        name="photos",
        model=ModelSpec(variant="batchnorm", dropout=0.5),
        data=DataSpec(source="", channels=3, image_size=224, scaling="channel", validation=0.1),
        augment=AugmentSpec(crop=224, flip=True),
        optim=OptimSpec(
            update="sgd", rate=0.005, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=64, epochs=30, label_smoothing=0.1, keep="best-on-val"),
        claim=Claim(
            source="this project: your own folder of photographs, one folder a class",
            expects="depends on the photographs",
            cost="a second for about 100 images and epoch on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="photos-small",
        model=ModelSpec(variant="small", dropout=0.3),
        data=DataSpec(source="", scaling="channel", validation=0.1, image_size=32),
        augment=AugmentSpec(pad=2, flip=True),
        optim=OptimSpec(
            update="sgd", rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=128, epochs=15, label_smoothing=0.1, keep="best-on-val"),
        claim=Claim(
            source="this project: a folder whose images all have one size of at most 64 pixels",
            expects="depends on the images",
            cost="a second for about 3,000 images and epoch on two CPU cores with bf16",
        ),
    ),
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}

DEFAULT = "small-digits"


def get_recipe(name: str) -> Recipe:
    """A recipe by name. Raises ``UserError`` naming the nearest if there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
