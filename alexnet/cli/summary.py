"""``alexnet summary``: the layer table of one network, or one line for each variant."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from alexnet.api import summary
from alexnet.cli.console import print_json, print_text
from alexnet.core.errors import UserError
from alexnet.models.classifier import Classifier
from alexnet.models.registry import get_variant, list_models
from alexnet.models.summary import Layer, Summary
from alexnet.report.tables import dimensions, table
from alexnet.weights.load import is_local_model


def main(arguments: argparse.Namespace) -> int:
    """Print one layer table, or the table of variants; returns the exit status."""
    target = arguments.target
    if target in list_models() and is_local_model(target):
        print(f"alexnet: note: {target} is a trained model here, not the variant of that name", file=sys.stderr)
    found = {
        name: summary(
            name,
            num_classes=arguments.classes,
            in_channels=arguments.channels,
            image_size=arguments.image_size,
            weights_root=arguments.weights_root,
        )
        for name in ([target] if target else list_models())
    }
    if arguments.json:
        rows = [_document(network, layers) for network, layers in found.values()]
        print_json(rows[0] if target else rows)
    elif target:
        print_text(_layer_text(target, *found[target]))
    else:
        print(_overview_text(found))
    return 0


def _document(network: Classifier, layers: Summary) -> dict[str, object]:
    return {
        "variant": network.variant,
        "source": _source(network.variant),
        "input": _input_shape(network),
        "classes": network.num_classes,
        "parameters": layers.parameters,
        "multiply_adds": layers.multiply_adds,
        "activation_bytes": layers.activation_bytes,
        "layers": [dataclasses.asdict(layer) for layer in layers.layers],
    }


def _input_shape(network: Classifier) -> tuple[int, int, int]:
    return network.in_channels, network.image_size, network.image_size


def _source(variant: str) -> str:
    """The source of a variant in the table; a remark for a variant that is no longer in the table."""
    try:
        return get_variant(variant).source
    except UserError:
        return "not in the table of variants"


def _overview_text(found: dict[str, tuple[Classifier, Summary]]) -> str:
    header = ("variant", "input", "classes", "parameters", "multiply-adds", "source")
    rows = [
        (
            name,
            dimensions(_input_shape(network)),
            str(network.num_classes),
            f"{layers.parameters:,}",
            f"{layers.multiply_adds:,}",
            get_variant(name).source,
        )
        for name, (network, layers) in found.items()
    ]
    return table(header, rows)


def _layer_text(name: str, network: Classifier, layers: Summary) -> str:
    about = name if name == network.variant else f"{name}, {network.variant}"
    source = _source(network.variant)
    title = f"{about}: {source}\ninput {dimensions(_input_shape(network))}, {network.num_classes} classes"
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field", "step", "memory")
    rows = [_cells(layer) for layer in layers.layers]
    total = ("total", "", "", f"{layers.parameters:,}", f"{layers.multiply_adds:,}", "", "",
             _kibibytes(layers.activation_bytes))  # fmt: skip
    lines = [f"{title}\n\n{table(header, [*rows, total])}"]
    if network.task == "detection":
        listed = {layer.name for layer in layers.layers}
        others = [name for name, child in network.named_children() if name not in listed and [*child.parameters()]]
        weights = sum(weight.numel() for weight in network.parameters()) - layers.parameters
        lines.append(f"not in the table, because they run for each box: {', '.join(others)}, {weights:,} parameters")
    return "\n".join(lines)


def _cells(layer: Layer) -> tuple[str, ...]:
    """One row; receptive field and step are "–" if a unit depends on the whole image."""
    field, step = (str(number or "–") for number in (layer.receptive_field, layer.step))
    return (
        layer.name,
        layer.kind,
        dimensions(layer.shape),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
        field,
        step,
        _kibibytes(layer.activation_bytes),
    )


def _kibibytes(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"
