"""The named recipes: each a complete training with its claim, nothing inherited and nothing hidden.

A claim says what the source reports and what it costs; what was measured stands in ``results/``.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec, departures
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
        name="lenet5-fashion-mnist",
        model=ModelSpec(variant="lenet5"),
        data=DataSpec(source="fashion-mnist", scaling="unit"),
        optim=OptimSpec(update="sgd", rate=0.9),
        train=TrainSpec(batch_size=256, epochs=10, test_curve=True),
        claim=Claim(
            source="Dive into Deep Learning §7.6, the baseline of its AlexNet",
            expects="test accuracy about 84 % after 10 epochs",
            top1=(0.82, 0.86),
            cost="about a minute on two CPU cores",
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
        name="keras-cifar10",
        model=ModelSpec(variant="keras"),
        data=DataSpec(source="cifar10", image_size=224, scaling="unit"),
        augment=AugmentSpec(pad=4, crop=32, flip=True, rotation=15.0),
        optim=OptimSpec(update="adam", rate=1e-3),
        train=TrainSpec(batch_size=64, epochs=5),
        claim=Claim(
            source="a widespread retelling in Keras with its rotation, flip and crop; it gives no training, so that of "
            "torchvision-cifar10 is taken",
            expects="no accuracy is reported; batch normalization 'stabilises and speeds training'",
            cost="about an hour on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="small-cifar10-2012",
        model=ModelSpec(variant="small", dropout=0.5, normalization="response", columns=2),
        data=DataSpec(source="cifar10", image_size=28, scaling="mean-image"),
        augment=AugmentSpec(crop=28, flip=True, color_noise="cuda-convnet"),
        optim=OptimSpec(
            update="sgd-2012", rate=0.002, momentum=0.9, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=128, epochs=6),
        claim=Claim(
            source="this project: the paper's ingredients on a small network, to take them away one at a time",
            expects="a figure to compare others with",
            cost="two minutes on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-18pct",
        model=ModelSpec(variant="cifar-18pct"),
        data=DataSpec(source="cifar10", scaling="mean-image"),
        optim=OptimSpec(
            update="sgd-2012", rate=1e-3, momentum=0.9, weight_decay=0.004, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(120.0, 130.0), rules=(LayerRule("fc4", weight_decay=1.0),),
        ),
        train=TrainSpec(batch_size=128, epochs=140),
        claim=Claim(
            source="layers-18pct.cfg of cuda-convnet: no augmentation, 120 + 10 + 10 epochs",
            expects="test error 18 % in 20 minutes on a GTX 580",
            top1=(0.81, 0.83),
            cost="about an hour and a half on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-13pct",
        model=ModelSpec(variant="cifar-13pct"),
        data=DataSpec(source="cifar10", image_size=24, scaling="mean-image"),
        augment=AugmentSpec(crop=24, flip=True),
        optim=OptimSpec(
            update="sgd-2012", rate=1e-3, momentum=0.9, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(500.0, 510.0),
            rules=tuple(LayerRule(layer, weight_decay=0.004) for layer in ("local3", "local4", "fc5")),
        ),
        train=TrainSpec(batch_size=128, epochs=520, views=10),
        claim=Claim(
            source="layers-conv-local-13pct.cfg of cuda-convnet and paper §3.3; schedule of its 11 % file",
            expects="test error 13 %, several views",
            top1=(0.86, 0.88),
            cost="about five hours on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-11pct",
        model=ModelSpec(variant="cifar-11pct"),
        data=DataSpec(source="cifar10", image_size=24, scaling="mean-image"),
        augment=AugmentSpec(crop=24, flip=True),
        optim=OptimSpec(
            update="sgd-2012", rate=1e-3, momentum=0.9, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(500.0, 510.0),
            rules=(
                LayerRule("local3", weight_decay=0.004), LayerRule("local4", weight_decay=0.004),
                LayerRule("fc5", weight_decay=0.01),
            ),
        ),
        train=TrainSpec(batch_size=128, epochs=520, views=10),
        claim=Claim(
            source="layers-conv-local-11pct.cfg of cuda-convnet and paper §3.3: normalization, and a wider layer",
            expects="test error 11 %, several views",
            top1=(0.88, 0.90),
            cost="about eight hours on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-relu",
        model=ModelSpec(variant="cifar-relu"),
        data=DataSpec(source="cifar10", scaling="mean-image", validation=0.1),
        optim=OptimSpec(update="sgd-2012", rate=1e-3, momentum=0.9),
        train=TrainSpec(batch_size=128, epochs=40),
        claim=Claim(
            source="paper figure 1: a four-layer net on CIFAR-10, no regularization, the rate its own best",
            expects="25 % training error in about a sixth of the epochs that tanh needs",
            cost="about ten minutes on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-tanh",
        model=ModelSpec(variant="cifar-tanh"),
        data=DataSpec(source="cifar10", scaling="mean-image", validation=0.1),
        optim=OptimSpec(update="sgd-2012", rate=1e-3, momentum=0.9),
        train=TrainSpec(batch_size=128, epochs=40),
        claim=Claim(
            source="paper figure 1: a four-layer net on CIFAR-10, no regularization, the rate its own best",
            expects="25 % training error in about six times the epochs that ReLU needs",
            cost="about ten minutes on two CPU cores",
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
        name="cuda-convnet-imagenet",
        model=ModelSpec(variant="cuda-convnet"),
        data=DataSpec(source="imagenet", image_size=224, scaling="mean-image-centre"),
        augment=AugmentSpec(crop=224, crop_group=32, flip=True, color_noise="cuda-convnet", color_noise_until=67.0),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(25.0, 51.0, 79.0), bias_drops=(),
            rules=(LayerRule("conv1", start=67.0, rate=1e-5), LayerRule("conv1", start=72.0, rate=0.0)),
        ),
        train=TrainSpec(batch_size=128, epochs=91, views=10),
        claim=Claim(
            source="layer-params-145.cfg of the authors' code: the run behind '1 CNN' in the paper's table 2",
            expects="top-1 59.3 %, top-5 81.8 % on ILSVRC-2012's val (errors 0.40664, 0.18210 in its log)",
            top1=(0.58, 0.60),
            cost="five to six days on two GTX 580 in 2012",
        ),
    ),
    Recipe(
        name="cuda-convnet-imagenet-unattended",
        model=ModelSpec(variant="cuda-convnet"),
        data=DataSpec(source="imagenet", image_size=224, scaling="mean-image-centre"),
        augment=AugmentSpec(crop=224, crop_group=32, flip=True, color_noise="cuda-convnet", color_noise_until=68.0),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(23.75, 47.5, 71.25), drop=250 ** (1 / 3), bias_drops=(47.5,),
            rules=(LayerRule("conv1", start=74.0, rate=0.0),),
        ),
        train=TrainSpec(batch_size=128, epochs=95, views=10),
        claim=Claim(
            source="layer-params-170.cfg of the authors' code: the best schedule in its logs that needed no hand",
            expects="top-1 59.5 %, top-5 82.0 % on ILSVRC-2012's val, ten views; 57.7 % and 80.4 % with one",
            top1=(0.585, 0.605),
            cost="about six days on two GTX 580 in 2012",
        ),
    ),
    Recipe(
        name="one-tower-imagenet",
        model=ModelSpec(variant="one-tower"),
        data=DataSpec(source="imagenet", image_size=227, scaling="mean-image", validation=0.1),
        augment=AugmentSpec(crop=227, flip=True, color_noise="paper"),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, schedule="plateau", patience=3,
        ),
        train=TrainSpec(batch_size=128, epochs=90, views=10),
        claim=Claim(
            source="a widespread retelling, which gives the network and no training: the paper's is taken",
            expects="no accuracy is reported",
            cost="as paper-imagenet, and half as much again for its undivided convolutions",
        ),
    ),
    Recipe(
        name="bvlc-alexnet-imagenet",
        model=ModelSpec(variant="bvlc-alexnet"),
        data=DataSpec(source="imagenet", image_size=227, scaling="mean-image"),
        augment=AugmentSpec(crop=227, flip=True),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(20.0, 40.0, 60.0, 80.0),
        ),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="Caffe's models/bvlc_alexnet: 450,000 steps of 256, a drop each 100,000",
            expects="top-1 57.1 %, top-5 80.2 % on ILSVRC-2012's val, centre view",
            top1=(0.56, 0.58),
            cost="days on one GPU of 2013",
        ),
    ),
    Recipe(
        name="caffenet-imagenet",
        model=ModelSpec(variant="caffenet"),
        data=DataSpec(source="imagenet", image_size=227, scaling="mean-image"),
        augment=AugmentSpec(crop=227, flip=True),
        optim=OptimSpec(
            update="sgd-2012", rate=0.01, momentum=0.9, weight_decay=5e-4, bias_rate=2.0, decay_biases=False,
            schedule="step", drops=(20.0, 40.0, 60.0, 80.0),
        ),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="Caffe's models/bvlc_reference_caffenet: 450,000 steps of 256, a drop each 100,000",
            expects="top-1 57.4 %, top-5 80.4 % on ILSVRC-2012's val, centre view",
            top1=(0.56, 0.585),
            cost="days on one GPU of 2013",
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


def departures_from_name(recipe: Recipe) -> list[tuple[str, object, object]] | None:
    """How a recipe trains differently from the one of its name (see ``departures``); None if there is none."""
    return departures(RECIPES[recipe.name], recipe) if recipe.name in RECIPES else None
