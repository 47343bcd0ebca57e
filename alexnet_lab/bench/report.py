"""A bench in words: a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alexnet.report.tables import table
from alexnet.runtime.device import hardware_name

GIBI = 2**30
LEGEND = "images per second, medians over turns; GiB: our peak; first s: our first piece of work, with what is compiled"
HEADER = ("what", "variant", "batch", "precision", "ours", "beside", "is", "ratio", "of the ceiling", "GiB", "first s")


def describe(value: Mapping[str, Any]) -> str:
    """What ``alexnet bench`` prints of what it measured: the machine, its ceilings, and a line for each row."""
    return f"{describe_machine(value)}\n\n{table(HEADER, [cells(row) for row in value['rows']])}\n\n{LEGEND}"


def describe_machine(value: Mapping[str, Any]) -> str:
    """The machine and its ceilings, in a line."""
    hardware, hardware_peak = value["hardware"], value["ceilings"]
    device_config = f"{hardware_name(hardware)}, {hardware['threads']} threads, torch {hardware['torch']}"
    rates = [f"fp32 {hardware_peak['fp32_gflops']:,.0f}"]
    if hardware_peak["bf16_gflops"]:
        rates.append(f"bf16 {hardware_peak['bf16_gflops']:,.0f}")
    if hardware_peak.get("int8_gflops"):
        rates.append(f"int8 {hardware_peak['int8_gflops']:,.0f}")
    return f"{device_config}: {', '.join(rates)} GFLOP/s in a product, {hardware_peak['copy_gigabytes']:,.0f} GB/s in a copy"


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
        f"{row['ceiling_fraction']:.0%} of {row['ceiling']}" if row["ceiling"] else "–",
        f"{row['peak_memory'] / GIBI:.2f}",
        f"{row['first_seconds']:.2f}",
    )


def figure(images_per_second: float) -> str:
    """Three figures at least; of less than one image a second, how long it takes."""
    if images_per_second < 1:
        return f"1 in {1 / images_per_second:.2f} s"
    return f"{images_per_second:,.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
