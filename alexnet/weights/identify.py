"""Which network a weights file holds: from shapes, from the order of operations, and from names.

The convolutions and linear layers of a file are compared with every variant that is an AlexNet. Shapes decide most of
it: kernels, filters, groups, units, the side of the last feature maps. Where two variants have equal shapes
(bvlc_alexnet and CaffeNet differ only in the order of LRN and pool), the operations in the file decide, then the
framework that wrote it. If several variants are left, the user must name one: nothing is guessed.

Settings that the file states (padding, LRN's α, the epsilon of batch normalization) are taken from the file; where they
differ from the variant's own, the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.models.alexnet import Architecture, ConvLayer
from alexnet.models.layers import padding_amounts
from alexnet.models.registry import get_architecture, get_variant, list_models
from alexnet.weights.foreign import (
    ForeignLayer,
    ForeignOp,
    ForeignWeights,
    Framework,
    NoAlexNetError,
    OpKind,
    check_settings,
    shape_in_words,
)

CONVS, LINEARS = 5, 3
NORMS = (0, 4, 5)  # numbers of batch normalizations; nvidia-batchnorm has none after conv5
LAST_CONV = f"conv{CONVS}"
MAX_LISTED = 20  # layers or differences in an error: an AlexNet has at most 13 layers
MAX_SETTING = 64  # the largest kernel, stride, padding or window of a file that is read
FIRST_CHOICE: Mapping[Framework, tuple[str, ...]] = {
    "torchvision": ("torchvision",),
    "caffe": ("bvlc-alexnet", "caffenet"),
    "matconvnet": ("bvlc-alexnet", "caffenet"),
    "tensorflow": ("bvlc-alexnet", "caffenet"),
    "keras": ("keras",),
}
"""The variants that a framework's files hold, where other variants have equal shapes."""
WITHOUT_EFFECT: tuple[OpKind, ...] = ("dropout", "flatten")
"""Operations that do not change the order of the others."""


@dataclass(frozen=True)
class Identity:
    """The network that a file holds.

    ``parts``: our layer's name → the file's layer, ``conv1`` … ``fc8`` and ``norm1`` … ``norm5`` for batch
    normalization. ``reasons``: what the choice rests on. ``assumptions``: what neither shapes nor the file decide.
    """

    variant: str
    architecture: Architecture
    num_classes: int
    in_channels: int
    image_size: int
    parts: dict[str, ForeignLayer]
    reasons: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


@dataclass
class _Match:
    """A variant beside the file: the lines in which they differ, and the settings that the file states otherwise."""

    variant: str
    architecture: Architecture
    image_size: int
    shape_differences: list[str] = field(default_factory=list)
    order_differences: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)
    is_narrow: bool = False
    spread: float = 1.0
    has_own_size: bool = True

    @property
    def rank(self) -> tuple[bool, float, bool]:
        """Lower is nearer: first the variant's own widths, then all narrower by one factor, then its image size."""
        return self.is_narrow, self.spread, not self.has_own_size


def identify(weights: ForeignWeights, variant: str | None = None, name: str = "FILE") -> Identity:
    """The network that the file holds. ``variant``: its name, if the user gives one; ``name``: the file's, for errors.

    Raises ``UserError``: for settings without a meaning, for another number of layers (:class:`NoAlexNetError`), for
    shapes of no variant (the same, with both sides listed), and if several variants fit.
    """
    check_settings(weights)
    parts = name_layers(weights, name)
    names = [variant] if variant else list(_alexnets())
    if weights.architecture is not None and weights.variant and variant in (None, weights.variant):
        names = [weights.variant]
    matches = [_compare(name, weights, parts, is_named=variant is not None) for name in names]
    fitting = [match for match in matches if not match.shape_differences and not match.order_differences]
    assumptions: list[str] = []
    if not fitting and variant:
        fitting = [match for match in matches if not match.shape_differences]
        assumptions += [f"{line}; --variant {variant} decided" for match in fitting for line in match.order_differences]
    if not fitting:
        raise _no_variant(name, matches)
    nearest = min(match.rank for match in fitting)
    fitting = [match for match in fitting if match.rank == nearest]
    reasons = [f"the shapes of {len(parts)} layers are those of {', '.join(match.variant for match in fitting)}"]
    preferred = (weights.variant,) if weights.variant else FIRST_CHOICE.get(weights.framework, ())
    if len(fitting) > 1 and (first := [match for match in fitting if match.variant in preferred]):
        reasons.append(f"{weights.format} files of these shapes are {' or '.join(preferred)}")
        fitting = first
    if len(fitting) > 1 and weights.ops and len({_function_of(match) for match in fitting}) == 1:
        fitting = [min(fitting, key=lambda match: len(match.stated))]  # with the file's settings they are one network
    if len(fitting) > 1:
        names = [match.variant for match in fitting]
        raise UserError(
            f"the weights fit several networks with equal shapes: {', '.join(names)}; name the right one: "
            f"alexnet convert {name} --variant {names[0]}"
        )
    match = fitting[0]
    if weights.ops:
        reasons.append("the order of its operations is in the file")
    if weights.architecture is not None and match.variant == weights.variant:
        reasons.append("the file states every setting of the network")
    return Identity(
        match.variant, match.architecture, len(parts["fc8"].weight), parts["conv1"].weight.shape[1], match.image_size,
        parts, tuple(reasons), tuple(assumptions + match.stated),
    )  # fmt: skip


