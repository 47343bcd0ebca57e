"""Findings from the weights alone: which layers are trained, and whether they belong together.

A fault is only reported if no healthy network looked like it: the limits below come from networks that were trained
with this program and from torchvision's published convolutions (``alexnet_lab/verification/`` measures them). Where the
weights cannot decide, the finding says so and gives the reason. The statistics are in ``layer_statistics.py`` and
``layer_links.py``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alexnet.analysis.filters import colour_index, orientation_index
from alexnet.analysis.layer_links import (
    BatchNorm,
    Link,
    Part,
    colour_energies,
    input_orders,
    link,
    stored_mean_agreement,
)
from alexnet.analysis.layer_statistics import BIASES, LayerStatistics, constant_value, layer_statistics
from alexnet.analysis.verify_reading import Subject, canonical
from alexnet.analysis.verify_report import Finding, Training
from alexnet.weights.convert import fc6_in_order
from alexnet.weights.foreign import ForeignLayer

LINKED, NOT_LINKED = 6.0, 3.0
"""Standard deviations: layers of one trained network are above the first, of two networks below the second. Between
them, and after a training of a few hundred steps, it cannot be known."""
COUPLED_JOINTS, COUPLED = 2, 10.0
"""A joint that is not coupled is a fault only in a network with so many other coupled joints, one of them of a
convolution and this strong: training couples the last layers first."""
MEAN_DISAGREES = 0.6  # correlation of stored and computed means of batch normalization; healthy networks: 0.95 to 1
MANY_WEIGHTS = 4096  # a smaller layer may look untouched after a short training: it is not called initial
MANY_UNITS = 48  # joints with fewer units are not judged by their link
ORDER_RATIO = 3.0  # how much more alike fc6's neighbouring pixels are in one order than in the other
ORDER_MINIMUM = 0.005  # smaller likenesses are chance
HUGE = 1e6  # of a weight or bias; the largest of any network here is below 100
NEARLY_DEAD = 1e-3  # of the median norm
Joint = tuple[str, str]


def judge_layers(subject: Subject) -> tuple[list[Finding], dict[str, LayerStatistics], Training]:
    """The findings from the weights of all layers, the statistics of the finite ones, and whether they are trained."""
    good, findings = _finite_layers(subject)
    parts = _parts(subject, good)
    statistics = {part.name: layer_statistics(part.weight, part.groups) for part in parts}
    links = _links(parts)
    if passing := [part.name for part in parts if passes_on(part)]:
        names = f"{', '.join(passing)} only {'passes' if len(passing) == 1 else 'pass'}"
        line = f"{names} on the features of an earlier layer: the model is a linear probe on it"
        findings.append(Finding("right", line, None, tuple(passing)))
        parts = [part for part in parts if part.name not in passing]
        links = {joint: found for joint, found in links.items() if not set(passing) & set(joint)}
    training, trained = _training(parts, statistics, links)
    findings += _dead_units(parts)
    findings += training
    state = _overall(trained)
    if state != "untrained":
        order = [] if "fc6" in passing else _fc6_order(parts, links)
        findings += order
        fresh = {name for finding in training if finding.fault == "initial-layer" for name in finding.layers}
        skip = {joint for joint in links if fresh & set(joint)}  # already explained
        if any(finding.fault == "fc6-order" for finding in order):
            skip.add(("conv5", "fc6"))
        findings += _joints(parts, statistics, links, skip)
        findings += _biases(parts, trained)
    findings += _batch_norm_statistics(parts, state)
    findings += _first_layer(parts, state)
    return findings, statistics, state


def _finite_layers(subject: Subject) -> tuple[set[str], list[Finding]]:
    """The layers whose tensors are finite, and a fault for each other tensor."""
    good, findings = set(), []
    for name, layer in subject.parts.items():
        tensors = {
            "weight": layer.weight,
            "bias": layer.bias,
            "mean": layer.running_mean,
            "variance": layer.running_var,
        }
        bad, huge = {}, []
        for part, tensor in tensors.items():
            if tensor is None or not tensor.numel():
                continue
            ends = torch.stack(tensor.float().aminmax())
            if not bool(ends.isfinite().all()):
                bad[part] = int((~tensor.isfinite()).sum())
            elif float(ends.abs().max()) > (HUGE if part in ("weight", "bias") else HUGE**2):
                huge.append(part)
        findings += [
            Finding("wrong", f"{name}: its {part} has larger numbers than any trained network", "huge-weights", (name,))
            for part in huge
        ]
        if not bad and not huge:
            good.add(name)
        for part, count in bad.items():
            total = tensors[part].numel()  # type: ignore[union-attr]
            line = f"{name}: {count:,} of {total:,} numbers of its {part} are not finite"
            findings.append(Finding("wrong", line, "not-finite", (name,), {"count": count}))
    return good, findings


def _parts(subject: Subject, good: set[str]) -> list[Part]:
    """The finite layers, in forward order, each with its batch normalization."""
    parts, before = [], 0
    for name, layer in subject.weighted.items():
        weight = layer.weight
        groups = 1
        if layer.kind == "conv" and before and weight.shape[1] and before % weight.shape[1] == 0:
            groups = before // weight.shape[1]
            groups = groups if len(weight) % groups == 0 else 1
        before = len(weight)
        norm_name = name.replace("conv", "norm")
        if name not in good or weight.numel() == 0:
            continue
        norm = None
        if norm_name != name and norm_name in good:
            norm = _batch_norm(subject.parts[norm_name], len(weight))
        bias = None if layer.bias is None else layer.bias.detach().float()
        if bias is not None and len(bias) != len(weight):
            bias = None
        parts.append(Part(name, canonical(name, layer, subject), bias, groups, norm, _norm_comes_first(subject, name)))
    return parts


def _batch_norm(layer: ForeignLayer, units: int) -> BatchNorm | None:
    tensors = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    if any(tensor is None or len(tensor) != units for tensor in tensors):
        return None
    scale, shift, running_mean, variance = (tensor.detach().float() for tensor in tensors if tensor is not None)
    return BatchNorm(scale, shift, running_mean, variance)


def _norm_comes_first(subject: Subject, name: str) -> bool:
    """Whether batch normalization comes before the activation after a convolution."""
    a = subject.architecture
    numbers = {f"conv{number}": number - 1 for number in range(1, 6)}
    if a is not None and name in numbers:
        ops = a.convs[numbers[name]].ops
        return "batch-norm" not in ops or ops.index("batch-norm") < ops.index("activation")
    return subject.variant != "keras"


def passes_on(part: Part) -> bool:
    """Whether a linear layer only passes features on, as those of a probe on an earlier layer do.

    Each of its units is the mean of inputs that no other unit uses, or has only zeros; all biases are 0. See
    :func:`~alexnet.training.linear_probe.put_probe`.
    """
    weight, bias = part.weight.float(), part.bias
    if weight.ndim != 2 or bias is None or bool(bias.any()):
        return False
    used = weight != 0
    counts = used.sum(dim=1)
    if not counts.any() or bool((used.sum(dim=0) > 1).any()):
        return False
    means = used / counts.clamp_min(1)[:, None]
    return torch.allclose(weight, means, rtol=0.02, atol=0.0)  # rounded to int8, a mean is a little different


def _links(parts: Sequence[Part]) -> dict[Joint, Link]:
    found = {}
    for first, second in itertools.pairwise(parts):
        if (pair := link(first, second)) is not None:
            found[first.name, second.name] = pair
    return found


def _training(
    parts: Sequence[Part], statistics: Mapping[str, LayerStatistics], links: Mapping[Joint, Link]
) -> tuple[list[Finding], dict[str, bool | None]]:
    """Findings on which layers are trained, and layer → whether it is (None: cannot be known)."""
    trained: dict[str, bool | None] = {}
    for part in parts:
        strengths = [pair.strength for joint, pair in links.items() if part.name in joint]
        touched = part.norm is not None and _is_used(part.norm)
        state = statistics[part.name].state
        if (
            state == "trained"
            or max(strengths, default=0.0) > LINKED
            or (touched and part.norm is not None and state == "unknown")
        ):
            trained[part.name] = True
        elif state == "unknown":
            trained[part.name] = None
        else:
            trained[part.name] = False
    findings = []
    judged = [name for name, value in trained.items() if value is not None]
    untrained = [name for name in judged if not trained[name]]
    batch_norms = [part.norm for part in parts if part.norm is not None]
    used = any(map(_is_used, batch_norms))
    edges = [statistics[name].edge_ratio for name in judged]
    if judged and len(untrained) == len(judged) and not used:
        schemes = sorted({statistics[name].nearest for name in judged if statistics[name].state == "initial"})
        line = (
            f"every layer that can be judged ({', '.join(judged)}) holds independent random numbers"
            + (
                f", as these initializations draw them: {'; '.join(schemes)}"
                if schemes
                else " of no known initialization"
            )
            + f"; the largest singular values are {min(edges):.2f} to {max(edges):.2f} of the edge for random matrices"
        )
        findings.append(Finding("wrong", line, "untrained", tuple(judged)))
        return findings, trained
    for name in untrained:
        part = next(part for part in parts if part.name == name)
        coupled = _is_coupled(parts, links, {joint for joint in links if name in joint})
        missing = all(
            pair.strength < NOT_LINKED and pair.units >= MANY_UNITS for joint, pair in links.items() if name in joint
        )
        figures = {"distance": statistics[name].distance, "edge_ratio": statistics[name].edge_ratio}
        if part.weight.numel() >= MANY_WEIGHTS and (coupled and missing):
            words = statistics[name].nearest if statistics[name].state == "initial" else "independent random numbers"
            line = (
                f"{name} is not trained, or of a network that hardly was: its {part.weight.numel():,} weights are as "
                f"drawn by {words} (largest singular value {statistics[name].edge_ratio:.2f} of the edge for random "
                "matrices), and nothing couples it to the layers beside it"
            )
            findings.append(Finding("wrong", line, "initial-layer", (name,), figures))
        else:
            trained[name] = None
    if open_layers := [name for name in judged if trained[name] is None]:
        line = (
            f"whether {', '.join(open_layers)} {'is' if len(open_layers) == 1 else 'are'} trained cannot be known from "
            "the weights: there are too few, or training changed them less than chance differs"
        )
        findings.append(Finding("unknown", line, None, tuple(open_layers)))
    sure = [name for name, value in trained.items() if value]
    if sure:
        ratios = [statistics[name].edge_ratio for name in sure]
        line = (
            f"{', '.join(sure)} are trained: no known initialization draws such weights, or their units are coupled to "
            f"the layers beside them; largest singular values are {min(ratios):.2f} to {max(ratios):.2f} of the edge "
            "for random matrices"
        )
        findings.insert(0, Finding("right", line, None, tuple(sure)))
    return findings, trained


def _is_used(norm: BatchNorm) -> bool:
    """Whether a batch normalization has other values than those that it begins with."""
    return not (bool((norm.mean == 0).all()) and bool((norm.variance == 1).all()))


def _overall(trained: Mapping[str, bool | None]) -> Training:
    values = [value for value in trained.values() if value is not None]
    if not values:
        return "unknown"
    if all(values):
        return "trained"
    return "partly trained" if any(values) else "untrained"


def _dead_units(parts: Sequence[Part]) -> list[Finding]:
    findings = []
    for part in parts:
        rows = part.weight.flatten(1)
        zero = int((rows == 0).all(dim=1).sum())
        constant = int((rows == rows[:, :1]).all(dim=1).sum()) - zero if rows.shape[1] >= 4 else 0
        for count, what in ((zero, "only zeros as weights"), (constant, "one number as all weights")):
            if count:
                line = f"{part.name}: {count} of {len(rows)} units are dead: they have {what}"
                findings.append(Finding("wrong", line, "dead-units", (part.name,), {"units": count}))
        norms = torch.linalg.vector_norm(rows, dim=1)
        nearly = int((norms < NEARLY_DEAD * norms.median()).sum()) - zero
        if nearly > 0:
            line = f"{part.name}: {nearly} of {len(rows)} units have weights near 0, as units that died in training"
            findings.append(Finding("unknown", line, None, (part.name,), {"units": nearly}))
    return findings


def _fc6_order(parts: Sequence[Part], links: Mapping[Joint, Link]) -> list[Finding]:
    """Whether fc6's inputs are in the order that the file's format has."""
    convs, linears = [p for p in parts if p.weight.ndim == 4], [p for p in parts if p.weight.ndim == 2]
    if not convs or not linears:
        return []
    conv, linear = convs[-1], linears[0]
    likeness = input_orders(linear.weight, len(conv.weight))
    if not likeness:
        return [
            Finding("unknown", f"{linear.name}: the order of its inputs has no meaning, because each map is one pixel")
        ]
    right, wrong = likeness["CHW"], likeness["HWC"]
    figures = {f"likeness_{order}": value for order, value in likeness.items()}
    text = (
        f"correlation of neighbouring pixels of a map above that of other pixels: {right:+.3f} as CHW, "
        f"{wrong:+.3f} as HWC"
    )
    if max(right, wrong) < ORDER_MINIMUM:
        line = f"{linear.name}: the order of its inputs cannot be known: no order makes its weights smooth ({text})"
        return [Finding("unknown", line, None, (linear.name,), figures)]
    if wrong > ORDER_MINIMUM and wrong > ORDER_RATIO * max(right, 0.0):
        moved = replace(linear, weight=fc6_in_order(linear.weight, len(conv.weight), "HWC"))
        repaired, found = link(conv, moved), links.get((conv.name, linear.name))
        if repaired is None or found is None or repaired.strength > found.strength:
            line = f"{linear.name}: its inputs are in the order HWC, not CHW ({text})"
            return [Finding("wrong", line, "fc6-order", (linear.name,), figures)]
    if right > ORDER_RATIO * max(wrong, 0.0):
        return [
            Finding("right", f"{linear.name}: its inputs are in the order CHW ({text})", None, (linear.name,), figures)
        ]
    return [
        Finding(
            "unknown", f"{linear.name}: the order of its inputs cannot be known ({text})", None, (linear.name,), figures
        )
    ]


def _joints(
    parts: Sequence[Part], statistics: Mapping[str, LayerStatistics], links: Mapping[Joint, Link], skip: set[Joint]
) -> list[Finding]:
    """Whether neighbouring layers are of one network."""
    strengths = sorted(pair.strength for joint, pair in links.items() if joint not in skip)
    broken: dict[Joint, str] = {}
    unknown: list[Joint] = []
    known: list[Joint] = []
    for first, second in itertools.pairwise(parts):
        joint = first.name, second.name
        pair = links.get(joint)
        if joint in skip or pair is None:
            continue
        if pair.strength >= LINKED:
            known.append(joint)
        elif (
            pair.strength < NOT_LINKED
            and pair.units >= MANY_UNITS
            and first is not parts[0]
            and _is_coupled(parts, links, skip)
        ):
            broken[joint] = (
                f"units between {first.name} and {second.name} are coupled no more than in random order "
                f"({pair.strength:.1f} standard deviations; the strongest joint has {strengths[-1]:.0f})"
            )
        else:
            unknown.append(joint)
    findings = []
    names = [part.name for part in parts]
    initial = {name for name in names if statistics[name].state == "initial" and statistics[name].edge_ratio < 1.05}
    inner = [
        name for name in names
        if sum(name in joint for joint in broken) == 2 and name not in initial
    ]  # fmt: skip
    explained = {joint for joint in broken if any(name in joint for name in inner)}
    for name in inner:
        lines = "; ".join(broken[joint] for joint in broken if name in joint)
        findings.append(
            Finding(
                "wrong", f"{name} is of another network than the layers beside it: {lines}", "foreign-layer", (name,)
            )
        )
    for joint, line in broken.items():
        if joint not in explained:
            order = "conv" in joint[0] and "fc" in joint[1]
            also = f" (or the inputs of {joint[1]} are in another order)" if order else ""
            one = f"{joint[0]} and {joint[1]} do not fit together{also}: {line}"
            findings.append(Finding("wrong", one, "foreign-layer", joint))
    if known and not broken:
        words = ", ".join("–".join(joint) for joint in known)
        weakest = min(links[joint].strength for joint in known)
        line = (
            f"layers beside each other are of one network ({words}): their units are coupled {weakest:.0f} standard "
            "deviations or more above random order"
        )
        findings.append(Finding("right", line, figures={"joints": len(known), "weakest": weakest}))
    if unknown:
        words = ", ".join("–".join(joint) for joint in unknown)
        line = f"whether these layers are of one network cannot be known from the weights: {words}"
        findings.append(Finding("unknown", line))
    return findings


def _is_coupled(parts: Sequence[Part], links: Mapping[Joint, Link], without: set[Joint]) -> bool:
    """Whether enough joints of a network are coupled, so that the others should be. ``without``: joints left out."""
    convs = {part.name for part in parts if part.weight.ndim == 4}
    others = {joint: pair.strength for joint, pair in links.items() if joint not in without}
    enough = sum(strength > LINKED for strength in others.values()) >= COUPLED_JOINTS
    return enough and any(strength > COUPLED for joint, strength in others.items() if joint[0] in convs)


def _biases(parts: Sequence[Part], trained: Mapping[str, bool | None]) -> list[Finding]:
    findings = []
    for part in parts:
        if part.bias is None or (part.norm is not None and part.before_activation):
            continue  # batch normalization subtracts the bias again: it has no effect and is not trained
        value = constant_value(part.bias)
        if value is not None and trained.get(part.name):
            known = (
                f", an initialization ({', '.join(f'{bias:g}' for bias in BIASES)})"
                if any(math.isclose(value, bias, rel_tol=1e-2, abs_tol=1e-9) for bias in BIASES)
                else ""
            )
            line = (
                f"{part.name}: its weights are trained and all {len(part.bias)} biases are {value:g}{known}: training "
                "changes each of them"
            )
            findings.append(Finding("wrong", line, "initial-bias", (part.name,), {"value": value}))
    return findings


def bias_words(layer: ForeignLayer) -> str:
    """The biases of a layer: their one value, or the smallest and the largest."""
    if layer.bias is None:
        return "none"
    value = constant_value(layer.bias)
    if value is not None:
        return f"all {value:g}"
    low, high = layer.bias.float().aminmax()
    return f"{float(low):.3g} to {float(high):.3g}"


def _batch_norm_statistics(parts: Sequence[Part], state: Training) -> list[Finding]:
    findings = []
    previous: Part | None = None
    for part in parts:
        before, previous = previous, part
        if part.norm is None:
            continue
        line = ""
        if bool((part.norm.variance < 0).any()):
            line = f"{part.name}: its batch normalization has negative variances"
        elif state != "untrained" and not _is_used(part.norm):
            line = (
                f"{part.name}: the means and variances of its batch normalization are still 0 and 1, as before training"
            )
        elif before is not None and len(part.weight) >= 16:
            agreement = stored_mean_agreement(before, part)
            if agreement is not None and agreement < MEAN_DISAGREES:
                line = (
                    f"{part.name}: its batch normalization was not measured with these weights: the stored means "
                    f"have the correlation {agreement:+.2f} with those that the weights give (0.95 or more if healthy)"
                )
        if line:
            findings.append(Finding("wrong", line, "batch-norm-statistics", (part.name,)))
    return findings


def _first_layer(parts: Sequence[Part], state: Training) -> list[Finding]:
    """Colour and orientation of conv1's kernels beside those of random kernels, and the order of its channels."""
    if not parts or parts[0].weight.ndim != 4 or parts[0].weight.shape[2] < 3:
        return []
    kernels = parts[0].weight
    findings = []
    orientation, colour = _random_indices(tuple(kernels.shape[1:]))
    measured = {"orientation": (orientation_index(kernels), orientation)}
    if colour is not None:
        measured["colour"] = colour_index(kernels), colour
    figures, words = {}, []
    for name, (found, random) in measured.items():
        error = float(random.std()) / math.sqrt(len(found))
        z = (float(found.mean()) - float(random.mean())) / max(error, 1e-12)
        figures[f"{name}_z"] = z
        words.append(
            f"{name} index {float(found.mean()):.2f} (random kernels {float(random.mean()):.2f}, "
            f"{z:+.0f} standard errors)"
        )
    typical = any(abs(z) > 6 for z in figures.values())
    line = f"{parts[0].name}: {', '.join(words)}"
    findings.append(
        Finding("right" if typical and state != "untrained" else "unknown", line, None, (parts[0].name,), figures)
    )
    if kernels.shape[1] == 3 and state != "untrained":
        first, second, third = colour_energies(kernels)
        line = (
            "whether conv1 expects RGB or BGR cannot be known from the weights: exchanged channels have the same "
            f"opponent colours (energies of the channels: {first:.2f}, {second:.2f}, {third:.2f}); images decide it"
        )
        findings.append(
            Finding("unknown", line, None, (parts[0].name,), {"first": first, "second": second, "third": third})
        )
    return findings


@functools.cache
def _random_indices(shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """The orientation and colour indices of random kernels of a shape; no colour for images of one channel."""
    kernels = torch.randn(128, *shape, generator=torch.Generator().manual_seed(0))
    return orientation_index(kernels), colour_index(kernels) if shape[0] == 3 else None
