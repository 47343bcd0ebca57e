"""The table: every published AlexNet by name, with where it comes from.

Each row is the complete network. What two sources call the same and do differently (the order of normalization and
pool, what α multiplies, where dropout sits, how sizes round, how weights start) stands here as a value and nowhere as
code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from alexnet.core.errors import UserError, unknown
from alexnet.models.alexnet import AlexNet, Architecture, Classifier, ConvLayer, LayerOp, LinearLayer
from alexnet.models.baselines import BASELINES


@dataclass(frozen=True)
class Variant:
    """One row: a network, where it is from, and the classes and channels that its authors gave it.

    ``architecture`` is None for a baseline that has a class of its own.
    """

    architecture: Architecture | None
    source: str
    num_classes: int = 1000
    in_channels: int = 3


LRN_POOL: tuple[LayerOp, ...] = ("activation", "lrn", "pool")
POOL_LRN: tuple[LayerOp, ...] = ("activation", "pool", "lrn")
POOL: tuple[LayerOp, ...] = ("activation", "pool")
BN: tuple[LayerOp, ...] = ("batch-norm", "activation")
BN_POOL: tuple[LayerOp, ...] = ("batch-norm", "activation", "pool")
ACTIVATION_BN: tuple[LayerOp, ...] = ("activation", "batch-norm")
ACTIVATION_BN_POOL: tuple[LayerOp, ...] = ("activation", "batch-norm", "pool")

PAPER = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding="ceil", ops=LRN_POOL),
        ConvLayer(256, 5, padding=2, groups=2, ops=LRN_POOL, bias=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=1),
    ),
    hidden=(LinearLayer(4096, bias=1), LinearLayer(4096, bias=1)),
    dropout_scaling="test",
)

CUDA_CONVNET = replace(
    PAPER,
    convs=(
        ConvLayer(96, 11, stride=4, padding="ceil", ops=("lrn", "activation", "pool")),
        ConvLayer(256, 5, padding=2, groups=2, ops=("activation", "lrn", "in-map", "pool"), bias=1),
        ConvLayer(384, 3, padding=1, std=0.03),
        ConvLayer(384, 3, padding=1, groups=2, std=0.03, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, std=0.03, bias=1),
    ),
    pool_ceil_mode=True,
    lrn_convention="mean",
    lrn_groups=2,
)

PAPER_HALF = replace(
    PAPER,
    convs=(
        ConvLayer(48, 11, stride=4, padding="ceil", ops=LRN_POOL),
        ConvLayer(128, 5, padding=2, ops=LRN_POOL, bias=1),
        ConvLayer(192, 3, padding=1),
        ConvLayer(192, 3, padding=1, bias=1),
        ConvLayer(256, 3, padding=1, ops=POOL, bias=1),
    ),
)

BVLC_ALEXNET = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, ops=LRN_POOL),
        ConvLayer(256, 5, padding=2, groups=2, ops=LRN_POOL, bias=0.1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=0.1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=0.1),
    ),
    hidden=(LinearLayer(4096, std=0.005, bias=0.1), LinearLayer(4096, std=0.005, bias=0.1)),
    image_size=227,
    pool_ceil_mode=True,
    lrn_k=1.0,
    lrn_convention="mean",
)

CAFFENET = replace(
    BVLC_ALEXNET,
    convs=(
        ConvLayer(96, 11, stride=4, ops=POOL_LRN),
        ConvLayer(256, 5, padding=2, groups=2, ops=POOL_LRN, bias=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=1),
    ),
    hidden=(LinearLayer(4096, std=0.005, bias=1), LinearLayer(4096, std=0.005, bias=1)),
)

ONE_TOWER = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding=2, ops=POOL),
        ConvLayer(256, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=227,
    dropout_at=("pool5", "fc6"),
    initialisation="torch",
)

TORCHVISION = replace(
    ONE_TOWER,
    convs=(
        ConvLayer(64, 11, stride=4, padding=2, ops=POOL),
        ConvLayer(192, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=224,
    adaptive_pool=6,
)

D2L = replace(
    ONE_TOWER,
    convs=(
        ConvLayer(96, 11, stride=4, padding=1, ops=POOL),
        ConvLayer(256, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=224,
    dropout_at=("fc6", "fc7"),
    initialisation="xavier",
)

KERAS = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding="same", ops=ACTIVATION_BN_POOL),
        ConvLayer(256, 5, padding="same", ops=ACTIVATION_BN_POOL),
        ConvLayer(384, 3, padding="same", ops=ACTIVATION_BN),
        ConvLayer(384, 3, padding="same", ops=ACTIVATION_BN),
        ConvLayer(256, 3, padding="same", ops=ACTIVATION_BN_POOL),
    ),
    batch_norm_eps=1e-3,
    batch_norm_momentum=0.01,  # Keras counts the other way: its momentum 0.99 keeps 99 % of the old average
    initialisation="glorot",
)

BATCHNORM = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding=2, ops=BN_POOL),
        ConvLayer(256, 5, padding=2, ops=BN_POOL),
        ConvLayer(384, 3, padding=1, ops=BN),
        ConvLayer(384, 3, padding=1, ops=BN),
        ConvLayer(256, 3, padding=1, ops=BN_POOL),
    ),
    initialisation="he",
    output_std=0.001,
)

SMALL = replace(
    BATCHNORM,
    convs=(
        ConvLayer(32, 5, padding=2, ops=BN_POOL),
        ConvLayer(64, 3, padding=1, ops=BN_POOL),
        ConvLayer(128, 3, padding=1, ops=BN),
        ConvLayer(128, 3, padding=1, ops=BN),
        ConvLayer(128, 3, padding=1, ops=BN_POOL),
    ),
    hidden=(LinearLayer(512), LinearLayer(512)),
    image_size=28,
)

VARIANTS: Mapping[str, Variant] = {
    "paper": Variant(PAPER, "Krizhevsky, Sutskever and Hinton, NIPS 2012, as its text has it"),
    "cuda-convnet": Variant(CUDA_CONVNET, "what its authors ran: layers-145.cfg of their released code"),
    "paper-half": Variant(PAPER_HALF, "their one-card net, 'about the same number of parameters' (paper §3.2)"),
    "bvlc-alexnet": Variant(BVLC_ALEXNET, "Caffe's bvlc_alexnet"),
    "caffenet": Variant(CAFFENET, "Caffe's bvlc_reference_caffenet: pool before normalization"),
    "one-tower": Variant(ONE_TOWER, "a widespread retelling: 227 pixels, one column, no normalization"),
    "torchvision": Variant(TORCHVISION, "torchvision.models.alexnet, after Krizhevsky 2014"),
    "d2l": Variant(D2L, "Dive into Deep Learning §8.1, for Fashion-MNIST", num_classes=10, in_channels=1),
    "keras": Variant(KERAS, 'a widespread retelling in Keras: "same" padding, batch norm after ReLU'),
    "batchnorm": Variant(
        BATCHNORM, "the one to use today: one column, conv → batch norm → ReLU (Ioffe and Szegedy 2015)"
    ),
    "small": Variant(SMALL, "a departure of this project for 28 to 64 pixels", num_classes=10, in_channels=1),
    "lenet5": Variant(None, "LeNet-5 as Dive into Deep Learning §7.6 has it (baseline)", num_classes=10, in_channels=1),
    "cifar-18pct": Variant(None, "cuda-convnet's CIFAR-10 net of 18 % error, three convolutions (baseline)", 10),
    "cifar-13pct": Variant(None, "the net of 13 %, paper §3.3: two of four layers locally connected (baseline)", 10),
    "cifar-11pct": Variant(None, "the net of 11 %, paper §3.3: with response normalization, and wider (baseline)", 10),
    "cifar-relu": Variant(None, "the net of 18 % without normalizations, for the paper's figure 1 (baseline)", 10),
    "cifar-tanh": Variant(None, "the same with tanh (baseline)", 10),
}


def get_variant(name: str) -> Variant:
    """A row of the table. Raises :class:`~alexnet.core.errors.UserError` naming the nearest if there is none."""
    if name not in VARIANTS:
        raise unknown("variant", name, VARIANTS)
    return VARIANTS[name]


def with_norm_layer(architecture: Architecture, kind: str) -> Architecture:
    """The same network with another normalization: ``absent``; ``response`` where the paper has it, after the
    activation of conv1 and conv2; ``batch`` between each convolution and its activation.
    """
    if kind not in ("none", "lrn", "batch"):
        raise unknown("norm_layer", kind, ("none", "lrn", "batch"))
    convs = []
    for number, layer in enumerate(architecture.convs, 1):
        ops: list[LayerOp] = [what for what in layer.ops if what not in ("lrn", "in-map", "batch-norm")]
        if kind == "batch":
            ops.insert(ops.index("activation"), "batch-norm")
        if kind == "lrn" and number <= 2:
            ops.insert(ops.index("activation") + 1, "lrn")
        convs.append(replace(layer, ops=tuple(ops)))
    return replace(architecture, convs=_five(convs))


def with_groups(architecture: Architecture, columns: int) -> Architecture:
    """The same network in one column, or in two that meet at conv3 and from fc6 on (paper §3.2, figure 2)."""
    divided = (1, columns, 1, columns, columns)
    convs = [replace(layer, groups=groups) for layer, groups in zip(architecture.convs, divided, strict=True)]
    return replace(architecture, convs=_five(convs))


def with_width(architecture: Architecture, factor: float) -> Architecture:
    """The same network with so many times the filters and hidden units, in multiples of 8."""
    convs = [replace(layer, filters=_eights(layer.filters * factor)) for layer in architecture.convs]
    first, second = (replace(layer, units=_eights(layer.units * factor)) for layer in architecture.hidden)
    return replace(architecture, convs=_five(convs), hidden=(first, second))


def _eights(number: float) -> int:
    return max(8, round(number / 8) * 8)


def _five(convs: Sequence[ConvLayer]) -> tuple[ConvLayer, ConvLayer, ConvLayer, ConvLayer, ConvLayer]:
    one, two, three, four, five = convs
    return one, two, three, four, five


REWRITES: Mapping[str, Callable[[Architecture, Any], Architecture]] = {
    "norm_layer": with_norm_layer,
    "groups": with_groups,
    "width": with_width,
}
"""Departures that concern several layers, by name; all others are fields of an :class:`Architecture`."""


def get_architecture(name: str, **overrides: Any) -> Architecture | None:
    """A variant's architecture with some departures; None for a baseline, which has nothing that could be changed.

    ``overrides``: fields of :class:`Architecture`, and ``REWRITES``. Raises ``UserError`` for any other.
    """
    architecture = get_variant(name).architecture
    if architecture is None and overrides:
        unset = " ".join(f"--set model.{field}=none" for field in overrides)
        raise UserError(f"variant {name!r} has a class of its own and no such field to change: add {unset}")
    if architecture is None:
        return None
    known = [field.name for field in fields(Architecture)]
    for override, value in overrides.items():
        if override in REWRITES:
            architecture = REWRITES[override](architecture, value)
        elif override in known:
            architecture = replace(architecture, **{override: value})
        else:
            raise unknown("field of an architecture", override, [*known, *REWRITES])
    return architecture


def build(
    variant: str,
    architecture: Architecture | None,
    num_classes: int,
    in_channels: int,
    image_size: int | None,
    device: str = "cpu",
) -> Classifier:
    """The network with memory for its weights and nothing in them yet; on ``"meta"`` not even the memory.

    Raises ``UserError`` for an image that is too small and for a network that no memory holds.
    """
    try:
        with torch.device("meta"):
            model = (
                BASELINES[variant](num_classes, in_channels, image_size)
                if architecture is None
                else AlexNet(architecture, num_classes, in_channels, image_size)
            )
        return model.to_empty(device=device)
    except ValueError as error:
        raise UserError(f"variant {variant!r}: {error}") from error
    except RuntimeError as error:  # what torch raises where memory, or even its addresses, do not suffice
        size = f"{num_classes} classes" + (f" and images of {image_size} pixels" if image_size else "")
        details = str(error).splitlines()[:1]
        raise UserError(f"variant {variant!r} does not fit in memory with {size}", details) from error


def create_model(
    variant: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    image_size: int | None = None,
    *,
    seed: int | None = None,
    **overrides: Any,
) -> Classifier:
    """A network by name, its weights as its authors started them.

    ``image_size``: the side of the square input, the variant's own if None. ``seed``: None draws one from torch's
    global generator, so that ``torch.manual_seed`` governs. ``overrides`` change fields of the architecture, e.g.
    ``dropout=0``. Returns a module that maps ``(N, in_channels, image_size, image_size)`` to ``(N, num_classes)``
    logits. Raises ``ValueError`` (a :class:`~alexnet.core.errors.UserError`) for an unknown name or an image that is
    too small.
    """
    model = build(variant, get_architecture(variant, **overrides), num_classes, in_channels, image_size)
    model.initialise(int(torch.randint(2**62, ()).item()) if seed is None else seed)
    return model