def name_layers(weights: ForeignWeights, name: str = "FILE") -> dict[str, ForeignLayer]:
    """Our names → the file's layers, by their order. ``name``: the file's. Raises ``UserError`` for other numbers."""
    convs = [layer for layer in weights.layers if layer.kind == "conv"]
    linears = [layer for layer in weights.layers if layer.kind == "linear"]
    norms = [layer for layer in weights.layers if layer.kind == "batch-norm"]
    if (len(convs), len(linears)) != (CONVS, LINEARS) or len(norms) not in NORMS:
        found = [f"{layer.name}: {layer.kind} {shape_in_words(layer.weight.shape)}" for layer in weights.layers]
        raise NoAlexNetError(
            f"{name} holds no AlexNet: it has {_count(convs, 'convolution')}, {_count(linears, 'linear layer')} and "
            f"{_count(norms, 'batch normalization')}; an AlexNet has 5, 3, and 5, 4 or none",
            [printable(line) for line in found] if len(found) <= MAX_LISTED else (),
        )
    parts = {f"conv{number}": layer for number, layer in enumerate(convs, 1)}
    parts |= {f"norm{number}": layer for number, layer in enumerate(norms, 1)}
    return parts | {f"fc{number}": layer for number, layer in enumerate(linears, CONVS + 1)}


def _function_of(match: _Match) -> tuple[object, ...]:
    """What a network computes, without its name: equal for two architectures that give equal logits."""
    a, size, layers = match.architecture, match.image_size, []
    for layer, following in zip(a.convs, a.map_sizes(match.image_size), strict=True):
        zeros = padding_amounts(size, layer.kernel, layer.stride, layer.padding)
        ops = tuple(_normal_order(layer.ops))
        layers.append((layer.filters, layer.kernel, layer.stride, layer.groups, zeros, ops, following))
        size = following
    used = {op for layer in a.convs for op in layer.ops}
    lrn = (a.lrn_size, a.lrn_alpha, a.lrn_beta, a.lrn_k, a.lrn_convention, a.lrn_groups) if "lrn" in used else ()
    return (
        match.image_size, *layers, a.activation, a.pool_kernel, a.pool_stride, lrn,
        a.batch_norm_eps if "batch-norm" in used else 0, a.adaptive_pool in (None, size), a.dropout_scaling,
    )  # fmt: skip


def check_architecture(architecture: Architecture) -> None:
    """Raise ``UserError`` for a setting that no AlexNet has: its network could run for ever or fill the memory."""
    a = architecture
    whole: dict[str, object] = {
        "pool kernel": a.pool_kernel,
        "pool stride": a.pool_stride,
        "LRN size": a.lrn_size,
        "LRN groups": a.lrn_groups,
    }
    whole |= {"adaptive pool": 1 if a.adaptive_pool is None else a.adaptive_pool}
    for number, layer in enumerate(a.convs, 1):
        whole |= {f"conv{number} {name}": getattr(layer, name) for name in ("kernel", "stride", "groups")}
        if layer.padding not in ("ceil", "same"):
            whole[f"conv{number} padding + 1"] = layer.padding + 1 if type(layer.padding) is int else layer.padding
    numbers = {
        "α of LRN": a.lrn_alpha, "β of LRN": a.lrn_beta, "k of LRN": a.lrn_k,
        "epsilon of batch normalization": a.batch_norm_eps,
    }  # fmt: skip
    wrong = [
        f"{name} = {value!r}" for name, value in whole.items() if not (type(value) is int and 1 <= value <= MAX_SETTING)
    ]
    wrong += [f"{name} = {value!r}" for name, value in numbers.items() if not 0 <= value <= MAX_SETTING]
    for number, layer in enumerate(a.convs, 1):
        ops = ["norm" if op in ("lrn", "batch-norm") else op for op in layer.ops]
        if len(set(ops)) < len(ops):
            wrong.append(f"after conv{number}: {', '.join(layer.ops)}")
    normalized = [number for number, layer in enumerate(a.convs, 1) if "batch-norm" in layer.ops]
    if len(normalized) not in NORMS or normalized != list(range(1, len(normalized) + 1)):
        wrong.append("batch normalization after some convolutions")
    if not 0 <= a.dropout < 1:
        wrong.append(f"dropout probability = {a.dropout!r}")
    if wrong:
        raise UserError(f"this is not an AlexNet: the file states {wrong[0]}", wrong[1:])


