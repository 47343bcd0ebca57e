"""Recipes for CIFAR-10: tutorials, the authors' own four-layer nets, the paper's figure 1."""

from __future__ import annotations

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec

RECIPES = (
    Recipe(
        name="small-cifar10-best",
        model=ModelSpec(variant="small", dropout=0.3, width=1.5),
        data=DataSpec(source="cifar10", image_size=32, pixel_normalization="channel"),
        augment=AugmentSpec(pad=4, crop=32, flip=True),
        optim=OptimSpec(
            optimizer="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
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
        data=DataSpec(source="cifar10", image_size=224, pixel_normalization="symmetric"),
        optim=OptimSpec(optimizer="adam", lr=1e-3),
        train=TrainSpec(batch_size=64, epochs=5),
        claim=Claim(
            source="a widespread tutorial, to the letter: CIFAR-10 at 224 pixels, Adam at 1e-3, five epochs",
            expects="a falling loss; no accuracy is reported",
            cost="forty minutes to an hour on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="torchvision-cifar10-fixed",
        model=ModelSpec(variant="torchvision"),
        data=DataSpec(source="cifar10", image_size=224, pixel_normalization="symmetric"),
        optim=OptimSpec(optimizer="adam", lr=1e-4),
        train=TrainSpec(batch_size=64, epochs=5),
        claim=Claim(
            source="this project: torchvision-cifar10 with one change, a tenth of its rate",
            expects="a lower loss than the tutorial's after as many steps",
            cost="forty minutes to an hour on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="keras-cifar10",
        model=ModelSpec(variant="keras"),
        data=DataSpec(source="cifar10", image_size=224, pixel_normalization="unit"),
        augment=AugmentSpec(pad=4, crop=32, flip=True, rotation=15.0),
        optim=OptimSpec(optimizer="adam", lr=1e-3),
        train=TrainSpec(batch_size=64, epochs=5),
        claim=Claim(
            source="a widespread retelling in Keras with its rotation, flip and crop; it gives no training, so that of "
            "torchvision-cifar10 is taken",
            expects="no accuracy is reported; batch normalization 'stabilises and speeds training'",
            cost="about an hour and a half on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="small-cifar10-2012",
        model=ModelSpec(variant="small", dropout=0.5, norm_layer="lrn", pool_ceil_mode=True, groups=2),
        data=DataSpec(source="cifar10", image_size=32, pixel_normalization="mean-image"),
        augment=AugmentSpec(pad=2, flip=True, color_noise="cuda-convnet"),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.006, momentum=0.9, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=128, epochs=6),
        claim=Claim(
            source="this project: the paper's ingredients on a small network, to be taken away one at a time",
            expects="a figure to compare others with",
            cost="about three minutes on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-18pct",
        model=ModelSpec(variant="cifar-18pct"),
        data=DataSpec(source="cifar10", pixel_normalization="mean-image"),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=1e-3, momentum=0.9, weight_decay=0.004, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(120.0, 130.0), rules=(LayerRule("fc4", weight_decay=1.0),),
        ),
        train=TrainSpec(batch_size=128, epochs=140),
        claim=Claim(
            source="layers-18pct.cfg of cuda-convnet: no augmentation, 120 + 10 + 10 epochs",
            expects="test error 18 % in 20 minutes on a GTX 580",
            top1=(0.81, 0.83),
            cost="about an hour on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-13pct",
        model=ModelSpec(variant="cifar-13pct"),
        data=DataSpec(source="cifar10", image_size=24, pixel_normalization="mean-image-centre"),
        augment=AugmentSpec(crop=24, flip=True),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=1e-3, momentum=0.9, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(500.0, 510.0), bias_milestones=(),
            rules=tuple(LayerRule(layer, weight_decay=0.004) for layer in ("local3", "local4", "fc5")),
        ),
        train=TrainSpec(batch_size=128, epochs=520, views=10),
        claim=Claim(
            source="layers-conv-local-13pct.cfg of cuda-convnet and paper §3.3; schedule of its 11 % file, which was "
            "trained on four fifths of the images for 350 of the 500 epochs, here on all",
            expects="test error 13 %, several views",
            top1=(0.86, 0.88),
            cost="about five hours on two CPU cores",
        ),
    ),
    Recipe(
        name="cuda-convnet-cifar10-11pct",
        model=ModelSpec(variant="cifar-11pct"),
        data=DataSpec(source="cifar10", image_size=24, pixel_normalization="mean-image-centre"),
        augment=AugmentSpec(crop=24, flip=True),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=1e-3, momentum=0.9, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(500.0, 510.0), bias_milestones=(),
            rules=(
                LayerRule("local3", weight_decay=0.004), LayerRule("local4", weight_decay=0.004),
                LayerRule("fc5", weight_decay=0.01),
            ),
        ),
        train=TrainSpec(batch_size=128, epochs=520, views=10),
        claim=Claim(
            source="layers-conv-local-11pct.cfg of cuda-convnet and paper §3.3: normalization, and a wider layer; it "
            "was trained on four fifths of the images for 350 of the 500 epochs, here on all",
            expects="test error 11 %, several views",
            top1=(0.88, 0.90),
            cost="about eight hours on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-relu",
        model=ModelSpec(variant="cifar-relu"),
        data=DataSpec(source="cifar10", pixel_normalization="mean-image", val_fraction=0.1),
        optim=OptimSpec(optimizer="sgd-2012", lr=3e-3, momentum=0.9),
        train=TrainSpec(batch_size=128, epochs=40),
        claim=Claim(
            source="paper figure 1: a four-layer net on CIFAR-10, no regularization, the rate its own best",
            expects="25 % training error in about a sixth of the epochs that tanh needs",
            cost="about seven minutes on two CPU cores",
        ),
    ),
    Recipe(
        name="fig1-tanh",
        model=ModelSpec(variant="cifar-tanh"),
        data=DataSpec(source="cifar10", pixel_normalization="mean-image", val_fraction=0.1),
        optim=OptimSpec(optimizer="sgd-2012", lr=3e-2, momentum=0.9),
        train=TrainSpec(batch_size=128, epochs=40),
        claim=Claim(
            source="paper figure 1: a four-layer net on CIFAR-10, no regularization, the rate its own best",
            expects="25 % training error in about six times the epochs that ReLU needs",
            cost="about seven minutes on two CPU cores",
        ),
    ),
)  # fmt: skip
