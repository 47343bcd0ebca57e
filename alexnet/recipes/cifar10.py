"""Recipes for CIFAR-10: tutorials, the four-layer networks of the paper's authors, the paper's figure 1."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SGD_2012, SMALL_NET_SGD

TUTORIAL_DATA = DataSpec(source="cifar10", image_size=224, pixel_normalization="symmetric")
TUTORIAL_OPTIM = OptimSpec(optimizer="adam", lr=1e-3)
TUTORIAL_TRAIN = TrainSpec(batch_size=64, epochs=5)

# cuda-convnet's example-layers: the 18 % network has no augmentation, the others have random crops of 24 pixels
CUDA_CONVNET_OPTIM = OptimSpec(
    optimizer="sgd-2012",
    lr=1e-3,
    momentum=0.9,
    bias_lr_mult=2.0,
    decay_biases=False,
    schedule="step",
    milestones=(120.0, 130.0),
)
CROPS_DATA = DataSpec(source="cifar10", image_size=24, pixel_normalization="mean-image-centre")
CROPS_AUGMENT = AugmentSpec(crop=24, flip=True)
CROPS_OPTIM = replace(CUDA_CONVNET_OPTIM, milestones=(500.0, 510.0), bias_milestones=())
CROPS_TRAIN = TrainSpec(batch_size=128, epochs=520, views=10)

FIGURE_1_DATA = DataSpec(source="cifar10", pixel_normalization="mean-image", val_fraction=0.1)
FIGURE_1_TRAIN = TrainSpec(batch_size=128, epochs=40)
FIGURE_1_SOURCE = (
    "paper figure 1: a four-layer network on CIFAR-10 without regularization, at its own best learning rate"
)

RECIPES = (
    Recipe(
        name="small-cifar10-best",
        model=ModelSpec(variant="small", dropout=0.3, width=1.5),
        data=DataSpec(source="cifar10", image_size=32, pixel_normalization="channel"),
        augment=AugmentSpec(pad=4, crop=32, flip=True),
        optim=SMALL_NET_SGD,
        train=TrainSpec(batch_size=128, epochs=24),
        claim=Claim(
            source="this project: its best AlexNet for CIFAR-10 on a CPU",
            expects="test accuracy of at least 85 %",
            top1=(0.85, 0.92),
            cost="about thirteen minutes on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="torchvision-cifar10",
        model=ModelSpec(variant="torchvision"),
        data=TUTORIAL_DATA,
        optim=TUTORIAL_OPTIM,
        train=TUTORIAL_TRAIN,
        claim=Claim(
            source="the training of many tutorials, unchanged: CIFAR-10 at 224 pixels, Adam at 1e-3, five epochs",
            expects="a falling loss; no accuracy is reported",
            cost="forty minutes to an hour on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="torchvision-cifar10-fixed",
        model=ModelSpec(variant="torchvision"),
        data=TUTORIAL_DATA,
        optim=replace(TUTORIAL_OPTIM, lr=1e-4),
        train=TUTORIAL_TRAIN,
        claim=Claim(
            source="this project: torchvision-cifar10 with one change, a tenth of its learning rate",
            expects="a lower loss than torchvision-cifar10 after the same number of steps",
            cost="forty minutes to an hour on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="keras-cifar10",
        model=ModelSpec(variant="keras"),
        data=replace(TUTORIAL_DATA, pixel_normalization="unit"),
        augment=AugmentSpec(pad=4, crop=32, flip=True, rotation=15.0),
        optim=TUTORIAL_OPTIM,
        train=TUTORIAL_TRAIN,
        claim=Claim(
            source="the Keras network of many tutorials, with their rotation, flip and crop. It gives no training; the "
            "training is that of torchvision-cifar10",
            expects="no accuracy is reported; batch normalization 'stabilises and speeds training'",
            cost="about an hour and a half on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="small-cifar10-2012",
        model=ModelSpec(variant="small", dropout=0.5, norm_layer="lrn", pool_ceil_mode=True, groups=2),
        data=DataSpec(source="cifar10", image_size=32, pixel_normalization="mean-image"),
        augment=AugmentSpec(pad=2, flip=True, color_noise="cuda-convnet"),
        optim=replace(SGD_2012, lr=0.006, decay_biases=False, schedule="one-cycle", warmup=0.25),
        train=TrainSpec(batch_size=128, epochs=6),
        claim=Claim(
            source="this project: the paper's methods on a small network. Each ablation leaves one of them out",
            expects="an accuracy that the ablations are compared with",
            cost="about three minutes on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-18pct",
        model=ModelSpec(variant="cifar-18pct"),
        data=DataSpec(source="cifar10", pixel_normalization="mean-image"),
        optim=replace(CUDA_CONVNET_OPTIM, weight_decay=0.004, rules=(LayerRule("fc4", weight_decay=1.0),)),
        train=TrainSpec(batch_size=128, epochs=140),
        claim=Claim(
            source="layers-18pct.cfg of cuda-convnet: no augmentation, 120 + 10 + 10 epochs",
            expects="test error of 18 % in 20 minutes on a GTX 580",
            top1=(0.81, 0.83),
            cost="about an hour on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-13pct",
        model=ModelSpec(variant="cifar-13pct"),
        data=CROPS_DATA,
        augment=CROPS_AUGMENT,
        optim=replace(
            CROPS_OPTIM,
            rules=tuple(LayerRule(layer, weight_decay=0.004) for layer in ("local3", "local4", "fc5")),
        ),
        train=CROPS_TRAIN,
        claim=Claim(
            source="layers-conv-local-13pct.cfg of cuda-convnet and paper §3.3, with the schedule of its 11 % file. "
            "Its authors trained on four fifths of the images for 350 of the 500 epochs, here it is all images",
            expects="test error of 13 %, several views",
            top1=(0.86, 0.88),
            cost="about five hours on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-11pct",
        model=ModelSpec(variant="cifar-11pct"),
        data=CROPS_DATA,
        augment=CROPS_AUGMENT,
        optim=replace(
            CROPS_OPTIM,
            rules=(
                LayerRule("local3", weight_decay=0.004),
                LayerRule("local4", weight_decay=0.004),
                LayerRule("fc5", weight_decay=0.01),
            ),
        ),
        train=CROPS_TRAIN,
        claim=Claim(
            source="layers-conv-local-11pct.cfg of cuda-convnet and paper §3.3: with LRN and a wider layer. Its "
            "authors trained on four fifths of the images for 350 of the 500 epochs, here it is all images",
            expects="test error of 11 %, several views",
            top1=(0.88, 0.90),
            cost="about eight hours on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-relu",
        model=ModelSpec(variant="cifar-relu"),
        data=FIGURE_1_DATA,
        optim=OptimSpec(optimizer="sgd-2012", lr=3e-3, momentum=0.9),
        train=FIGURE_1_TRAIN,
        claim=Claim(
            source=FIGURE_1_SOURCE,
            expects="25 % training error in about a sixth of the epochs that tanh needs",
            cost="about seven minutes on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-tanh",
        model=ModelSpec(variant="cifar-tanh"),
        data=FIGURE_1_DATA,
        optim=OptimSpec(optimizer="sgd-2012", lr=3e-2, momentum=0.9),
        train=FIGURE_1_TRAIN,
        claim=Claim(
            source=FIGURE_1_SOURCE,
            expects="25 % training error in about six times the epochs that ReLU needs",
            cost="about seven minutes on two CPU cores",
        ),
    ),
)
