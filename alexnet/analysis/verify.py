"""What the weights of a MODEL are, and whether they are right: findings from the weights alone, in plain words.

It also reads what ``load_model`` refuses: weights that are not finite, shapes of no variant, files that were changed.
A fault is only reported if no healthy network looked like it: the limits below come from networks that were
trained with this program and from torchvision's published convolutions (``alexnet_lab/sensitivity.py`` measures them).
Where the weights cannot decide, the report says so and gives the reason.

The statistics are in ``layer_statistics.py`` and ``layer_links.py``; trials with images in ``preprocessing_trials.py``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

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
from alexnet.analysis.preprocessing_trials import STATED, Trial, Trials
from alexnet.config import Preprocessing
from alexnet.core.errors import UserError, cannot_read, no_run
from alexnet.core.files import read_json, sha256_file, sha256_json
from alexnet.core.names import printable
from alexnet.core.schema import from_json
from alexnet.models.alexnet import Architecture
from alexnet.models.bundle import DAMAGE, architecture_from_json, model_folder
from alexnet.weights.child import errors_name
from alexnet.weights.convert import fc6_in_order
from alexnet.weights.foreign import ForeignLayer, ForeignWeights
from alexnet.weights.formats import ReadOptions, read_weights
from alexnet.weights.identify import Identity, identify
from alexnet.weights.layer_hashes import PUBLISHED, layer_sha256, published_as
from alexnet.weights.zoo import WEIGHTS, find, published_file

Fault = Literal[
    "not-finite", "dead-units", "untrained", "initial-layer", "initial-bias", "foreign-layer", "fc6-order",
    "channel-order", "batch-norm-statistics", "retouched", "changed-file", "shapes", "preprocessing",
    "huge-weights",
]  # fmt: skip
Verdict = Literal["right", "wrong", "unknown"]
Training = Literal["trained", "untrained", "partly trained", "unknown"]

LINKED, NOT_LINKED = 6.0, 3.0
"""Standard deviations: layers of one trained network are above the first, of two networks below the second. Between
them, and after a training of a few hundred steps, it cannot be known."""
COUPLED_JOINTS, COUPLED = 2, 10.0
"""A joint that is not coupled is a fault only in a network with so many other coupled joints, one of them of a
convolution and this strong: training couples the last layers first."""
FEWEST_IMAGES = 30  # fewer right answers than by guessing are no fault of the weights below that
MEAN_DISAGREES = 0.6  # correlation of stored and computed means of batch normalization; healthy networks: 0.95 to 1
MANY_WEIGHTS = 4096  # a smaller layer may look untouched after a short training: it is not called initial
MANY_UNITS = 48  # joints with fewer units are not judged by their link
ORDER_RATIO = 3.0  # how much more alike fc6's neighbouring pixels are in one order than in the other
ORDER_MINIMUM = 0.005  # smaller likenesses are chance
ROUNDED, SCALED, UNRELATED = 6e-3, 1e-5, 0.05
MOST_SILENT = 0.9  # of the units of a layer; a healthy network had 29 % silent units in fc6
HUGE = 1e6  # of a weight or bias; the largest of any network here is below 100
NEARLY_DEAD = 1e-3  # of the median norm

PIXELS: Mapping[str, str] = {
    "unit": "pixels from 0 to 1",
    "symmetric": "pixels from −1 to 1",
    "channel": "pixels minus the mean of each channel, divided by its standard deviation",
    "mean-image": "pixels from 0 to 255 minus a mean image",
    "mean-image-centre": "pixels from 0 to 255 minus the centre of a mean image",
}
"""``Preprocessing.pixel_normalization`` in words."""


@dataclass(frozen=True)
class Finding:
    """One result. ``sentence``: for people. ``fault``: its name if ``verdict`` is ``"wrong"``. ``layers``: concerned.

    ``figures``: the numbers behind it.
    """

    verdict: Verdict
    sentence: str
    fault: Fault | None = None
    layers: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReport:
    """A layer: its name here and in the file, its shape in this program's layout, statistics (None if not finite)."""

    layer: str
    source: str
    shape: tuple[int, ...]
    statistics: LayerStatistics | None
    bias: str
    sha256: str