def _alexnets() -> Iterator[str]:
    return (name for name in list_models() if get_variant(name).architecture is not None)


def _compare(name: str, weights: ForeignWeights, parts: Mapping[str, ForeignLayer], *, is_named: bool) -> _Match:
    stated = weights.architecture if name == weights.variant else None
    architecture = stated or get_architecture(name)
    if architecture is None:
        raise UserError(f"variant {name!r} is no AlexNet: its weights can only be read from a folder of this program")
    match = _Match(name, architecture, architecture.image_size)
    _apply_stated_settings(match, weights.ops)
    own = match.architecture
    check_architecture(own)
    match.architecture = _same_widths(own, parts, any_widths=is_named)
    if match.architecture != own:
        match.is_narrow, match.spread = True, _spread(own, match.architecture)
        match.stated.append(f"the layers are narrower than those of {name}")
    _compare_shapes(match, weights, parts)
    if weights.ops and not match.shape_differences:
        _compare_order(match, weights.ops)
        _compare_head(match, weights.ops)
    return match


def _same_widths(architecture: Architecture, parts: Mapping[str, ForeignLayer], *, any_widths: bool) -> Architecture:
    """The architecture with the widths of the file, if it is a narrow network: no layer is wider than the variant's.

    Unless the user named the variant (``any_widths``), all layers must be narrower by about one factor.
    """
    pairs = [(layer.filters, len(parts[f"conv{number}"].weight)) for number, layer in enumerate(architecture.convs, 1)]
    pairs += [(layer.units, len(parts[f"fc{number}"].weight)) for number, layer in enumerate(architecture.hidden, 6)]
    factors = [found / own for own, found in pairs]
    is_narrow = max(factors) <= 1 if any_widths else max(factors) < 1 and max(factors) <= 1.5 * min(factors)
    if not is_narrow:
        return architecture
    widths = [found for _, found in pairs]
    convs = [replace(layer, filters=width) for layer, width in zip(architecture.convs, widths, strict=False)]
    first, second = (
        replace(layer, units=width) for layer, width in zip(architecture.hidden, widths[CONVS:], strict=True)
    )
    return replace(architecture, convs=cast("Any", tuple(convs)), hidden=(first, second))


def _spread(own: Architecture, narrow: Architecture) -> float:
    """The largest factor between two architectures' widths over the smallest: 1 if all layers are equally narrow."""
    factors = [found / ours for ours, found in zip(_widths(own), _widths(narrow), strict=True)]
    return round(max(factors) / min(factors), 2)


def _widths(architecture: Architecture) -> list[int]:
    return [layer.filters for layer in architecture.convs] + [layer.units for layer in architecture.hidden]


