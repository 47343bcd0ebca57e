"""Recipes for detection: a folder of images with boxes around their objects.

``detection`` starts from the trained weights that come with the package, and is for small images.
``detection-caffenet`` is Faster R-CNN (Ren et al. 2015) on the convolutions of CaffeNet, model S of Fast R-CNN
(Girshick 2015, table 6). Give it published weights with ``--from``: without them its accuracy is low.
"""

from __future__ import annotations

from alexnet.config import AugmentSpec, Claim, DataSpec, LayerRule, ModelSpec, OptimSpec, Recipe, TrainSpec
from alexnet.recipes.photos import TRUNK

SIDE = 160  # pixels: of the prepared images
NEW_LAYERS = ("rpn_conv", "rpn_score", "rpn_box", "fc6", "fc7", "box_class", "box_shift")

DETECTION = Recipe(
    name="detection",
    model=ModelSpec(variant="trunk", head="faster-rcnn"),
    data=DataSpec(source="", channels=3, resize_size=SIDE, image_size=SIDE, val_fraction=0.1),
    augment=AugmentSpec(random_resized_crop=(0.5, 1.0), crop=SIDE, flip=True),
    optim=OptimSpec(
        optimizer="adamw",
        lr=3e-4,
        weight_decay=0.01,
        decay_biases=False,
        schedule="one-cycle",
        warmup=0.1,
        rules=tuple(LayerRule(layer, lr_mult=3.0) for layer in NEW_LAYERS),
    ),
    train=TrainSpec(batch_size=4, epochs=16, min_steps=3000, keep="best-on-val", init=TRUNK),
    claim=Claim(
        source="this project: a folder of images with boxes, from trained weights",
        expects="depends on the images",
        cost="each epoch one second per 30 images on two CPU cores with bf16",
    ),
)

DETECTION_CAFFENET = Recipe(
    name="detection-caffenet",
    model=ModelSpec(variant="caffenet", head="faster-rcnn"),
    data=DataSpec(source="", channels=3, resize_size=448, image_size=448, val_fraction=0.1),
    augment=AugmentSpec(flip=True),
    optim=OptimSpec(
        lr=1e-3, momentum=0.9, weight_decay=5e-4, bias_lr_mult=2.0, schedule="step", milestones=(12.0,), gamma=0.1
    ),
    train=TrainSpec(batch_size=2, epochs=16),
    claim=Claim(
        source="Ren, He, Girshick and Sun 2015 (approximate joint training); Girshick 2015 for CaffeNet (model S)",
        expects="57.1 % mAP50 on PASCAL VOC 2007 with proposals by selective search (Girshick 2015, table 6); not "
        "measured here",
        cost="hours on a GPU",
    ),
)

RECIPES = (DETECTION, DETECTION_CAFFENET)