@dataclass(frozen=True)
class VerifyReport:
    """What was found. ``status``: 0 consistent, 1 suspicious. ``summary``: the verdict in a sentence.

    ``variant``: None if no variant has these shapes. ``trials``: accuracies under other preprocessings, if images were
    given.
    """

    model: str
    format: str
    framework: str
    variant: str | None
    reasons: tuple[str, ...]
    training: Training
    summary: str
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]
    trials: Trials | None = None

    @property
    def status(self) -> int:
        """0 if no fault was found, 1 otherwise."""
        return int(bool(self.faults))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The names of the faults, each once."""
        return tuple(dict.fromkeys(finding.fault for finding in self.findings if finding.fault))


@dataclass
class Subject:
    """A MODEL as it was read: named layers, and what its files state."""

    name: str
    weights: ForeignWeights
    parts: dict[str, ForeignLayer]
    identity: Identity | None
    variant: str | None
    architecture: Architecture | None
    preprocessing: Preprocessing | None
    findings: list[Finding]

    @property
    def weighted(self) -> dict[str, ForeignLayer]:
        """The convolutions and linear layers in forward order."""
        return {name: layer for name, layer in self.parts.items() if layer.kind != "batch-norm"}


def verify_weights(
    model: Path | str, *, against: Path | str | None = None, variant: str | None = None, mean: Path | None = None,
    weights_root: Path | None = None,
) -> VerifyReport:  # fmt: skip
    """What the weights of a MODEL are, from its files alone. ``against``: another MODEL to compare the layers with.

    ``variant`` and ``mean``: as in ``convert``. ``weights_root``: a folder with published weights, whose layers are
    compared too; nothing is downloaded. Raises ``UserError`` for a file that cannot be read as weights.
    """
    subject = read_subject(model, variant, mean)
    other = None if against is None else read_subject(against, None, None)
    findings = list(subject.findings)
    good, broken = _finite_layers(subject)
    findings += broken
    parts = _parts(subject, good)
    statistics = {part.name: layer_statistics(part.weight, part.groups) for part in parts}
    links = _links(parts)
    training, trained = _training(subject, parts, statistics, links)
    findings += _dead_units(parts)
    findings += training
    state = _overall(trained, statistics)
    order = _fc6_order(parts, links) if state != "untrained" else []
    findings += order
    if state != "untrained":
        fresh = {name for finding in training if finding.fault == "initial-layer" for name in finding.layers}
        skip = {joint for joint in links if fresh & set(joint)}  # already explained
        if any(finding.fault == "fc6-order" for finding in order):
            skip.add(("conv5", "fc6"))
        findings += _joints(parts, statistics, links, skip)
        findings += _biases(parts, trained)
    findings += _batch_norm_statistics(parts, state)
    findings += _first_layer(parts, state)
    hashes = {
        name: layer_sha256(_canonical(name, layer, subject), layer.bias) for name, layer in subject.weighted.items()
    }
    findings += _published(subject, Path(model), hashes, weights_root)
    if other is not None:
        findings += _compare(subject, other)
    rows = tuple(
        LayerReport(
            name,
            printable(layer.name),
            tuple(layer.weight.shape),
            statistics.get(name),
            _bias_words(layer),
            hashes[name],
        )
        for name, layer in subject.weighted.items()
    )
    report = VerifyReport(
        subject.name, subject.weights.format, subject.weights.framework, subject.variant,
        subject.identity.reasons + subject.identity.assumptions if subject.identity else (), state, "", rows,
        tuple(findings), _unknown(subject, state),
    )  # fmt: skip
    return replace(report, summary=summarize_report(report))


def summarize_report(report: VerifyReport) -> str:
    """The verdict in one sentence."""
    what = {
        "trained": "trained", "untrained": "not trained", "partly trained": "partly trained",
        "unknown": "trained or not: the weights are too few to tell",
    }[report.training]  # fmt: skip
    name = report.variant or "no variant of this program"
    if report.faults:
        known = () if what == "not trained" and "untrained" in report.faults else (what,)
        return f"SUSPICIOUS: {', '.join(report.faults)}; {', '.join((*known, name))}"
    return f"consistent: {what}, whole, {name}"


def read_subject(model: Path | str, variant: str | None, mean: Path | None) -> Subject:
    """The layers of a MODEL. Raises ``UserError`` if it cannot be read as weights."""
    path = Path(model)
    description: dict[str, Any] = {}
    findings: list[Finding] = []
    if path.is_file():
        with errors_name(path, mean):
            weights = read_weights(path, ReadOptions(mean=mean))
    else:
        if not path.exists():
            raise no_run(path, "")
        folder = model_folder(path)
        weights = read_weights(folder / "model.safetensors")
        description, findings = _description(folder)
    identity, architecture = None, _architecture(description)
    parts = _by_order(weights.layers)
    named = str(description.get("variant", "")) or None
    try:
        identity = identify(weights, variant or (named if architecture else None), printable(str(model)))
    except UserError as error:
        if architecture is None and not description:
            findings.append(Finding("wrong", f"{error.line}{_details(error)}", "shapes"))
    if identity is not None:
        parts = _ordered(identity.parts)
        if architecture is not None:
            identity = replace(identity, reasons=("model.json names the variant",), assumptions=())
        architecture = architecture or identity.architecture
    parts = {name: _sound(name, layer, findings) for name, layer in parts.items()}
    variant = named or (identity.variant if identity else None)
    preprocessing = weights.preprocessing or _preprocessing(description)
    return Subject(printable(str(model)), weights, parts, identity, variant, architecture, preprocessing, findings)


def _sound(name: str, layer: ForeignLayer, findings: list[Finding]) -> ForeignLayer:
    """The layer without those of its vectors that do not have a number for each unit; ``findings`` receives a fault."""
    units = len(layer.weight)
    vectors = {"bias": layer.bias, "running_mean": layer.running_mean, "running_var": layer.running_var}
    wrong = {part: tensor for part, tensor in vectors.items() if tensor is not None and tensor.shape != (units,)}
    for part, tensor in wrong.items():
        line = f"{name}: {part} has the shape {tuple(tensor.shape)}, expected ({units},)"
        findings.append(Finding("wrong", line, "shapes", (name,)))
    without: dict[str, Any] = dict.fromkeys(wrong)
    return replace(layer, **without) if without else layer


def _details(error: UserError) -> str:
    return f" ({'; '.join(error.details[:3])})" if error.details else ""


def _ordered(parts: Mapping[str, ForeignLayer]) -> dict[str, ForeignLayer]:
    """The layers with each batch normalization after its convolution."""
    ordered = {}
    for name, layer in parts.items():
        if layer.kind != "batch-norm":
            ordered[name] = layer
            norm = name.replace("conv", "norm")
            if norm != name and norm in parts:
                ordered[norm] = parts[norm]
    return ordered


def _by_order(layers: Sequence[ForeignLayer]) -> dict[str, ForeignLayer]:
    """Names for the layers of a network that is no AlexNet: conv1, norm1, conv2, …, fc3, … in forward order."""
    parts: dict[str, ForeignLayer] = {}
    weighted = [layer for layer in layers if layer.kind != "batch-norm"]
    norms = iter([layer for layer in layers if layer.kind == "batch-norm"])
    has_norms = any(layer.kind == "batch-norm" for layer in layers)
    for number, layer in enumerate(weighted, 1):
        parts[f"{'conv' if layer.kind == 'conv' else 'fc'}{number}"] = layer
        if has_norms and layer.kind == "conv" and (norm := next(norms, None)) is not None:
            parts[f"norm{number}"] = norm
    return parts


def _description(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """``model.json`` of a model folder, and whether the files are those that were saved."""
    try:
        description = read_json(folder / "model.json")
    except OSError as error:
        raise cannot_read(folder / "model.json", error) from error
    except ValueError:
        return {}, [Finding("wrong", "model.json is damaged: it is not JSON", "changed-file")]
    if not isinstance(description, dict):
        return {}, [Finding("wrong", "model.json is damaged: it holds no description", "changed-file")]
    findings = []
    stored = description.pop("sha256_of_the_rest", None)
    if stored != sha256_json(description):
        findings.append(
            Finding("wrong", "model.json has changed since it was written (its sha256 differs)", "changed-file")
        )
    if sha256_file(folder / "model.safetensors") != description.get("sha256"):
        line = "model.safetensors has changed since it was written (its sha256 is not the one in model.json)"
        findings.append(Finding("wrong", line, "changed-file"))
    return description, findings


def _architecture(description: Mapping[str, Any]) -> Architecture | None:
    try:
        row = description.get("architecture")
        return architecture_from_json(row) if isinstance(row, dict) else None
    except DAMAGE:
        return None


def _preprocessing(description: Mapping[str, Any]) -> Preprocessing | None:
    try:
        row = description.get("preprocessing")
        return None if row is None else from_json(Preprocessing, row)
    except DAMAGE:
        return None


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
        bad = {}
        for part, tensor in tensors.items():
            if tensor is not None and tensor.numel() and not all(end.isfinite() for end in tensor.float().aminmax()):
                bad[part] = int((~tensor.isfinite()).sum())
        huge = [
            part
            for part, tensor in tensors.items()
            if part not in bad and tensor is not None and tensor.numel()
            and float(tensor.float().abs().max()) > (HUGE if part in ("weight", "bias") else HUGE**2)
        ]  # fmt: skip
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


def _canonical(name: str, layer: ForeignLayer, subject: Subject) -> Tensor:
    """The weight of a layer in this program's layout: RGB, fc6 in the order CHW, fp32."""
    weight = layer.weight
    if name == "fc6" and "conv5" in subject.parts and subject.weights.flatten != "CHW":
        weight = fc6_in_order(weight, len(subject.parts["conv5"].weight), subject.weights.flatten)
    if name == "conv1" and subject.weights.channel_order == "BGR" and weight.ndim == 4 and weight.shape[1] == 3:
        weight = weight.flip(1)
    return weight.detach().to(torch.float32)


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
        parts.append(Part(name, _canonical(name, layer, subject), bias, groups, norm, _norm_comes_first(subject, name)))
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


