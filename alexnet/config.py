"""A training, completely described: frozen, typed, validated, and the same after a trip through JSON.

A :class:`Recipe` has six sections. ``--set section.field=value`` changes any field of the first five; the sixth is the
claim: where the recipe comes from, what it should reach and what it costs.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from alexnet.core.errors import UserError, unknown
from alexnet.core.typed import parse_word, spell, to_json

Scaling = Literal["unit", "symmetric", "channel", "mean-image", "mean-image-centre"]
ColorNoise = Literal["none", "paper", "cuda-convnet"]
Update = Literal["sgd", "sgd-2012", "adam", "adamw"]
Schedule = Literal["constant", "step", "plateau", "one-cycle", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
OTHER_NAMES = {"lr": "optim.rate", "learning_rate": "optim.rate", "wd": "optim.weight_decay"}


@dataclass(frozen=True)
class ModelSpec:
    """Which network. A field that is None is the variant's own value.

    ``normalization``: ``absent``, ``response`` in the paper's two places, or ``batch`` after each convolution.
    ``pool_kernel``: 3 overlaps at the stride of 2, 2 does not. ``pool_rounding``: whether a last, partly empty window
    counts. ``columns``: 2 divides conv2, conv4 and conv5 as the
    paper's two cards did. ``width``: so many times the filters and hidden units.
    """

    variant: str = "batchnorm"
    dropout: float | None = None
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    normalization: Literal["absent", "response", "batch"] | None = None
    pool_kernel: int | None = None
    pool_rounding: Literal["down", "up"] | None = None
    columns: Literal[1, 2] | None = None
    width: float | None = None

    def departures(self) -> dict[str, Any]:
        """The architecture fields that this recipe changes."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if name != "variant" and value is not None
        }

    def __post_init__(self) -> None:
        _demand(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0, below 1")
        _demand(self.pool_kernel is None or self.pool_kernel >= 1, "model.pool_kernel", self.pool_kernel, "1 or more")
        _demand(self.width is None or 0 < self.width <= 100, "model.width", self.width, "above 0, at most 100")


@dataclass(frozen=True)
class DataSpec:
    """Which images, and how pixels become numbers.

    ``channels``: 1, 3, or None for the source's own. ``stored``: the side images are kept at, None for the rule (a
    set of one size up to 128 keeps it, photographs get 256). ``image_size``: the side the network sees, None for the
    variant's own; what the store or the crop gives is enlarged to it on the device. ``validation``: the share of
    train that is held out if the source has no val of its own.

    ``scaling``: ``unit`` x/255 · ``symmetric`` (x/255 − ½)/½ · ``channel`` (x − mean)/deviation of each channel over
    train · ``mean-image`` x − the mean image, cropped with the image (Caffe) · ``mean-image-centre`` x − its centre, as
    2012's code did whatever the crop; the last two stay on 0 … 255.
    """

    source: str = "digits"
    channels: Literal[1, 3] | None = None
    stored: int | None = None
    image_size: int | None = None
    scaling: Scaling = "channel"
    validation: float = 0.0

    def __post_init__(self) -> None:
        _demand(0 <= self.validation < 1, "data.validation", self.validation, "a share of train, at least 0, below 1")
        _demand(self.stored is None or 4 <= self.stored <= 4096, "data.stored", self.stored, "4 to 4096 pixels")
        _demand(self.image_size is None or self.image_size >= 4, "data.image_size", self.image_size, "4 pixels or more")


@dataclass(frozen=True)
class Preprocessing:
    """How stored pixels become a network's input: what a model must carry to predict as it was trained.

    ``channels``, ``stored``: decoded images are (stored, stored, channels) bytes; ``crop``: the side cut from them;
    ``image_size``: the side it is enlarged to. ``mean`` and ``deviation``: a value a channel on the 0 … 255 scale, not
    read by the two mean-image scalings.
    """

    channels: Literal[1, 3]
    stored: int
    crop: int
    image_size: int
    scaling: Scaling
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


@dataclass(frozen=True)
class AugmentSpec:
    """What training does to each image anew in each epoch.

    ``crop``: the side cut out of the stored image, None for all of it (evaluation takes the centre). ``pad``: pixels
    mirrored onto each edge before a training crop. ``area``: (smallest, largest) share of the image that a training
    crop covers, of a shape between 3:4 and 4:3, scaled to ``crop`` (Szegedy et al. 2014, as torchvision's
    ``RandomResizedCrop``); None cuts ``crop`` pixels. ``crop_group``: how many neighbours in a batch share a crop and a
    flip (32 in 2012's code). ``rotation``: up to so many degrees either way.

    ``color_noise``: shifts along the principal components p of train's colours, α ~ N(0, ``color_noise_std``²) for each
    image: ``paper`` Σ p·α·λ with λ on the 0 … 1 scale (paper §4.1, the only scale on which its formula is usable),
    ``cuda-convnet`` Σ p·α·√λ, then everything divided by 1 + ``color_noise_std`` (what was run). From epoch
    ``color_noise_until`` on there is none: neither shift nor division.
    """

    crop: int | None = None
    pad: int = 0
    area: tuple[float, ...] | None = None
    crop_group: int = 1
    flip: bool = False
    rotation: float = 0.0
    color_noise: ColorNoise = "none"
    color_noise_std: float = 0.1
    color_noise_until: float | None = None

    def at(self, epoch: int) -> AugmentSpec:
        """What is done in an epoch, counted from 0."""
        off = self.color_noise_until is not None and epoch >= self.color_noise_until
        return replace(self, color_noise="none") if off else self

    def __post_init__(self) -> None:
        _demand(self.crop is None or self.crop >= 4, "augment.crop", self.crop, "4 pixels or more")
        _demand(self.pad >= 0, "augment.pad", self.pad, "0 or more")
        area = self.area
        in_order = area is None or (len(area) == 2 and 0 < area[0] <= area[1] <= 1)
        _demand(in_order, "augment.area", area, "two shares, the smaller first, above 0 and at most 1")
        if area and (self.pad or self.crop_group > 1):
            raise UserError("augment.area crops inside each image: set augment.pad=0 and augment.crop_group=1 with it")
        _demand(self.crop_group >= 1, "augment.crop_group", self.crop_group, "1 or more")
        _demand(0 <= self.rotation <= 180, "augment.rotation", self.rotation, "0 to 180 degrees")
        _demand(self.color_noise_std >= 0, "augment.color_noise_std", self.color_noise_std, "0 or more")


@dataclass(frozen=True)
class LayerRule:
    """What is different for one layer, from epoch ``start`` on.

    ``rate``: a learning rate of its own, its biases' times ``bias_rate`` unless ``bias_drops`` gives biases a schedule
    of their own; 0 freezes it, biases too. ``weight_decay``: a decay of its own. None leaves either as it is for all.
    """

    layer: str
    start: float = 0.0
    rate: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimSpec:
    """How weights move.

    ``update``: ``sgd`` as torch does it, the rate outside the velocity; ``sgd-2012`` with the rate inside it (paper
    §5); ``adam`` and ``adamw`` with torch's β and ε, which read neither ``momentum`` nor ``nesterov``. ``bias_rate``:
    biases learn at so many times the rate. ``decay_biases``: whether weight decay touches them and the normalizations'
    scales. ``schedule``: ``constant`` · ``step`` ÷ ``drop`` at each epoch in ``drops`` · ``plateau`` ÷ ``drop``, at
    most three times, when the validation error has not improved for ``patience`` evaluations (paper §5) · ``one-cycle``
    up for the share ``warmup`` of the steps and down to nothing (Smith and Topin 2017) · ``cosine`` (Loshchilov and
    Hutter 2016) after a linear ``warmup``. ``bias_drops``: the epochs at which the biases' rate is divided by 10,
    whatever the weights' does; None lets it follow. ``rules``: layers that are treated otherwise, later rules over
    earlier ones.
    """

    update: Update = "sgd"
    rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    bias_rate: float = 1.0
    decay_biases: bool = True
    schedule: Schedule = "constant"
    drops: tuple[float, ...] = ()
    drop: float = 10.0
    bias_drops: tuple[float, ...] | None = None
    patience: int = 3
    warmup: float = 0.25
    rules: tuple[LayerRule, ...] = ()

    def __post_init__(self) -> None:
        _demand(self.rate >= 0, "optim.rate", self.rate, "0 or more")
        _demand(0 <= self.momentum < 1, "optim.momentum", self.momentum, "at least 0, below 1")
        _demand(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        _demand(self.bias_rate >= 0, "optim.bias_rate", self.bias_rate, "0 or more")
        _demand(self.drop > 1, "optim.drop", self.drop, "above 1")
        _demand(self.patience >= 1, "optim.patience", self.patience, "1 or more")
        _demand(0 <= self.warmup < 1, "optim.warmup", self.warmup, "a share of the steps, at least 0, below 1")
        _demand(list(self.drops) == sorted(self.drops), "optim.drops", self.drops, "epochs in rising order")
        if self.nesterov and (self.update != "sgd" or self.momentum == 0):
            raise UserError(
                "optim.nesterov is for optim.update=sgd with a momentum above 0: add --set optim.nesterov=false"
            )
        if self.schedule == "step" and not self.drops:
            raise UserError("optim.schedule=step drops the rate at no epoch: add e.g. --set optim.drops=30,60")


@dataclass(frozen=True)
class TrainSpec:
    """How long, in what batches, and what is kept.

    ``steps``: the most updates, None for all of the epochs'; what a schedule plans by is ``epochs``. ``test_curve``
    counts test after each epoch too, for the documents that plot it; it chooses nothing. ``keep``: the weights of the
    last step, or of the best validation accuracy. ``views``: 1 or 10 in the final count.
    """

    batch_size: int = 128
    epochs: int = 10
    steps: int | None = None
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    test_curve: bool = False
    keep: Literal["last", "best-on-val"] = "last"
    views: Literal[1, 10] = 1

    def __post_init__(self) -> None:
        _demand(self.batch_size >= 1, "train.batch_size", self.batch_size, "1 or more")
        _demand(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        _demand(self.steps is None or self.steps >= 1, "train.steps", self.steps, "1 or more")
        _demand(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "at least 0, below 1")


@dataclass(frozen=True)
class Claim:
    """Where a recipe comes from, what it should reach and what it costs.

    ``top1``: the expected test accuracy as (lowest, highest) shares, None where nothing is known; ``cost``: in words.
    """

    source: str = ""
    expects: str = ""
    top1: tuple[float, float] | None = None
    cost: str = ""


@dataclass(frozen=True)
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
        if self.augment.area and self.data.scaling.startswith("mean-image"):
            raise UserError(
                f"recipe {self.name!r}: a crop of random size has no mean image; "
                "set data.scaling=channel or augment.area=none"
            )
        needs_val = self.optim.schedule == "plateau" or self.train.keep == "best-on-val"
        if needs_val and self.data.validation == 0:
            raise UserError(
                f"recipe {self.name!r} decides by validation and has none: set data.validation, e.g. "
                "--set data.validation=0.1"
            )


def override(recipe: Recipe, assignments: typing.Iterable[str]) -> Recipe:
    """The recipe with each ``section.field=value`` applied. Raises ``UserError`` that names the nearest field."""
    known = _known_fields()
    changes: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: no '=' in it, write section.field=value")
        if path not in known:
            if meant := field_meant(path):
                raise UserError(f"unknown field {path!r}: did you mean {meant!r}?")
            raise unknown("field", path, known)
        section, name = path.split(".")
        changes.setdefault(section, {})[name] = parse_word(known[path], text, path)
    sections = {section: replace(getattr(recipe, section), **fields) for section, fields in changes.items()}
    return replace(recipe, **sections)


def field_names() -> list[str]:
    """Every ``section.field`` that :func:`override` can change."""
    return list(_known_fields())


def field_meant(name: str) -> str | None:
    """The ``section.field`` that a person means by its last part alone, or by a name in other libraries; else None."""
    fields = {path.partition(".")[2]: path for path in field_names()}
    return {**fields, **OTHER_NAMES}.get(name.replace("-", "_"))


def assignments(recipe: Recipe) -> list[str]:
    """Every field as the ``section.field=value`` that :func:`override` takes."""
    paths = (path.split(".") for path in field_names())
    return [f"{section}.{name}={spell(getattr(getattr(recipe, section), name))}" for section, name in paths]


def _known_fields() -> dict[str, Any]:
    return {
        f"{section.name}.{item.name}": hint
        for section in dataclasses.fields(Recipe)
        if section.name not in ("name", "claim")
        for item, hint in _fields(typing.get_type_hints(Recipe)[section.name])
    }


def departures(one: Recipe, other: Recipe) -> list[tuple[str, object, object]]:
    """Every field in which two recipes train differently, as (``section.field``, one's value, other's).

    Claims change nothing, and neither does how the source is spelled: its content has a hash of its own.
    """
    a, b = to_json(one), to_json(other)
    return [
        (f"{section}.{name}", value, b[section][name])
        for section in ("model", "data", "augment", "optim", "train")
        for name, value in a[section].items()
        if value != b[section][name] and (section, name) != ("data", "source")
    ]


def difference(one: Recipe, other: Recipe) -> str | None:
    """The first of :func:`departures` in words, as ``section.field (one's, now other's)``; None if there is none."""
    return next((f"{path} ({value!r}, now {now!r})" for path, value, now in departures(one, other)), None)


def _fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(item, hints[item.name]) for item in dataclasses.fields(kind)]


def _demand(holds: bool, path: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{path} = {value!r} is out of range: {rule}")
