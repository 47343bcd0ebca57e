"""Recipes for segmentation: a folder of images and masks.

``segmentation`` starts from the trained weights that come with the package, and is for small images.
``segmentation-fcn-32s`` and ``segmentation-fcn-16s`` are the networks of Long, Shelhamer and Darrell (CVPR 2015) on the
convolutions of CaffeNet, with their settings: they need published weights to be of use (``--from``).
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.photos import TRUNK

SIDE = 160  # pixels: of the prepared images
DECODER = (
    *(f"{part}_relu{level}" for level in (5, 2, 1) for part in ("lateral", "lateral_norm", "merge", "merge_norm")),
    *("up_relu2", "up_relu1", "score"),
)

SEGMENTATION = Recipe(
    name="segmentation",
    model=ModelSpec(variant="trunk", head="unet"),
    data=DataSpec(source="", channels=3, resize_size=SIDE, image_size=SIDE, val_fraction=0.1),
    augment=AugmentSpec(random_resized_crop=(0.35, 1.0), crop=SIDE, flip=True),
    optim=OptimSpec(
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.01,
        decay_biases=False,
        schedule="one-cycle",
        warmup=0.1,
        rules=tuple(LayerRule(layer, lr_mult=5.0) for layer in DECODER),
    ),
    train=TrainSpec(batch_size=4, epochs=60, min_steps=3000, keep="best-on-val", init=TRUNK),
    claim=Claim(
        source="this project: a folder of images and masks, from trained weights",
        expects="depends on the images",
        cost="each epoch one second per 40 images on two CPU cores with bf16",
    ),
)

FCN_32S = Recipe(
    name="segmentation-fcn-32s",
    model=ModelSpec(variant="caffenet", head="fcn-32s"),
    data=DataSpec(source="", channels=3, resize_size=256, image_size=256, val_fraction=0.1),
    augment=AugmentSpec(flip=True),
    optim=OptimSpec(lr=1e-3, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0),
    train=TrainSpec(batch_size=20, epochs=175),
    claim=Claim(
        source="Long, Shelhamer and Darrell 2015: FCN-AlexNet, lr 10⁻³, momentum 0.9, decay 5·10⁻⁴, batches of 20, "
        "175 epochs (section 4.3)",
        expects="39.8 % mean IoU on PASCAL VOC 2011 (table 1); not measured here",
        cost="hours on a GPU",
    ),
)

FCN_16S = replace(
    FCN_32S,
    name="segmentation-fcn-16s",
    model=replace(FCN_32S.model, head="fcn-16s"),
    claim=Claim(
        source="Long, Shelhamer and Darrell 2015, section 4.2; they measured FCN-16s on VGG only",
        expects="not measured",
        cost="hours on a GPU",
    ),
)

RECIPES = (SEGMENTATION, FCN_32S, FCN_16S)
