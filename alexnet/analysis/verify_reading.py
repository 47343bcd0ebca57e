"""Reads what ``alexnet verify`` judges: any MODEL as named layers, also one that ``load_model`` refuses.

What is wrong with the files themselves (changed files, shapes of no variant) becomes findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.analysis.verify_report import Finding
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


def canonical(name: str, layer: ForeignLayer, subject: Subject) -> Tensor:
    """The weight of a layer in this program's layout: RGB, fc6 in the order CHW, fp32."""
    weight = layer.weight
    if name == "fc6" and "conv5" in subject.parts and subject.weights.flatten != "CHW":
        weight = fc6_in_order(weight, len(subject.parts["conv5"].weight), subject.weights.flatten)
    if name == "conv1" and subject.weights.channel_order == "BGR" and weight.ndim == 4 and weight.shape[1] == 3:
        weight = weight.flip(1)
    return weight.detach().to(torch.float32)
