"""Whether weights are published ones or a changed copy, and how the layers of two networks differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alexnet.analysis.verify_reading import Subject, canonical, read_subject
from alexnet.analysis.verify_report import Finding
from alexnet.core.errors import UserError
from alexnet.weights.convert import fc6_in_order
from alexnet.weights.layer_hashes import PUBLISHED, layer_sha256, published_as
from alexnet.weights.zoo import WEIGHTS, find, list_weights, published_file

ROUNDED, SCALED, UNRELATED = 6e-3, 1e-5, 0.05


def published_findings(
    subject: Subject, path: Path, hashes: Mapping[str, str], weights_root: Path | None
) -> list[Finding]:  # fmt: skip
    """Whether the file, or some of its layers, are published ones."""
    if path.is_file() and (file := published_file(path)):
        line = f"the file is the published {file}, bit for bit ({WEIGHTS[file].hash.replace(':', ' ')})"
        return [Finding("right", line, None, tuple(hashes))]
    known = {**PUBLISHED, **_published_here(subject, path, weights_root)}
    found = published_as(hashes, known)
    if found is None:
        words = "; ".join(f"{name} ({', '.join(layers)})" for name, layers in known.items())
        line = f"no layer is bit for bit one of the published layers that it can be compared with here: {words}"
        return [Finding("unknown", line)]
    name, equal, other = found
    if not other:
        return [Finding("right", f"{', '.join(equal)} are bit for bit those published as {name}", None, equal)]
    return _partly(f"published as {name}", list(hashes), equal, other)


def _published_here(subject: Subject, path: Path, weights_root: Path | None) -> dict[str, dict[str, str]]:
    """Published and included weights of the same variant that are on this computer: name → layer → sha256."""
    here: dict[str, dict[str, str]] = {}
    for name, row in list_weights().items():
        file = find(name, weights_root) if row.variant == subject.variant else None
        if file is None or (file == path and name in WEIGHTS):
            continue
        try:
            if name in WEIGHTS and published_file(file) != name:
                continue
            theirs = read_subject(file, row.variant, None)
        except UserError:
            continue  # this check is an extra: a file that cannot be read here is no fault of the MODEL
        here[name] = {
            layer: layer_sha256(canonical(layer, part, theirs), part.bias) for layer, part in theirs.weighted.items()
        }
    return here


def _partly(what: str, order: Sequence[str], equal: Sequence[str], other: Sequence[str]) -> list[Finding]:
    """The finding for a network that shares some layers with another one: fine-tuned if only last layers differ."""
    line = (
        f"{', '.join(equal)} are bit for bit those {what}; {', '.join(other)} {'is' if len(other) == 1 else 'are'} not"
    )
    last_equal = max(order.index(name) for name in equal if name in order)
    if all(order.index(name) > last_equal for name in other if name in order):
        return [Finding("unknown", f"{line}: as after fine-tuning the last layers", None, tuple(other))]
    return [Finding("wrong", f"{line}: a changed copy", "retouched", tuple(other))]


def comparison_findings(subject: Subject, other: Subject) -> list[Finding]:
    """The layers beside those of another MODEL."""
    relations: dict[str, str] = {}
    maps = len(subject.parts["conv5"].weight) if "conv5" in subject.parts else 0
    for name, layer in subject.weighted.items():
        theirs = other.weighted.get(name)
        if theirs is None:
            relations[name] = f"{other.name} has no such layer"
            continue
        weight, their_weight = canonical(name, layer, subject), canonical(name, theirs, other)
        relations[name] = relation(name, weight, layer.bias, their_weight, theirs.bias, maps)
    equal = [name for name, words in relations.items() if words == EQUAL]
    changed = {name: words for name, words in relations.items() if words != EQUAL}
    findings = [
        Finding("unknown", f"{name}, beside {other.name}: {words}", None, (name,)) for name, words in changed.items()
    ]
    if not changed:
        return [Finding("right", f"all layers are bit for bit those of {other.name}", None, tuple(equal))]
    if equal:
        return [*_partly(f"of {other.name}", list(relations), equal, list(changed)), *findings]
    return findings


EQUAL = "equal"


def relation(
    name: str, weight: Tensor, bias: Tensor | None, theirs: Tensor, their_bias: Tensor | None, maps: int
) -> str:
    """How a layer's weights differ from another's, in words; ``"equal"`` if weight and bias are bit for bit equal.

    ``maps``: the number of feature maps before fc6.
    """
    if weight.shape != theirs.shape:
        return f"another shape, {_size(weight)} and {_size(theirs)}"
    same_bias = _same(bias, their_bias)
    if torch.equal(weight, theirs):
        return EQUAL if same_bias else "equal weights and other biases"
    if not (bool(weight.isfinite().all()) and bool(theirs.isfinite().all())):
        return f"{int((weight != theirs).sum()):,} of {weight.numel():,} weights differ, some are not finite"
    note = "" if same_bias else ", and other biases"
    if name == "conv1" and weight.shape[1] == 3 and torch.equal(weight.flip(1), theirs):
        return f"its input channels are in reverse order (RGB and BGR){note}"
    if name == "fc6" and maps and weight.shape[1] % maps == 0:
        for order in ("HWC", "WHC"):
            if torch.equal(fc6_in_order(weight, maps, order), theirs):
                return f"its inputs are in the order {order}, not CHW{note}"
            if torch.equal(fc6_in_order(theirs, maps, order), weight):
                return f"its inputs are in the order CHW, those of the other in {order}{note}"
    mine, other = weight.double().flatten(), theirs.double().flatten()
    difference, size = float((mine - other).norm()), max(float(other.norm()), 1e-30)
    count = int((mine != other).sum())
    if difference / size < ROUNDED and count > 0.5 * len(mine):
        return f"equal but for rounding (they differ by {difference / size:.1e} of the norm){note}"
    cosine = float(mine @ other) / max(float(mine.norm()) * float(other.norm()), 1e-30)
    factor = float(mine.norm()) / size
    if 1 - cosine < SCALED and abs(factor - 1) > 0.01:
        return f"the same weights times {factor:.4g}{note}"
    rows, their_rows = (part.flatten(1).double().square().sum(dim=1).sort().values for part in (weight, theirs))
    if torch.allclose(rows, their_rows, rtol=1e-6):
        return f"the same units in another order{note}"
    if abs(cosine) < max(UNRELATED, 5 / math.sqrt(len(mine))):
        return f"unrelated weights (cosine {cosine:+.3f})"
    return f"{count:,} of {len(mine):,} weights differ (cosine {cosine:+.4f}){note}"


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        present = one if other is None else other
        return present is None or not bool(present.any())
    return one.shape == other.shape and torch.equal(one.float(), other.float())


def _size(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))
