"""Recipes for ImageNet, as each network's authors trained it, and for Tiny ImageNet."""

from __future__ import annotations

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec

RECIPES = (
    Recipe(
        name="small-tiny-imagenet-best",
        model=ModelSpec(variant="small", dropout=0.5),
        data=DataSpec(source="tiny-imagenet", image_size=56, pixel_normalization="channel", val_fraction=0.1),
        augment=AugmentSpec(crop=56, flip=True),
        optim=OptimSpec(
            optimizer="sgd", lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_biases=False,
            schedule="one-cycle", warmup=0.25,
        ),
        train=TrainSpec(batch_size=128, epochs=20, views=10),
        claim=Claim(
            source="this project: its best AlexNet for 100 classes of Tiny ImageNet on a CPU",
            expects="test accuracy of at least 40 % on 100 classes",
            top1=(0.40, 0.55),
            cost="about sixteen minutes on two CPU cores with bf16",
        ),
    ),
    Recipe(
        name="paper-imagenet",
        model=ModelSpec(variant="paper"),
        data=DataSpec(source="imagenet", image_size=224, pixel_normalization="mean-image", val_fraction=0.1),
        augment=AugmentSpec(crop=224, flip=True, color_noise="paper"),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="plateau", patience=3,
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
        data=DataSpec(source="imagenet", image_size=224, pixel_normalization="mean-image-centre"),
        augment=AugmentSpec(crop=224, crop_group=32, flip=True, color_noise="cuda-convnet", color_noise_until=67.0),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(25.0, 51.0, 79.0), bias_milestones=(),
            rules=(LayerRule("conv1", start=67.0, lr=1e-5), LayerRule("conv1", start=72.0, lr=0.0)),
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
        data=DataSpec(source="imagenet", image_size=224, pixel_normalization="mean-image-centre"),
        augment=AugmentSpec(crop=224, crop_group=32, flip=True, color_noise="cuda-convnet", color_noise_until=68.0),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(23.75, 47.5, 71.25), gamma=250 ** (-1 / 3), bias_milestones=(47.5,),
            rules=(LayerRule("conv1", start=74.0, lr=0.0),),
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
        data=DataSpec(source="imagenet", image_size=227, pixel_normalization="mean-image", val_fraction=0.1),
        augment=AugmentSpec(crop=227, flip=True, color_noise="paper"),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="plateau", patience=3,
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
        data=DataSpec(source="imagenet", image_size=227, pixel_normalization="mean-image"),
        augment=AugmentSpec(crop=227, flip=True),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(20.0, 40.0, 60.0, 80.0),
        ),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="Caffe's models/bvlc_alexnet: 450,000 steps of 256, a drop each 100,000; its images are "
            "squeezed to 256 × 256, here the short side is scaled and the centre cut",
            expects="top-1 57.1 %, top-5 80.2 % on ILSVRC-2012's val, centre view",
            top1=(0.56, 0.58),
            cost="days on one GPU of 2013",
        ),
    ),
    Recipe(
        name="caffenet-imagenet",
        model=ModelSpec(variant="caffenet"),
        data=DataSpec(source="imagenet", image_size=227, pixel_normalization="mean-image"),
        augment=AugmentSpec(crop=227, flip=True),
        optim=OptimSpec(
            optimizer="sgd-2012", lr=0.01, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0, decay_biases=False,
            schedule="step", milestones=(20.0, 40.0, 60.0, 80.0),
        ),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="Caffe's models/bvlc_reference_caffenet: 450,000 steps of 256, a drop each 100,000; its images are "
            "squeezed to 256 × 256, here the short side is scaled and the centre cut",
            expects="top-1 57.4 %, top-5 80.4 % on ILSVRC-2012's val, centre view",
            top1=(0.56, 0.585),
            cost="days on one GPU of 2013",
        ),
    ),
    Recipe(
        name="torchvision-imagenet",
        model=ModelSpec(variant="torchvision"),
        data=DataSpec(source="imagenet", image_size=224, pixel_normalization="channel"),
        augment=AugmentSpec(crop=224, random_resized_crop=(0.08, 1.0), flip=True),
        optim=OptimSpec(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="step", milestones=(30.0, 60.0)),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="torchvision's references/classification for alexnet (8 × 32 images); here the random crops come "
            "from the stored 256 × 256 pixels, there from the whole photograph",
            expects="top-1 56.5 %, top-5 79.1 % on ILSVRC-2012's val, centre view (AlexNet_Weights.IMAGENET1K_V1)",
            top1=(0.555, 0.575),
            cost="not run: days on a GPU of its time",
        ),
    ),
)  # fmt: skip