def _compare_shapes(match: _Match, weights: ForeignWeights, parts: Mapping[str, ForeignLayer]) -> None:
    a, differences, inputs = match.architecture, match.shape_differences, parts["conv1"].weight.shape[1]
    wanted_norms = sum("batch-norm" in layer.ops for layer in a.convs)
    norms = sum(name.startswith("norm") for name in parts)
    if bool(wanted_norms) != bool(norms):
        differences.append(f"batch normalization: the file has {'some' if norms else 'none'}")
    elif wanted_norms != norms:
        differences.append(f"batch normalization: found {norms}, expected {wanted_norms}")
    for number, layer in enumerate(a.convs, 1):
        wanted = (layer.filters, inputs // layer.groups, layer.kernel, layer.kernel)
        _compare_shape(differences, f"conv{number}", parts[f"conv{number}"], wanted)
        inputs = layer.filters
    grid = _grid(parts, inputs)
    if a.adaptive_pool not in (None, grid) or (a.adaptive_pool is None and grid == 0):
        differences.append(f"fc6: found {parts['fc6'].weight.shape[1]} inputs for {inputs} feature maps")
    elif a.adaptive_pool is None:
        match.image_size = _image_size(match, weights.image_size, grid)
    elif weights.image_size is not None and weights.image_size >= a.smallest_image():
        match.image_size = weights.image_size
    if a.map_sizes(match.image_size)[-1] < 1:
        differences.append(f"images of {match.image_size} pixels are too small for the strides in the file")
    fc6, fc7 = a.hidden
    _compare_shape(differences, "fc6", parts["fc6"], (fc6.units, parts["fc6"].weight.shape[1]))
    _compare_shape(differences, "fc7", parts["fc7"], (fc7.units, fc6.units))
    _compare_shape(differences, "fc8", parts["fc8"], (len(parts["fc8"].weight), fc7.units))


def _compare_shape(differences: list[str], name: str, found: ForeignLayer, wanted: Sequence[int]) -> None:
    if tuple(found.weight.shape) != tuple(wanted):
        shapes = f"found {shape_in_words(found.weight.shape)}, expected {shape_in_words(wanted)}"
        differences.append(f"{name} ({printable(found.name)}): {shapes}")


def _grid(parts: Mapping[str, ForeignLayer], maps: int) -> int:
    """The side of the feature maps before fc6, from its number of inputs; 0 if that is no square."""
    pixels, rest = divmod(parts["fc6"].weight.shape[1], maps)
    side = round(pixels**0.5)
    return side if not rest and side * side == pixels else 0


def _image_size(match: _Match, stated: int | None, grid: int) -> int:
    """The image size that gives the file's ``grid``: the file's, the variant's own, or the smallest that does."""
    a = match.architecture
    for size in (stated, a.image_size):
        if size is not None and a.map_sizes(size)[-1] == grid:
            return size
    sizes = [size for size in range(a.smallest_image(), 1025) if a.map_sizes(size)[-1] == grid]
    own = f"{a.map_sizes(a.image_size)[-1]} × {a.map_sizes(a.image_size)[-1]}"
    if not sizes:
        match.shape_differences.append(f"fc6: found feature maps of {grid} × {grid}, expected {own}")
        return a.image_size
    match.has_own_size = False
    match.stated.append(f"images of {sizes[0]} pixels, the smallest that give the {grid} × {grid} maps of fc6")
    return sizes[0]


def _apply_stated_settings(match: _Match, ops: Sequence[ForeignOp]) -> None:
    """Change the architecture where the file states other settings, and note each change."""
    a = match.architecture
    stated: dict[str, Any] = {}
    for kind, fields in (
        ("pool", {"kernel": "pool_kernel", "stride": "pool_stride", "ceil_mode": "pool_ceil_mode"}),
        ("lrn", {name: f"lrn_{name}" for name in ("size", "alpha", "beta", "k", "convention", "groups")}),
        ("batch-norm", {"eps": "batch_norm_eps"}),
        ("dropout", {"p": "dropout", "scaling": "dropout_scaling"}),
        ("activation", {"kind": "activation"}),
    ):
        for setting, name in fields.items():
            values = [op.settings[setting] for op in ops if op.kind == kind and setting in op.settings]
            if values:
                stated[name] = values[0]
            if len(different := set(values)) > 1:
                listed = ", ".join(map(str, sorted(different)[:5]))
                match.shape_differences.append(f"{kind}: {setting} differs between layers: {listed}")
    changed = {name: value for name, value in stated.items() if not _equal(getattr(a, name), value)}
    same_lrn = ("lrn_alpha", "lrn_convention") if _same_lrn(a, replace(a, **changed)) else ()
    if "pool_ceil_mode" in changed and _same_maps(a, replace(a, pool_ceil_mode=changed["pool_ceil_mode"])):
        del changed["pool_ceil_mode"]  # both roundings give the same maps at this size
    convs = [op for op in ops if op.kind == "conv"]
    layers = list(a.convs)
    if len(convs) == CONVS:
        layers = [
            _stated_conv(layer, op, number, match)
            for number, (layer, op) in enumerate(zip(layers, convs, strict=True), 1)
        ]
    match.stated += [
        f"{name} is {value!r} in the file, {getattr(a, name)!r} in {match.variant}"
        for name, value in changed.items()
        if name not in same_lrn
    ]
    match.architecture = replace(a, convs=cast("Any", tuple(layers)), **changed)


def _same_lrn(one: Architecture, other: Architecture) -> bool:
    """Whether two α have one effect: α of the mean of n squares is α/n of their sum."""
    effects = [a.lrn_alpha if a.lrn_convention == "sum" else a.lrn_alpha / a.lrn_size for a in (one, other)]
    return one.lrn_size == other.lrn_size and _equal(*effects)


def _same_maps(one: Architecture, other: Architecture) -> bool:
    return one.map_sizes(one.image_size) == other.map_sizes(other.image_size)


def _stated_conv(layer: ConvLayer, op: ForeignOp, number: int, match: _Match) -> ConvLayer:
    changed = {
        name: op.settings[name]
        for name in ("stride", "padding", "groups")
        if name in op.settings and op.settings[name] != getattr(layer, name)
    }
    if changed.keys() == {"padding"} and _same_padding(layer, replace(layer, **changed), match, number):
        return layer
    match.stated += [
        f"conv{number}: {name} is {value!r} in the file, {getattr(layer, name)!r} in {match.variant}"
        for name, value in changed.items()
    ]
    return replace(layer, **changed)


def _same_padding(one: ConvLayer, other: ConvLayer, match: _Match, number: int) -> bool:
    """Whether both paddings are the same zeros at the variant's own image size (``"same"`` and 1 for 3 × 3)."""
    a = match.architecture
    size = a.image_size if number == 1 else a.map_sizes(a.image_size)[number - 2]
    return padding_amounts(size, one.kernel, one.stride, one.padding) == padding_amounts(
        size, other.kernel, other.stride, other.padding
    )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-6 * abs(one)  # the file may hold single precision
    return one == other


def _compare_order(match: _Match, ops: Sequence[ForeignOp]) -> None:
    """The order of operations after each convolution, in the file and in the variant."""
    before: list[str] = []
    after: list[list[str]] = []
    for op in ops:
        if op.kind == "conv":
            after.append([])
        elif op.kind == "linear":
            break
        elif op.kind not in WITHOUT_EFFECT:
            (after[-1] if after else before).append(op.kind)
    if before:
        match.order_differences.append(f"before conv1: found {', '.join(before)}; {match.variant} has nothing there")
    for number, (layer, found) in enumerate(zip(match.architecture.convs, after, strict=False), 1):
        if _normal_order(found) != _normal_order(list(layer.ops)):
            match.order_differences.append(
                f"after conv{number}: found {', '.join(found)}, {match.variant} has {', '.join(layer.ops)}"
            )
    if len(after) != CONVS:
        match.order_differences.append(f"the file describes {len(after)} convolutions")


def _compare_head(match: _Match, ops: Sequence[ForeignOp]) -> None:
    """The order of operations from fc6 on, in the file and in every AlexNet."""
    first = next((place for place, op in enumerate(ops) if op.kind == "linear"), len(ops))
    head = [op.kind for op in ops[first:] if op.kind not in WITHOUT_EFFECT]
    while head[-1:] == ["softmax"]:  # it turns logits into probabilities; a file may also have one for the loss
        head.pop()
    wanted = ["linear", "activation", "linear", "activation", "linear"]
    if head != wanted:
        match.order_differences.append(f"from fc6 on: found {', '.join(head)}; expected {', '.join(wanted)}")


def _normal_order(ops: Sequence[str]) -> list[str]:
    """The order with each activation moved before a max pool that it follows: the two give the same result."""
    ordered = list(ops)
    for place in range(1, len(ordered)):
        if ordered[place] == "activation" and ordered[place - 1] == "pool":
            ordered[place - 1], ordered[place] = ordered[place], ordered[place - 1]
    return ordered


def _count(layers: Sequence[ForeignLayer], what: str) -> str:
    return f"{len(layers)} {what}" if len(layers) == 1 else f"{len(layers)} {what}s"


def _no_variant(name: str, matches: Sequence[_Match]) -> NoAlexNetError:
    nearest = min(matches, key=lambda match: (len(match.shape_differences), len(match.order_differences)))
    lines = nearest.shape_differences + nearest.order_differences
    count = f"{len(lines)} difference{'s' if len(lines) > 1 else ''}"
    if len(matches) == 1:
        line = f"{name} does not hold the weights of {nearest.variant}: {count}"
    else:
        line = f"{name} holds the weights of no variant; the nearest is {nearest.variant}: {count}"
    return NoAlexNetError(line, lines[:MAX_LISTED])
