"""``alexnet summary``: the layers of one network, or one line for each."""

from __future__ import annotations

import argparse
import dataclasses

from alexnet.cli.console import print_json
from alexnet.models.classifier import Classifier
from alexnet.models.registry import build, get_variant
from alexnet.models.summary import Layer, Summary, summarize
from alexnet.models.variants import VARIANTS
from alexnet.report.tables import table


def main(arguments: argparse.Namespace) -> int:
    """Print one layer table, or the table of variants."""
    names = [arguments.variant] if arguments.variant else list(VARIANTS)
    networks = {name: _outline(name, arguments) for name in names}
    summaries = {name: summarize(network) for name, network in networks.items()}
    if arguments.json:
        rows = [_document(name, networks[name], summaries[name]) for name in names]
        print_json(rows[0] if arguments.variant else rows)
    elif arguments.variant:
        print(_layer_text(arguments.variant, networks[arguments.variant], summaries[arguments.variant]))
    else:
        print(_overview_text(networks, summaries))
    return 0


def _outline(name: str, arguments: argparse.Namespace) -> Classifier:
    """The network without memory; what was not asked for is what the variant's authors had."""
    row = get_variant(name)
    classes = row.num_classes if arguments.classes is None else arguments.classes
    channels = row.in_channels if arguments.channels is None else arguments.channels
    return build(name, row.architecture, classes, channels, arguments.image_size, device="meta")


def _document(name: str, network: Classifier, summary: Summary) -> dict[str, object]:
    return {
        "variant": name,
        "source": VARIANTS[name].source,
        "input": _input_shape(network),
        "classes": network.num_classes,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "activation_bytes": summary.activation_bytes,
        "layers": [dataclasses.asdict(layer) for layer in summary.layers],
    }


def _input_shape(network: Classifier) -> tuple[int, int, int]:
    return network.in_channels, network.image_size, network.image_size


def _overview_text(networks: dict[str, Classifier], summaries: dict[str, Summary]) -> str:
    header = ("variant", "input", "classes", "parameters", "multiply-adds", "source")
    rows = [
        (
            name,
            _size(_input_shape(network)),
            str(network.num_classes),
            f"{summaries[name].parameters:,}",
            f"{summaries[name].multiply_adds:,}",
            VARIANTS[name].source,
        )
        for name, network in networks.items()
    ]
    return table(header, rows)


def _layer_text(name: str, network: Classifier, summary: Summary) -> str:
    title = f"{name}: {VARIANTS[name].source}\ninput {_size(_input_shape(network))}, {network.num_classes} classes"
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "sees", "step", "memory")
    rows = [_cells(layer) for layer in summary.layers]
    total = ("total", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "", "",
             _kibibytes(summary.activation_bytes))  # fmt: skip
    return f"{title}\n\n{table(header, [*rows, total])}"


def _cells(layer: Layer) -> tuple[str, ...]:
    """One row; a layer that sees the whole image has no field of its own."""
    sees, step = (str(number or "–") for number in (layer.receptive_field, layer.step))
    return (
        layer.name,
        layer.kind,
        _size(layer.shape),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
        sees,
        step,
        _kibibytes(layer.activation_bytes),
    )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _kibibytes(count: int) -> str:
    return f"{count / 1024:,.1f} KiB"
