"""A recipe: one training, completely described. It is frozen, typed, validated, and the same after JSON.

A :class:`Recipe` has six sections. ``--set section.field=value`` changes any field of the first five. The sixth is the
claim: where the recipe comes from, what accuracy it should reach and what it costs. Field names are those of PyTorch
and torchvision; names that earlier versions used are still read (:data:`RENAMED`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from alexnet.core.dicom_view import FILE, DicomView, parse_window
from alexnet.core.errors import UserError, unknown
from alexnet.core.schema import (
    NEW,
    WHOLE,
    Reader,
    Renamed,
    choices,
    earlier_value,
    field_hints,
    parse_word,
    spec,
    spell,
    to_json,
    validated,
)

PixelNormalization = Literal["unit", "symmetric", "channel", "mean-image", "mean-image-centre"]
Resize = Literal["short-side", "warp", "stretch"]
ColorNoise = Literal["none", "paper", "cuda-convnet"]
NormLayer = Literal["none", "lrn", "batch"]
OptimizerName = Literal["sgd", "sgd-2012", "adam", "adamw", "lars"]
Schedule = Literal["constant", "step", "plateau", "one-cycle", "cosine", "poly"]
Precision = Literal["auto", "fp32", "bf16"]
Head = Literal["classifier", "fcn-32s", "fcn-16s", "unet", "faster-rcnn"]
Task = Literal["classification", "segmentation", "detection"]
TASKS: Mapping[Head, Task] = {
    "classifier": "classification",
    "fcn-32s": "segmentation",
    "fcn-16s": "segmentation",
    "unet": "segmentation",
    "faster-rcnn": "detection",
}
"""Head of a network → the task that it is for."""
SECTIONS = ("model", "data", "augment", "optim", "train")  # of a recipe; their fields can be changed by --set
OTHER_NAMES = {"learning_rate": "optim.lr", "wd": "optim.weight_decay", "from": "train.init"}
NO_INIT = "none"  # train.init of a training from new weights

MAX_SIDE = 4096  # of prepared images and of a network's input, in pixels

Positive = Annotated[int, Ge(1)]
Side = Annotated[int, Ge(1), Le(MAX_SIDE)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Channels = Annotated[Literal[1, 3], WHOLE]


def _gamma(drop: float) -> float:
    """The ``gamma`` of an earlier ``drop``: the float whose inverse is ``drop``, so that schedules keep their bits.

    Where no float has exactly this inverse, the nearest one.
    """
    gamma = 1 / drop
    nearby = (gamma, math.nextafter(gamma, 0), math.nextafter(gamma, 1))
    return next((value for value in nearby if 1 / value == drop), gamma)


RENAMED: Mapping[str, Renamed] = {
    "model.normalization": Renamed(
        "norm_layer",
        Literal["absent", "response", "batch"] | None,
        {None: None, "absent": "none", "response": "lrn", "batch": "batch"}.__getitem__,
    ),
    "model.pool_rounding": Renamed(
        "pool_ceil_mode", Literal["down", "up"] | None, {None: None, "down": False, "up": True}.__getitem__
    ),
    "model.columns": Renamed("groups"),
    "data.stored": Renamed("resize_size"),
    "data.scaling": Renamed("pixel_normalization"),
    "data.validation": Renamed("val_fraction"),
    "augment.area": Renamed("random_resized_crop"),
    "optim.update": Renamed("optimizer"),
    "optim.rate": Renamed("lr"),
    "optim.drops": Renamed("milestones"),
    "optim.drop": Renamed("gamma", Annotated[float, Gt(1)], _gamma),
    "optim.bias_drops": Renamed("bias_milestones"),
    "optim.bias_rate": Renamed("bias_lr_mult"),
    "optim.rules.rate": Renamed("lr"),
    "preprocessing.stored": Renamed("resize_size"),
    "preprocessing.scaling": Renamed("pixel_normalization"),
    "preprocessing.deviation": Renamed("std"),
}
"""Names that fields had before version 0.1, and how their values become today's."""


