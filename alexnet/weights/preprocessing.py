"""The preprocessing and the class names that belong to foreign weights.

Weights are only right with the pixels that they were trained on. What the file states is used. Otherwise the
framework's own convention is used, and the report says that it was assumed:

* torchvision: RGB, short side 256, centre crop 224, (x / 255 − mean) / std (torchvision/transforms/_presets.py).
* Caffe: images warped to 256 × 256, centre crop 227, 0 … 255, minus the mean image of ILSVRC-2012 (Caffe's
  ``examples/imagenet`` and ``python/caffe/imagenet/ilsvrc_2012_mean.npy``).
* Others: RGB, 0 … 1. Nothing in the weights decides this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError
from alexnet.models.classifier import default_info
from alexnet.weights.foreign import ForeignWeights, shape_in_words
from alexnet.weights.identify import Identity
from alexnet.weights.imagenet import CLASSES, class_names, ilsvrc_mean_image

TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # on the scale 0 … 1
CAFFE_MEAN = (122.679, 116.669, 104.007)  # RGB averages of ilsvrc_2012_mean.npy
STORED = 256
TORCHVISION_IMAGENET = Preprocessing(
    3, STORED, 224, 224, "channel",
    tuple(255 * value for value in TORCHVISION_MEAN), tuple(255 * value for value in TORCHVISION_STD),
)  # fmt: skip
CAFFE_IMAGENET = Preprocessing(3, STORED, 227, 227, "mean-image", resize="warp")


@dataclass(frozen=True)
class Binding:
    """What is bound to the weights: preprocessing, mean image, class names, and what of it was assumed."""

    preprocessing: Preprocessing
    mean_image: Tensor | None
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    assumptions: tuple[str, ...]


def bind_preprocessing(weights: ForeignWeights, identity: Identity) -> Binding:
    """The preprocessing and class names for a network with these weights."""
    assumptions: list[str] = []
    preprocessing, mean_image = _preprocessing(weights, identity, assumptions)
    classes, labels = _names(weights, identity, assumptions)
    return Binding(preprocessing, mean_image, classes, labels, tuple(assumptions))


def _preprocessing(
    weights: ForeignWeights, identity: Identity, assumptions: list[str]
) -> tuple[Preprocessing, Tensor | None]:
    size = identity.image_size
    stated = weights.preprocessing
    if stated is not None and (stated.image_size, stated.channels) == (size, identity.in_channels):
        return stated, weights.mean_image
    if identity.in_channels == 3 and weights.framework == "torchvision":
        assumptions.append("preprocessing: torchvision's for its published weights")
        return replace(TORCHVISION_IMAGENET, resize_size=stored_size(size), crop=size, image_size=size), None
    of_caffe = weights.framework in ("caffe", "matconvnet") or weights.channel_order == "BGR"
    if identity.in_channels in (1, 3) and of_caffe:
        return _caffe_preprocessing(weights, identity, assumptions)
    assumptions.append(
        "preprocessing: RGB pixels from 0 to 1; the file does not state it, and weights cannot decide it"
    )
    return default_info("", 1, identity.in_channels, size).preprocessing, None


def _caffe_preprocessing(
    weights: ForeignWeights, identity: Identity, assumptions: list[str]
) -> tuple[Preprocessing, Tensor | None]:
    size, mean_image = identity.image_size, weights.mean_image
    channels: Literal[1, 3] = 1 if identity.in_channels == 1 else 3
    if mean_image is not None and (len(mean_image) < size or mean_image.shape[2] != channels):
        found = shape_in_words(mean_image.shape)
        raise UserError(f"the mean image is {found}, the network takes {size} × {size} × {channels}: give its own")
    if mean_image is None and channels == 3 and identity.num_classes == CLASSES and size <= STORED:
        mean_image = ilsvrc_mean_image()
        assumptions.append(
            "preprocessing: warped images minus the mean image of ILSVRC-2012, because there are 1000 classes; "
            "alexnet convert FILE --mean MEAN takes another"
        )
    if mean_image is not None:
        side = len(mean_image)
        return replace(CAFFE_IMAGENET, channels=channels, resize_size=side, crop=size, image_size=size), mean_image
    mean = CAFFE_MEAN if channels == 3 else (0.0,)
    what = "warped images minus the mean colour of ILSVRC-2012" if channels == 3 else "warped grey images, 0 to 255"
    assumptions.append(f"preprocessing: {what}; alexnet convert FILE --mean MEAN takes a mean image")
    return Preprocessing(channels, stored_size(size), size, size, "channel", mean, (1.0,) * channels, "warp"), None


def stored_size(size: int) -> int:
    """The side of the stored image from which ``size`` pixels are cropped: 256 for 224 and 227."""
    return STORED if size in (224, 227) else max(size, round(size * STORED / 224))


def _names(
    weights: ForeignWeights, identity: Identity, assumptions: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    count = identity.num_classes
    if weights.classes is not None and len(weights.classes) == count:
        return weights.classes, weights.labels or weights.classes
    if count == CLASSES:
        assumptions.append("classes: the 1000 of ILSVRC-2012 in the order of their WordNet ids")
        return class_names()
    assumptions.append(f"classes: 0 to {count - 1}; the file does not name them")
    default = default_info(identity.variant, count, identity.in_channels, identity.image_size)
    return default.classes, default.labels
