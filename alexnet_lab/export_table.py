"""Which variant can be exported to which format, or why not, as a table for the documentation.

``python -m alexnet_lab.export_table`` prints it as Markdown. The reasons are those that ``alexnet export`` gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from alexnet.models.registry import build, get_variant
from alexnet.models.variants import VARIANTS
from alexnet.report.tables import markdown_table
from alexnet.weights.export import EXPORTERS, ExportOptions, get_exporter

WORKS = "yes"


def export_reasons() -> dict[str, dict[str, str]]:
    """Variant → format → ``"yes"``, or why the format cannot hold the network."""
    return {name: _of_variant(name) for name in VARIANTS}


def _of_variant(name: str) -> dict[str, str]:
    row = get_variant(name)
    network = build(name, row.architecture, row.num_classes, row.in_channels, None)
    for tensor in network.state_dict().values():
        tensor.zero_()
    exporters = {file_format: get_exporter(file_format) for file_format in EXPORTERS}
    return {each: exporter.why_not(network, ExportOptions()) or WORKS for each, exporter in exporters.items()}


def export_table(reasons: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The table as Markdown: a row for each variant, reasons as numbers, and the reasons below."""
    reasons = export_reasons() if reasons is None else reasons
    notes: dict[str, int] = {}
    rows = []
    for name, cells in reasons.items():
        numbers = {cell: notes.setdefault(cell, len(notes) + 1) for cell in cells.values() if cell != WORKS}
        rows.append((f"`{name}`", *(f"no ({numbers[cell]})" if cell in numbers else WORKS for cell in cells.values())))
    table = markdown_table(("variant", *(f"`{file_format}`" for file_format in EXPORTERS)), rows)
    return "\n".join([table, "", *(f"{number}. {note[0].upper()}{note[1:]}." for note, number in notes.items())])


if __name__ == "__main__":
    print(export_table())