@spec("model", RENAMED)
class ModelSpec:
    """Which network. A field that is None has the variant's own value.

    ``norm_layer``: ``none``; ``lrn`` in the paper's two places; ``batch``, batch normalization after each convolution.
    ``pool_kernel``: windows of 3 overlap at a stride of 2, windows of 2 do not. ``pool_ceil_mode``: whether the last,
    partly empty window of a pool counts. ``groups``: 2 divides conv2, conv4 and conv5 as the paper's two cards did.
    ``width``: factor for the number of filters and hidden units. ``head``: what follows the convolutions, and so the
    task: ``classifier``, the fully connected layers; for segmentation ``fcn-32s`` or ``fcn-16s`` (Long, Shelhamer and
    Darrell 2015), if the last pool has a step of 32 pixels, or ``unet``, a decoder for small images; for
    detection ``faster-rcnn`` (Ren et al. 2015).
    """

    variant: str = "batchnorm"
    head: Head = field(default="classifier", metadata=NEW)
    dropout: Share | None = None
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    norm_layer: NormLayer | None = None
    pool_kernel: Positive | None = None
    pool_ceil_mode: bool | None = None
    groups: Annotated[Literal[1, 2], WHOLE] | None = None
    width: Annotated[float, Gt(0), Le(100)] | None = None

    def overrides(self) -> dict[str, Any]:
        """The architecture fields that this recipe changes, for ``create_model``."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in ("variant", "head") and value is not None
        }

    @property
    def task(self) -> Task:
        """What the network is trained for."""
        return TASKS[self.head]


@spec("data", RENAMED)
class DataSpec:
    """Which images, and how pixels become numbers.

    ``channels``: 1, 3, or None for the source's own. ``resize_size``: side of the prepared images, None for the rule (a
    set whose images all have one size up to 128 keeps it, photographs get 256). ``image_size``: side of the network's
    input, None for the variant's own; a prepared image or crop of another size is resized to it on the device.
    ``val_fraction``: share of train that is held out for validation if the source has no val split. ``shuffle_block``:
    training images are shuffled in blocks of so many, for shards that do not fit on the disk; None shuffles all of them
    together.

    ``pixel_normalization``: ``unit`` x/255 · ``symmetric`` (x/255 − ½)/½ · ``channel`` (x − mean)/std of each channel
    over train · ``mean-image`` x − the mean image, cropped like the image (Caffe) · ``mean-image-centre`` x − the
    centre of the mean image, for any crop (cuda-convnet). The last two stay on the scale 0 … 255.

    ``window``, ``frame``: how grey DICOM images are shown, see :class:`~alexnet.core.dicom_view.DicomView`.
    """

    source: str = "digits"
    channels: Channels | None = None
    resize_size: Annotated[int, Ge(4), Le(MAX_SIDE)] | None = None
    image_size: Annotated[int, Ge(4), Le(MAX_SIDE)] | None = None
    pixel_normalization: PixelNormalization = "channel"
    val_fraction: Share = 0.0
    shuffle_block: Positive | None = field(default=None, metadata=NEW)
    window: str = field(default=FILE, metadata=NEW)
    frame: Positive = field(default=1, metadata=NEW)

    def __post_init__(self) -> None:
        parse_window(self.window)

    @property
    def view(self) -> DicomView:
        """How medical images are shown."""
        return DicomView(self.window, self.frame)


@spec("preprocessing", RENAMED)
class Preprocessing:
    """How a prepared image becomes a network's input. A model carries it, so that it predicts as it was trained.

    ``channels``, ``resize_size``: decoded images are ``(resize_size, resize_size, channels)`` uint8. ``crop``: side of
    the centre crop. ``image_size``: side that the crop is resized to. ``mean`` and ``std``: one value a channel on the
    scale 0 … 255; the two mean-image normalizations do not use them. ``resize``: ``short-side`` resizes the short side
    to ``resize_size`` and takes the centre square; ``stretch`` resizes both sides and changes the aspect ratio, so that
    no object is cut off; ``warp`` is ``stretch`` without antialiasing (Caffe's ``convert_imageset``). ``window``,
    ``frame``: as in :class:`DataSpec`.
    """

    channels: Channels
    resize_size: Side
    crop: Side
    image_size: Side
    pixel_normalization: PixelNormalization
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Resize = "short-side"
    window: str = field(default=FILE, metadata=NEW)
    frame: Positive = field(default=1, metadata=NEW)

    def __post_init__(self) -> None:
        parse_window(self.window)

    @property
    def view(self) -> DicomView:
        """How medical images are shown."""
        return DicomView(self.window, self.frame)


@spec("augment", RENAMED)
class AugmentSpec:
    """What training changes in each image, drawn anew in each epoch.

    ``crop``: side of the random crop from the prepared image, None for the whole image (evaluation takes the centre).
    ``pad``: pixels that are mirrored onto each edge before a training crop. ``random_resized_crop``: (smallest,
    largest) share of the image's area that a training crop covers, with an aspect ratio between 3:4 and 4:3, resized to
    ``crop`` (Szegedy et al. 2014; torchvision's ``RandomResizedCrop``); None cuts ``crop`` pixels. ``crop_group``: how
    many neighbours in a batch share a crop and a flip (32 in cuda-convnet). ``rotation``: largest angle in degrees.

    ``color_noise``: shifts along the principal components p of train's colours, α ~ N(0, ``color_noise_std``²) for each
    image: ``paper`` Σ p·α·λ with λ on the scale 0 … 1 (paper §4.1; its formula is usable on this scale only),
    ``cuda-convnet`` Σ p·α·√λ, then a division of everything by 1 + ``color_noise_std`` (what its authors ran). From
    epoch ``color_noise_until`` on there is neither shift nor division.
    """

    crop: Annotated[int, Ge(4)] | None = None
    pad: Annotated[int, Ge(0)] = 0
    random_resized_crop: tuple[float, float] | None = None
    crop_group: Positive = 1
    flip: bool = False
    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    color_noise: ColorNoise = "none"
    color_noise_std: NotNegative = 0.1
    color_noise_until: float | None = None

    def at(self, epoch: int) -> AugmentSpec:
        """The augmentation of an epoch, counted from 0."""
        off = self.color_noise_until is not None and epoch >= self.color_noise_until
        return replace(self, color_noise="none") if off else self

    def __post_init__(self) -> None:
        area = self.random_resized_crop
        if area is not None and not 0 < area[0] <= area[1] <= 1:
            raise UserError(
                f"augment.random_resized_crop = {area!r} is not two shares of the area, "
                "the smaller first, above 0 and at most 1"
            )
        if area and (self.pad or self.crop_group > 1):
            raise UserError(
                "augment.random_resized_crop crops inside each image: "
                "set augment.pad=0 and augment.crop_group=1 with it"
            )


@spec("optim.rules", RENAMED)
class LayerRule:
    """Settings of one layer, from epoch ``start`` on.

    ``lr``: the layer's own learning rate; its biases have ``lr`` times ``bias_lr_mult``, unless ``bias_milestones``
    gives biases a schedule of their own. 0 freezes the layer, biases too. ``lr_mult``: a factor for the learning rate
    that the schedule gives. ``weight_decay``: the layer's own weight decay. None leaves each as it is for all layers.
    """

    layer: str
    start: float = 0.0
    lr: float | None = None
    weight_decay: float | None = None
    lr_mult: NotNegative | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr_mult is not None:
            raise UserError(f"a rule for {self.layer} has lr and lr_mult: give one of them")


@spec("optim", RENAMED)
class OptimSpec:
    """Optimizer and learning rate schedule.

    ``optimizer``: ``sgd`` is torch's; ``sgd-2012`` has the learning rate inside the velocity (paper §5); ``adam`` and
    ``adamw`` have torch's β and ε and do not use ``momentum`` or ``nesterov``; ``lars`` is for large batches (You,
    Gitman and Ginsburg 2017), with ``trust_coeff`` and, for LARC, ``trust_clip``. ``bias_lr_mult``: biases learn at
    ``lr`` times this. ``decay_biases``: whether weight decay applies to biases and to the scales of normalizations.
    ``schedule``: ``constant`` · ``step`` multiplies ``lr`` by ``gamma`` at each epoch in ``milestones`` · ``plateau``
    multiplies it by ``gamma``, at most three times, when the validation error has not improved for ``patience``
    evaluations (paper §5) · ``one-cycle`` raises it during the share ``warmup`` of the steps and lowers it to almost 0
    (Smith and Topin 2017) · ``cosine`` (Loshchilov and Hutter 2016) after a linear ``warmup`` · ``poly`` falls after a
    linear ``warmup`` with the square of the remaining share of the steps. ``bias_milestones``: the
    epochs at which the learning rate of biases is divided by 10, independent of the weights; None lets it follow the
    weights. ``rules``: settings of single layers; later rules win.
    """

    optimizer: OptimizerName = "sgd"
    lr: NotNegative = 0.01
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    bias_lr_mult: NotNegative = 1.0
    decay_biases: bool = True
    schedule: Schedule = "constant"
    milestones: tuple[float, ...] = ()
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.1
    bias_milestones: tuple[float, ...] | None = None
    patience: Positive = 3
    warmup: Share = 0.25
    trust_coeff: Annotated[float, Gt(0), Le(1)] = 0.001
    trust_clip: bool = False
    rules: tuple[LayerRule, ...] = ()

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise UserError(f"optim.milestones = {self.milestones!r} are not epochs in rising order")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise UserError(
                "optim.nesterov needs optim.optimizer=sgd and a momentum above 0: add --set optim.nesterov=false"
            )
        if self.schedule == "step" and not self.milestones:
            raise UserError("optim.schedule=step has no milestones: add e.g. --set optim.milestones=30,60")


@spec("train")
class TrainSpec:
    """How long, in what batches, how classes count, and which weights are kept.

    ``accumulate_steps``: each batch is computed in so many parts, whose gradients are added, to need less memory; the
    update is that of the whole batch. Batch normalization would use the statistics of the parts, so it is refused.
    ``steps``: the largest number of updates, None for all of the epochs; schedules are planned by ``epochs``.
    ``min_steps``: the smallest number of updates: if ``epochs`` give fewer, there are more epochs, so that a training
    on few images is long enough; an override of ``epochs`` sets it to 0. ``early_stopping``: the training ends when the
    validation accuracy has not improved for this share of the planned updates; 0 never ends it early.
    ``class_weights``: ``balanced`` weights each class in the loss by the inverse of its number of training images;
    ``auto`` does so if the largest class has at least five times as many images as the smallest. ``test_curve``: also
    evaluate the test split after each epoch, for source documents that plot it; no choice uses it. ``keep``: the
    weights of the last step, or those of the best validation accuracy. ``views``: 1 or 10 views of each image in the
    final evaluation. ``init``: the MODEL whose weights the training starts from; ``none`` starts from random ones.
    ``freeze``: layers of it that do not train, as names or ranges, ``conv1-conv3``. ``head``: how a new last layer
    begins: ``random``, or as a linear ``probe`` on the layer of ``init`` with the best cross-validated accuracy.
    ``few_images``: what to do with fewer than 50 training images a class, on average: ``split`` them as any other, or
    ``cross-validate``: the probe is the model, fitted on all images, and nested cross-validation gives its accuracy, or
    the test split if the source has one; only with ``head`` = ``probe``.

    ``operating_point``: the probability from which on an image counts as positive. It is chosen on the validation
    images or in the folds, and the result then has the ROC curve, sensitivity and specificity on the test images
    (``metrics/roc.py``). ``youden`` has the largest sum of the two; ``sensitivity`` is the most specific one of at
    least ``target_sensitivity``. ``positive_class``: of two classes; empty for the last one. With more than two, each
    class is compared with the others.
    """

    batch_size: Positive = 128
    accumulate_steps: Positive = 1
    epochs: Positive = 10
    steps: Positive | None = None
    min_steps: Annotated[int, Ge(0)] = 0
    early_stopping: Share = 0.0
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "auto", "balanced"] = "none"
    precision: Precision = "auto"
    test_curve: bool = False
    keep: Literal["last", "best-on-val"] = "last"
    views: Annotated[Literal[1, 10], WHOLE] = 1
    init: str = NO_INIT
    freeze: tuple[str, ...] = ()
    head: Literal["random", "probe"] = "random"
    few_images: Literal["split", "cross-validate"] = "split"
    operating_point: Literal["none", "youden", "sensitivity"] = field(default="none", metadata=NEW)
    target_sensitivity: Annotated[float, Gt(0), Le(1)] = field(default=0.9, metadata=NEW)
    positive_class: str = field(default="", metadata=NEW)

    def __post_init__(self) -> None:
        if self.freeze and self.init == NO_INIT:
            raise UserError(
                "train.freeze keeps layers as they are, so they need trained weights: give them with --from MODEL"
            )


@spec("claim")
class Claim:
    """Where a recipe comes from, what it should reach and what it costs.

    ``top1``: the expected test accuracy as (lowest, highest), 0 … 1, or None if unknown. ``cost``: in words.
    """

    source: str = ""
    expects: str = ""
    top1: tuple[float, float] | None = None
    cost: str = ""


@spec()
class Recipe:
    """A complete training."""

    name: str
    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    claim: Claim = field(default_factory=Claim)

    def __post_init__(self) -> None:
        if self.train.views == 10 and self.augment.crop is None:
            raise UserError(f"recipe {self.name!r}: ten views need a crop, set augment.crop or train.views=1")
        if self.augment.random_resized_crop and self.data.pixel_normalization.startswith("mean-image"):
            raise UserError(
                f"recipe {self.name!r}: a crop of random size cannot subtract a mean image; "
                "set data.pixel_normalization=channel or augment.random_resized_crop=none"
            )
        needs_val = self.optim.schedule == "plateau" or self.train.keep == "best-on-val" or self.train.early_stopping
        if needs_val and self.data.val_fraction == 0:
            raise UserError(
                f"recipe {self.name!r} needs validation images: set data.val_fraction, e.g. --set data.val_fraction=0.1"
            )


def override(recipe: Recipe, assignments: Iterable[str] | Mapping[str, Any]) -> Recipe:
    """The recipe with each ``section.field=value`` applied; the last value of a field wins.

    ``assignments``: strings as ``--set`` takes them, or a mapping such as ``{"train.epochs": 2}`` with values as Python
    or JSON has them. The word ``default`` in a string gives a field its default again. Raises ``UserError`` that names
    the nearest field.
    """
    changes: dict[str, dict[str, Any]] = {}
    read: Reader
    if isinstance(assignments, Mapping):
        pairs = [(str(path), value) for path, value in assignments.items()]
        read = validated
    else:
        pairs = [_split(text) for text in ([assignments] if isinstance(assignments, str) else assignments)]
        read = parse_word
    for path, value in pairs:
        section, name, earlier = _find_field(path)
        hint = _known_fields()[f"{section}.{name}"]
        if read is parse_word and value == "default":
            new = getattr(field_hints(Recipe)[section](), name)
        elif earlier:
            new = earlier_value(earlier, hint, value, path, read)
        else:
            new = read(hint, value, path)
        changes.setdefault(section, {})[name] = new
    if "epochs" in (train := changes.get("train", {})):
        train.setdefault("min_steps", 0)  # a given number of epochs is not increased
    sections = {section: replace(getattr(recipe, section), **fields) for section, fields in changes.items()}
    return replace(recipe, **sections)


def _split(assignment: str) -> tuple[str, str]:
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"--set {assignment}: no '=' in it, write section.field=value")
    return path, text


def _find_field(path: str) -> tuple[str, str, Renamed | None]:
    """(section, today's name of the field, what its name in ``path`` is if that is an earlier one)."""
    section, _, name = path.partition(".")
    earlier = RENAMED.get(path)
    today = earlier.name if earlier else name
    known = _known_fields()
    if f"{section}.{today}" in known:
        return section, today, earlier
    if meant := field_meant(path) or field_meant(name):
        raise UserError(f"unknown field {path!r}: did you mean {meant!r}?")
    raise unknown("field", path, known)


def field_names() -> list[str]:
    """Every ``section.field`` that :func:`override` can change."""
    return list(_known_fields())


def field_meant(name: str) -> str | None:
    """The ``section.field`` for a field's last part alone, or for its name in other libraries or earlier versions."""
    fields = {path.partition(".")[2]: path for path in field_names()}
    earlier = {}
    for path, renamed in RENAMED.items():
        section, _, old = path.partition(".")
        if f"{section}.{renamed.name}" in _known_fields():
            earlier[old] = f"{section}.{renamed.name}"
    return {**earlier, **fields, **OTHER_NAMES}.get(name.replace("-", "_"))


def assignments(recipe: Recipe) -> list[str]:
    """Every field as the ``section.field=value`` that :func:`override` takes."""
    known = _known_fields()
    words = []
    for path in known:
        section, name = path.split(".")
        value = getattr(getattr(recipe, section), name)
        unset = value is None and "none" in choices(known[path])
        words.append(f"{path}={'default' if unset else spell(value)}")
    return words


@functools.cache
def _known_fields() -> dict[str, Any]:
    return {
        f"{section}.{name}": hint
        for section in SECTIONS
        for name, hint in field_hints(field_hints(Recipe)[section]).items()
    }


def differences(one: Recipe, other: Recipe) -> list[tuple[str, object, object]]:
    """Every field in which two recipes train differently, as (``section.field``, value in one, value in the other).

    Claims are ignored, and so are the names of the source and of the weights to start from: the images and the weights
    have hashes of their own.
    """
    a, b = to_json(one, whole=True), to_json(other, whole=True)
    return [
        (f"{section}.{name}", value, b[section][name])
        for section in SECTIONS
        for name, value in a[section].items()
        if value != b[section][name] and (section, name) not in (("data", "source"), ("train", "init"))
    ]


def first_difference(one: Recipe, other: Recipe) -> str | None:
    """The first of :func:`differences` in words, as ``section.field (before, now after)``; None if there is none."""
    return next((f"{path} ({value!r}, now {now!r})" for path, value, now in differences(one, other)), None)
