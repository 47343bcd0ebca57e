"""The result of a benchmark as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet.report.tables import table
from alexnet.runtime.device import hardware_name

GIBI = 2**30
LEGEND = (
    "speeds are images per second, medians over rounds; GiB: peak memory of this package; first s: "
    "seconds of its first unit of work, including compilation"
)
HEADER = (
    "what", "variant", "batch", "precision", "ours", "compared with", "its speed", "ratio", "share of peak", "GiB",
    "first s",
)  # fmt: skip


def describe(value: Mapping[str, Any]) -> str:
    """What ``alexnet bench`` prints: the machine, its peak rates, and a line for each comparison."""
    return f"{describe_machine(value)}\n\n{table(HEADER, [cells(row) for row in value['rows']])}\n\n{LEGEND}"


def describe_machine(value: Mapping[str, Any]) -> str:
    """The machine and its peak rates, in a line."""
    hardware, peak = value["hardware"], value["hardware_peak"]
    machine = f"{hardware_name(hardware)}, {hardware['threads']} threads, torch {hardware['torch']}"
    rates = [f"fp32 {peak['fp32_gflops']:,.0f}"]
    if peak["bf16_gflops"]:
        rates.append(f"bf16 {peak['bf16_gflops']:,.0f}")
    if peak.get("int8_gflops"):
        rates.append(f"int8 {peak['int8_gflops']:,.0f}")
    return f"{machine}: {', '.join(rates)} GFLOP/s in a product, {peak['copy_gigabytes']:,.0f} GB/s in a copy"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row in the columns of ``HEADER``."""
    return (
        row["what"],
        row["variant"] or "–",
        str(row["batch"]),
        row["precision"] or "–",
        figure(row["ours"]),
        row["beside"],
        figure(row["stock"]),
        f"{row['ratio']:.2f} × ({row['ratio_range'][0]:.2f} – {row['ratio_range'][1]:.2f})",
        f"{row['share_of_bound']:.0%} of {row['bound']}" if row["bound"] else "–",
        f"{row['peak_memory'] / GIBI:.2f}",
        f"{row['first_seconds']:.2f}",
    )


def figure(images_per_second: float) -> str:
    """A speed with at least three digits; below one image per second, the seconds that one image takes."""
    if images_per_second < 1:
        return f"1 in {1 / images_per_second:.2f} s"
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
