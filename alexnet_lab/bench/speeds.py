"""Speeds as Markdown tables: all machines side by side, and every figure of each machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alexnet.report.tables import markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab.bench.report import HEADER, LEGEND, cells, describe_machine, figure

Bench = Mapping[str, Any]
"""A result of ``alexnet bench --keep``: one of ``KINDS``, on one machine."""

KINDS = ("train", "infer", "data")  # the order of the rows
PRECISIONS = (", fp32", ", bf16")
SIDE_BY_SIDE_LEGEND = """\
Each cell shows the speed of this package divided by the other speed (the median over the rounds of one run), and the
images per second of this package in brackets. This package and OpenVINO use the precision in the head of the column;
stock PyTorch and ONNX Runtime use fp32. Only this package has int8 weights (`--precision int8`)."""


class Label(NamedTuple):
    """What identifies a row for several machines. ``precision``: empty unless a machine has a row for each precision,
    or the weights are int8.
    """

    what: str
    variant: str
    batch: int
    precision: str
    beside: str

    @property
    def cells(self) -> tuple[str, str]:
        """The first two cells: what was measured, and what it is compared with."""
        of = f"`{self.variant}`" if self.variant else ""
        images = f"{self.batch} images" if self.batch > 1 else "one image"
        return ", ".join(part for part in (self.what, of, images, self.precision) if part), self.beside


def side_by_side(benches: Sequence[Bench]) -> str:
    """A table with a row for each comparison and a column for each machine; empty without ``benches``."""
    counts = [Counter(map(_label, bench["rows"])) for bench in benches]
    ratios_of: dict[Label, dict[str, str]] = {}
    for bench in _in_order(benches):
        for row in bench["rows"]:
            label = _label(row)
            if any(count[label] > 1 for count in counts):
                label = label._replace(precision=row["precision"])
            ratios_of.setdefault(label, {})[_machine(bench)] = f"{row['ratio']:.2f} × ({figure(row['ours'])})"
    machines = sorted({_machine(bench) for bench in benches})
    rows = [(*label.cells, *(ratios.get(name, "–") for name in machines)) for label, ratios in ratios_of.items()]
    return f"{markdown_table(('what', 'compared with', *machines), rows)}\n\n{SIDE_BY_SIDE_LEGEND}" if rows else ""


def in_full(benches: Sequence[Bench]) -> str:
    """A table with every figure for each machine, after its peak rates."""
    parts = []
    for name in sorted({hardware_name(bench["hardware"]) for bench in benches}):
        its_benches = [bench for bench in _in_order(benches) if hardware_name(bench["hardware"]) == name]
        rows = [cells(row) for bench in its_benches for row in bench["rows"]]
        peaks = "\n".join(f"* `alexnet bench {bench['what']}`: {describe_machine(bench)}" for bench in its_benches)
        parts += [f"### {name}", peaks, markdown_table(HEADER, rows)]
    return "\n\n".join([*parts, f"{LEGEND[0].upper()}{LEGEND[1:]}."]) if parts else ""


def _in_order(benches: Sequence[Bench]) -> list[Bench]:
    return sorted(benches, key=lambda bench: KINDS.index(bench["what"]))


def _machine(bench: Bench) -> str:
    return f"{hardware_name(bench['hardware'])}: {bench['hardware']['precision']}"


def _label(row: Mapping[str, Any]) -> Label:
    beside = row["beside"]
    for precision in PRECISIONS:
        beside = beside.removesuffix(precision)
    weights = "int8 weights" if row["precision"] == "int8" else ""
    return Label(row["what"], row["variant"], row["batch"], weights, beside)
