"""Networks by name: look one up in the table, change its architecture, build it.

Names come from ``variants.py`` and from installed packages that have an entry point in the group ``alexnet.variants``,
a :class:`~alexnet.models.variants.Variant` or a function that returns one. A name in ``variants.py`` wins.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from alexnet.core.errors import UserError, simplify, unknown
from alexnet.core.plugins import EntryPoints, entry_points_of
from alexnet.models.alexnet import AlexNet, Architecture, ConvLayer, LayerOp
from alexnet.models.classifier import Classifier
from alexnet.models.variants import VARIANTS, Variant

ENTRY_POINTS = "alexnet.variants"
MEANT = {"alexnet": ("paper", "torchvision")}  # names from elsewhere → the variants to suggest


def list_models(pattern: str = "*") -> list[str]:
    """The names of all variants that match a shell pattern such as ``"cifar-*"``, in the order of the table."""
    names = [*VARIANTS, *(name for name in installed_variants() if name not in VARIANTS)]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


@functools.cache
def installed_variants() -> EntryPoints[Variant]:
    """The variants of other installed packages, by name; each is imported when it is looked up."""
    return entry_points_of(ENTRY_POINTS, Variant)


def get_variant(name: str) -> Variant:
    """A row of the table, or the variant of an installed package.

    Raises :class:`~alexnet.core.errors.UserError` that names the nearest variant if there is none, or the package whose
    variant cannot be loaded.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    installed = installed_variants()
    if name in installed:
        return installed[name]
    raise unknown("variant", name, [*VARIANTS, *installed], MEANT.get(simplify(name), ()))


def with_norm_layer(architecture: Architecture, kind: str) -> Architecture:
    """The same network with another normalization: ``absent``; ``response`` where the paper has it, after the
    activation of conv1 and conv2; ``batch`` between each convolution and its activation.
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
    """A variant's architecture with some fields changed; None for a variant with a class of its own.

    ``overrides``: fields of :class:`Architecture`, and ``REWRITES``. Raises ``UserError`` for any other.
    """
    architecture = get_variant(name).architecture
    if architecture is None and overrides:
        unset = " ".join(f"--set model.{field}=default" for field in overrides)
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
    """The network with memory for its weights and nothing in them yet; on ``"meta"`` without memory.

    Raises ``UserError`` for an image that is too small and for a network that does not fit in memory.
    """
    try:
        with torch.device("meta"):
            network = new_network(variant, architecture, num_classes, in_channels, image_size)
        network.created_as = variant
        return network.to_empty(device=device)
    except ValueError as error:
        raise UserError(f"variant {variant!r}: {error}") from error
    except RuntimeError as error:  # torch raises it where memory, or its address space, is too small
        size = f"{num_classes} classes" + (f" and images of {image_size} pixels" if image_size else "")
        details = str(error).splitlines()[:1]
        raise UserError(f"variant {variant!r} does not fit in memory with {size}", details) from error


def new_network(
    variant: str, architecture: Architecture | None, num_classes: int, in_channels: int, image_size: int | None
) -> Classifier:
    """The network as its constructor leaves it: an AlexNet of an architecture, or the variant's own class."""
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
    **overrides: Any,
) -> Classifier:
    """A network by name, its weights initialized as its authors did.

    ``num_classes``, ``in_channels``, ``image_size``: None for what the variant's authors had (``d2l``: 10 classes and 1
    channel). ``seed``: random seed of the weights; None draws one from torch's global generator, so that
    ``torch.manual_seed`` decides. ``overrides``: fields of the architecture, e.g. ``dropout=0`` or
    ``norm_layer="batch"``. Returns a module in training mode that maps ``(N, in_channels, image_size, image_size)`` to
    ``(N, num_classes)`` logits. Raises ``ValueError`` (a :class:`~alexnet.core.errors.UserError`) for an unknown name
    and for an image that is too small.
    """
    row = get_variant(name)
    classes = row.num_classes if num_classes is None else num_classes
    channels = row.in_channels if in_channels is None else in_channels
    network = build(name, get_architecture(name, **overrides), classes, channels, image_size)
    network.init_weights(int(torch.randint(2**62, ()).item()) if seed is None else seed)
    return network
