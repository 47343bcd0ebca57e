"""Networks by name: look one up in the table, change its architecture, build it.

Names come from ``variants.py`` and from other installed packages. Such a package has an entry point in the group
``alexnet.variants``, which is a :class:`~alexnet.models.variants.Variant` or a function that returns one. If a name
occurs in both, the variant in ``variants.py`` is used.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from alexnet.config import TASKS, Head
from alexnet.core.errors import UserError, unknown
from alexnet.core.plugins import EntryPoints, entry_points_of
from alexnet.models.alexnet import AlexNet, Architecture, ConvLayer, LayerOp, architecture_of
from alexnet.models.classifier import Classifier
from alexnet.models.detection import DetectionNet
from alexnet.models.segmentation import SegmentationNet
from alexnet.models.variants import VARIANTS, Variant

ENTRY_POINTS = "alexnet.variants"
MEANT = {"alexnet": ("paper", "torchvision", "bvlc-alexnet")}
"""A name in other libraries → the variants that are suggested for it."""


def list_models(pattern: str = "*") -> list[str]:
    """The names of all variants that match a shell pattern such as ``"cifar-*"``, in the order of the table."""
    names = [*VARIANTS, *(name for name in installed_variants() if name not in VARIANTS)]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


@functools.cache
def installed_variants() -> EntryPoints[Variant]:
    """The variants of other installed packages, by name; each is imported when it is looked up."""
    return entry_points_of(ENTRY_POINTS, Variant)


def get_variant(name: str) -> Variant:
    """The variant of this name, from ``variants.py`` or from an installed package.

    Raises :class:`~alexnet.core.errors.UserError` for an unknown name (the message suggests the nearest one), and for a
    variant that cannot be loaded (the message names its package).
    """
    if name in VARIANTS:
        return VARIANTS[name]
    installed = installed_variants()
    if name in installed:
        return installed[name]
    raise unknown("variant", name, [*VARIANTS, *installed], MEANT)


def with_norm_layer(architecture: Architecture, kind: str) -> Architecture:
    """The same network with another normalization.

    ``kind``: ``"none"``; ``"lrn"``, local response normalization after the activations of conv1 and conv2, as in the
    paper; ``"batch"``, batch normalization between each convolution and its activation. Raises ``UserError`` for any
    other.
    """
    if kind not in ("none", "lrn", "batch"):
        raise unknown("norm_layer", kind, ("none", "lrn", "batch"))
    convs = []
    for number, layer in enumerate(architecture.convs, 1):
        ops: list[LayerOp] = [what for what in layer.ops if what not in ("lrn", "within-channel-lrn", "batch-norm")]
        if kind == "batch":
            ops.insert(ops.index("activation"), "batch-norm")
        if kind == "lrn" and number <= 2:
            ops.insert(ops.index("activation") + 1, "lrn")
        convs.append(replace(layer, ops=tuple(ops)))
    return replace(architecture, convs=_five(convs))


def with_groups(architecture: Architecture, groups: int) -> Architecture:
    """The same network with ``groups`` groups in conv2, conv4 and conv5; 2 in the paper (§3.2, figure 2)."""
    per_layer = (1, groups, 1, groups, groups)
    convs = [replace(layer, groups=number) for layer, number in zip(architecture.convs, per_layer, strict=True)]
    return replace(architecture, convs=_five(convs))


def with_width(architecture: Architecture, factor: float) -> Architecture:
    """The same network with ``factor`` times as many filters and hidden units, rounded to multiples of 8."""
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
"""Overrides that change several layers, by name; all others are fields of an :class:`Architecture`."""


def get_architecture(name: str, **overrides: Any) -> Architecture | None:
    """A variant's architecture with some fields changed; None for a variant with a class of its own.

    ``overrides``: fields of :class:`Architecture`, and the names in ``REWRITES``. Raises ``UserError`` for any other.
    """
    architecture = get_variant(name).architecture
    if architecture is None and overrides:
        unset = " ".join(f"--set model.{field}=default" for field in overrides)
        raise UserError(f"variant {name!r} does not have these fields: add {unset}")
    return None if architecture is None else change_architecture(architecture, **overrides)


def change_architecture(architecture: Architecture, **overrides: Any) -> Architecture:
    """The architecture with some fields changed; arguments and errors as :func:`get_architecture`."""
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
    head: Head = "classifier",
) -> Classifier:
    """The network with uninitialized weights on ``device``; ``"meta"`` allocates no memory. ``head``: see ModelSpec.

    Raises ``UserError`` for an ``image_size`` that is too small and for a network that does not fit in memory.
    """
    try:
        with torch.device("meta"):
            network = new_network(variant, architecture, num_classes, in_channels, image_size, head)
        network.created_as = variant
        if device == "meta":
            return network  # torch's `to_empty` would import SymPy for it, which takes half a second
        return network.to_empty(device=device)
    except ValueError as error:
        raise UserError(f"variant {variant!r}: {error}") from error
    except RuntimeError as error:  # torch raises it if memory or address space is too small
        size = f"{num_classes} classes" + (f" and images of {image_size} pixels" if image_size else "")
        details = str(error).splitlines()[:1]
        raise UserError(f"variant {variant!r} does not fit in memory with {size}", details) from error


def new_network(
    variant: str,
    architecture: Architecture | None,
    num_classes: int,
    in_channels: int,
    image_size: int | None,
    head: Head = "classifier",
) -> Classifier:
    """A new network: an AlexNet with ``architecture``, or if that is None an instance of the variant's own class."""
    if head != "classifier":
        if architecture is None:
            raise UserError(f"variant {variant!r} cannot have model.head={head}: choose an AlexNet")
        if TASKS[head] == "detection":
            return DetectionNet(architecture, num_classes, in_channels, image_size)
        return SegmentationNet(architecture, head, num_classes, in_channels, image_size)
    if architecture is not None:
        return AlexNet(architecture, num_classes, in_channels, image_size)
    network = get_variant(variant).network
    if network is None:
        raise UserError(f"variant {variant!r} has neither an architecture nor a network")
    return network(num_classes, in_channels, image_size)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    head: Head = "classifier",
    **overrides: Any,
) -> Classifier:
    """A network by name, with the weight initialization of its authors.

    ``num_classes``, ``in_channels``, ``image_size`` (pixels): None means the values of the variant's authors (``d2l``:
    10 classes and 1 channel). ``seed``: random seed of the weights; None draws one from torch's global generator, so
    the weights depend on ``torch.manual_seed``. ``head``: what follows the convolutions, see
    :class:`~alexnet.config.ModelSpec`. ``overrides``: fields of the architecture, e.g. ``dropout=0`` or
    ``norm_layer="batch"``. Returns a module in training mode: ``(N, in_channels, image_size, image_size)`` float →
    ``(N, num_classes)`` logits. Raises ``ValueError`` (a :class:`~alexnet.core.errors.UserError`) for an unknown name
    and for an ``image_size`` that is too small.
    """
    row = get_variant(name)
    classes = row.num_classes if num_classes is None else num_classes
    channels = row.in_channels if in_channels is None else in_channels
    network = build(name, get_architecture(name, **overrides), classes, channels, image_size, head=head)
    network.init_weights(int(torch.randint(2**62, ()).item()) if seed is None else seed)
    return network


def untrained_twin(network: Classifier, seed: int) -> Classifier:
    """A new network with the architecture, classes and preprocessing of ``network``, initialized with a random seed.

    The weights are those of ``create_model(..., weights="untrained:SEED")`` for the same architecture. In evaluation
    mode, on the CPU.
    """
    sizes = (network.num_classes, network.in_channels, network.image_size)
    twin = build(network.variant, architecture_of(network), *sizes, head=network.head)
    twin.init_weights(seed)
    twin.info = dataclasses.replace(network.info, trained_on=torch.zeros(0, dtype=torch.int64))
    return twin.eval()
