"""Speeds as tables: machines side by side for people in a hurry, and every figure of each for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alexnet.report.tables import markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab.bench.report import HEADER, LEGEND, cells, describe_machine, figure

Bench = Mapping[str, Any]
"""What ``alexnet bench`` kept: one of ``KINDS``, on one machine."""

KINDS = ("train", "infer", "data")  # in the order of their rows
PRECISIONS = (", fp32", ", bf16")
BESIDE_LEGEND = """\
How many times as fast as the other, the median of turns in one run, and our images per second. Ours and OpenVINO
compute in the precision that a machine is named with, stock PyTorch and ONNX Runtime in fp32; int8 weights are ours
alone, by `--precision int8`."""


class Label(NamedTuple):
    """What is told of several machines in one row. ``precision``: empty unless some machine has a row for each, or it
    is int8, which predictions are made with only where that is asked for.
    """

    what: str
    variant: str
    batch: int
    precision: str
    beside: str

    @property
    def words(self) -> tuple[str, str]:
        """What, and beside what."""
        of = f"`{self.variant}`" if self.variant else ""
        images = f"{self.batch} images" if self.batch > 1 else "one image"
        return ", ".join(part for part in (self.what, of, images, self.precision) if part), self.beside


def side_by_side(benches: Sequence[Bench]) -> str:
    """One table: a row a comparison, a column a machine; empty where there are no ``benches``."""
    counts = [Counter(map(_label, bench["rows"])) for bench in benches]
    told: dict[Label, dict[str, str]] = {}
    for bench in _in_order(benches):
        for row in bench["rows"]:
            label = _label(row)
            if any(count[label] > 1 for count in counts):
                label = label._replace(precision=row["precision"])
            told.setdefault(label, {})[_machine(bench)] = f"{row['ratio']:.2f} × ({figure(row['ours'])})"
    machines = sorted({_machine(bench) for bench in benches})
    rows = [(*label.words, *(ratios.get(name, "–") for name in machines)) for label, ratios in told.items()]
    return f"{markdown_table(('what', 'beside', *machines), rows)}\n\n{BESIDE_LEGEND}" if rows else ""


def in_full(benches: Sequence[Bench]) -> str:
    """A table for each machine, with its ceilings."""
    parts = []
    for name in sorted({hardware_name(bench["hardware"]) for bench in benches}):
        those = [bench for bench in _in_order(benches) if hardware_name(bench["hardware"]) == name]
        rows = [cells(row) for bench in those for row in bench["rows"]]
        hardware_peak = "\n".join(f"* `alexnet bench {bench['what']}`: {describe_machine(bench)}" for bench in those)
        parts += [f"## {name}", hardware_peak, markdown_table(HEADER, rows)]
    return "\n\n".join([*parts, f"{LEGEND}."]) if parts else ""


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