Joint = tuple[str, str]


def _links(parts: Sequence[Part]) -> dict[Joint, Link]:
    found = {}
    for first, second in itertools.pairwise(parts):
        if (pair := link(first, second)) is not None:
            found[first.name, second.name] = pair
    return found


def _training(
    subject: Subject, parts: Sequence[Part], statistics: Mapping[str, LayerStatistics], links: Mapping[Joint, Link]
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


def _overall(trained: Mapping[str, bool | None], statistics: Mapping[str, LayerStatistics]) -> Training:
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


def _bias_words(layer: ForeignLayer) -> str:
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


def _published(
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
    """Published weights of the same variant whose file is on this computer: name → layer → sha256."""
    here: dict[str, dict[str, str]] = {}
    for name, row in WEIGHTS.items():
        file = find(name, weights_root) if row.variant == subject.variant else None
        if file is None or file == path:
            continue
        try:
            if published_file(file) != name:
                continue
            theirs = read_subject(file, row.variant, None)
        except UserError:
            continue  # this check is an extra: a file that cannot be read here is no fault of the MODEL
        here[name] = {
            layer: layer_sha256(_canonical(layer, part, theirs), part.bias) for layer, part in theirs.weighted.items()
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


def _compare(subject: Subject, other: Subject) -> list[Finding]:
    """The layers beside those of another MODEL."""
    relations: dict[str, str] = {}
    maps = len(subject.parts["conv5"].weight) if "conv5" in subject.parts else 0
    for name, layer in subject.weighted.items():
        theirs = other.weighted.get(name)
        if theirs is None:
            relations[name] = f"{other.name} has no such layer"
            continue
        weight, their_weight = _canonical(name, layer, subject), _canonical(name, theirs, other)
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


def _unknown(subject: Subject, state: Training) -> tuple[str, ...]:
    """What weights cannot tell, and what the files state of it."""
    lines = []
    a, stated = subject.architecture, subject.preprocessing
    if stated is None:
        lines.append("the mean and scale of the pixels: weights do not hold them and the file does not state them")
    else:
        lines.append(
            f"the mean and scale of the pixels: the file states {PIXELS[stated.pixel_normalization]}; weights cannot "
            "confirm it"
        )
    if a is not None and a.dropout > 0:
        source = "the file states" if subject.preprocessing is not None else f"{subject.variant} has"
        at = "in evaluation" if a.dropout_scaling == "test" else "in training"
        lines.append(f"where dropout is scaled: {source} {at}; the same weights would be right with either")
    if a is not None and any("lrn" in layer.ops for layer in a.convs):
        lines.append(
            f"what α of LRN multiplies: {subject.variant} has the {a.lrn_convention} of squares; weights cannot tell"
        )
    return tuple(lines)


def with_trials(report: VerifyReport, trials: Trials) -> VerifyReport:
    """The report with the accuracies under several preprocessings, and what they decide."""
    best, stated, findings = trials.best, trials.stated, []
    if trials.refused:
        findings.append(Finding("unknown", f"{trials.refused} images could not be read"))
    if not trials.fits and best.images < FEWEST_IMAGES:
        line = f"which preprocessing fits: {best.images} images are too few to tell, use {FEWEST_IMAGES} or more"
        return _with(report, [*findings, Finding("unknown", line)], trials)
    if not trials.fits:
        line = (
            f"no preprocessing gives more than guessing ({100 * trials.chance:.1f} %) on {best.images} images: "
            f"the best has {_percent(best)}; the weights, the order of the classes or the labels are wrong"
        )
        findings.append(Finding("wrong", line, "preprocessing"))
        return _with(report, findings, trials)
    figures = {"accuracy": best.accuracy, "stated": stated.accuracy, "behind": stated.behind, "error": stated.error}
    beside = f"{describe_trial(best)}: {_percent(best)}; {describe_trial(stated)}: {_percent(stated)}"
    if trials.stated_is_wrong:
        exchanged = best.channels == "BGR" and best.pixels == stated.pixels
        what = (
            "the channels of conv1 are exchanged"
            if exchanged
            else "the stated preprocessing is not the one of these weights"
        )
        line = f"{what}: {beside}; the difference is {100 * stated.behind:.1f} ± {100 * stated.error:.1f} points"
        findings.append(Finding("wrong", line, "channel-order" if exchanged else "preprocessing", figures=figures))
    elif stated.tie:
        findings.append(
            Finding(
                "right", f"the stated preprocessing fits: {describe_trial(stated)}: {_percent(stated)}", figures=figures
            )
        )
    else:
        line = (
            f"another preprocessing may fit better: {beside}; the difference is {100 * stated.behind:.1f} ± "
            f"{100 * stated.error:.1f} points"
        )
        findings.append(Finding("unknown", line, figures=figures))
    if ties := [describe_trial(trial) for trial in trials.trials if trial.tie and trial != best]:
        line = f"a tie with {describe_trial(best)} on {best.images} images: {'; '.join(ties)}"
        findings.append(Finding("unknown", line))
    for layer, (silent, units) in trials.never_active.items():
        if silent:
            line = f"{layer}: {silent} of {units} units are never active on {best.images} images"
            fault: Fault | None = "dead-units" if silent > MOST_SILENT * units else None
            findings.append(Finding("wrong" if fault else "unknown", line, fault, (layer,), {"units": silent}))
    return _with(report, findings, trials)


def _with(report: VerifyReport, findings: Sequence[Finding], trials: Trials) -> VerifyReport:
    changed = replace(report, findings=(*report.findings, *findings), trials=trials)
    return replace(changed, summary=summarize_report(changed))


def describe_trial(trial: Trial) -> str:
    """The preprocessing of a trial in words."""
    others = [trial.dropout] if trial.dropout != STATED else []
    others += [f"α with {trial.alpha}"] if trial.alpha != STATED else []
    return ", ".join([trial.channels, f"pixels {trial.pixels}", trial.resize, *others])


def _percent(trial: Trial) -> str:
    return f"{100 * trial.accuracy:.1f} % ({100 * trial.low:.1f} to {100 * trial.high:.1f})"
