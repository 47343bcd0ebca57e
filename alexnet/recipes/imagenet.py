"""Recipes for ImageNet (ILSVRC-2012): each network as its authors trained it."""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.blocks import SGD_2012, SGD_2012_CODE

PLATEAU_2012 = replace(SGD_2012, schedule="plateau")  # §5: a tenth "when the validation error rate stopped improving"

CUDA_CONVNET_DATA = DataSpec(source="imagenet", image_size=224, pixel_normalization="mean-image-centre")
CUDA_CONVNET_AUGMENT = AugmentSpec(crop=224, crop_group=32, flip=True, color_noise="cuda-convnet")
CUDA_CONVNET_TRAIN = TrainSpec(batch_size=128, epochs=91, views=10)

CAFFE_DATA = DataSpec(source="imagenet", image_size=227, pixel_normalization="mean-image")
CAFFE_AUGMENT = AugmentSpec(crop=227, flip=True)
CAFFE_OPTIM = replace(
    SGD_2012_CODE, schedule="step", milestones=(20.0, 40.0, 60.0, 80.0)
)  # each 100,000 of 450,000 steps
CAFFE_TRAIN = TrainSpec(batch_size=256, epochs=90)
CAFFE_SOURCE = (
    "450,000 steps of 256 images, a tenth of the learning rate each 100,000. Caffe stretches images to 256 × 256; here "
    "the short side is scaled to 256 and the centre is cut out"
)


def _nvidia(name: str, batch: int, lr: float, ramp: int, steps: int, file: str) -> Recipe:
    """NVIDIA's training with large batches: ``lr`` after ``ramp`` of ``steps`` steps; ``file``: its solver."""
    return Recipe(
        name=f"nvidia-batchnorm-imagenet-{name}",
        model=ModelSpec(variant="nvidia-batchnorm"),
        data=CAFFE_DATA,
        augment=CAFFE_AUGMENT,
        optim=OptimSpec(
            optimizer="lars", lr=lr, momentum=0.9, weight_decay=5e-4, trust_coeff=0.001, trust_clip=True,
            schedule="poly", warmup=ramp / steps,
        ),
        train=TrainSpec(batch_size=batch, epochs=100),
        claim=Claim(
            source=f"{file} in models/alexnet_bn of NVIDIA/caffe, commit 87a2554: LARC, rate {lr:g}, {steps:,} steps. "
            f"Different here: the rate rises linearly from 0 in {ramp} steps and then falls from its peak (there with "
            "the square of the step, from 1, and the fall begins at step 0); LARC's ratio includes the weight decay; "
            "the velocity does not include the rate; pixels are not divided by 256; batch normalization has the "
            "statistics of the whole batch (there of a part of it); images are not stretched to 256 × 256, but their "
            "centre is cut out",
            expects="no accuracy is reported",
            cost="hours on eight GPUs; not run",
        ),
    )  # fmt: skip


RECIPES = (
    Recipe(
        name="paper-imagenet",
        model=ModelSpec(variant="paper"),
        data=DataSpec(source="imagenet", image_size=224, pixel_normalization="mean-image", val_fraction=0.1),
        augment=AugmentSpec(crop=224, flip=True, color_noise="paper"),
        optim=PLATEAU_2012,
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
        data=CUDA_CONVNET_DATA,
        augment=replace(CUDA_CONVNET_AUGMENT, color_noise_until=67.0),
        optim=replace(
            SGD_2012_CODE,
            schedule="step",
            milestones=(25.0, 51.0, 79.0),
            bias_milestones=(),
            rules=(LayerRule("conv1", start=67.0, lr=1e-5), LayerRule("conv1", start=72.0, lr=0.0)),
        ),
        train=CUDA_CONVNET_TRAIN,
        claim=Claim(
            source="layer-params-145.cfg of the authors' code: the run that is '1 CNN' in the paper's table 2",
            expects="top-1 59.3 %, top-5 81.8 % on ILSVRC-2012's val (errors 0.40664, 0.18210 in its log)",
            top1=(0.58, 0.60),
            cost="five to six days on two GTX 580 in 2012",
        ),
    ),
    Recipe(
        name="cuda-convnet-imagenet-unattended",
        model=ModelSpec(variant="cuda-convnet"),
        data=CUDA_CONVNET_DATA,
        augment=replace(CUDA_CONVNET_AUGMENT, color_noise_until=68.0),
        optim=replace(
            SGD_2012_CODE,
            schedule="step",
            milestones=(23.75, 47.5, 71.25),
            gamma=250 ** (-1 / 3),
            bias_milestones=(47.5,),
            rules=(LayerRule("conv1", start=74.0, lr=0.0),),
        ),
        train=replace(CUDA_CONVNET_TRAIN, epochs=95),
        claim=Claim(
            source="layer-params-170.cfg of the authors' code: the best run in its logs with a schedule that nobody "
            "changed by hand",
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
        optim=PLATEAU_2012,
        train=TrainSpec(batch_size=128, epochs=90, views=10),
        claim=Claim(
            source="the AlexNet of many tutorials, which give the network and no training; the training is the paper's",
            expects="no accuracy is reported",
            cost="one and a half times paper-imagenet, because its convolutions have one group",
        ),
    ),
    Recipe(
        name="bvlc-alexnet-imagenet",
        model=ModelSpec(variant="bvlc-alexnet"),
        data=CAFFE_DATA,
        augment=CAFFE_AUGMENT,
        optim=CAFFE_OPTIM,
        train=CAFFE_TRAIN,
        claim=Claim(
            source=f"Caffe's models/bvlc_alexnet: {CAFFE_SOURCE}",
            expects="top-1 57.1 %, top-5 80.2 % on ILSVRC-2012's val, centre view",
            top1=(0.56, 0.58),
            cost="days on one GPU of 2013",
        ),
    ),
    Recipe(
        name="caffenet-imagenet",
        model=ModelSpec(variant="caffenet"),
        data=CAFFE_DATA,
        augment=CAFFE_AUGMENT,
        optim=CAFFE_OPTIM,
        train=CAFFE_TRAIN,
        claim=Claim(
            source=f"Caffe's models/bvlc_reference_caffenet: {CAFFE_SOURCE}",
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
        optim=OptimSpec(
            optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="step", milestones=(30.0, 60.0)
        ),
        train=TrainSpec(batch_size=256, epochs=90),
        claim=Claim(
            source="torchvision's references/classification for alexnet (8 × 32 images). Its random crops come from "
            "the whole photograph; here they come from the prepared 256 × 256 pixels",
            expects="top-1 56.5 %, top-5 79.1 % on ILSVRC-2012's val, centre view (AlexNet_Weights.IMAGENET1K_V1)",
            top1=(0.555, 0.575),
            cost="days on one GPU of its time; not run",
        ),
    ),
    _nvidia("8k", 8192, 10.0, 600, 15_600, "solver_8K.prototxt"),
    _nvidia("16k", 16_384, 24.0, 400, 7_800, "solver_16k.prototxt"),
    _nvidia("32k", 32_768, 32.0, 400, 4_000, "solver_32k.prototxt"),
)
