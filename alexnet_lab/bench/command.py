"""``alexnet bench``: ours beside stock PyTorch and beside what the machine can do, by turns in one run."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.cli.console import print_json
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.runtime.device import DeviceConfig, multiplies_int8, resolve_device
from alexnet.runtime.log import Reporter, stage
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import source_commit
from alexnet_lab.bench.comparison import Comparison, Row, make_row
from alexnet_lab.bench.data import SIDE, dataset_comparison, loader_comparison, make_photographs, prepare_comparison
from alexnet_lab.bench.hardware_peak import highest, measure_peak
from alexnet_lab.bench.inference import inference_comparison
from alexnet_lab.bench.interleaved import time_interleaved
from alexnet_lab.bench.report import describe
from alexnet_lab.bench.runtimes import runtime_comparisons
from alexnet_lab.bench.start import start_comparison
from alexnet_lab.bench.training import norm_comparison, step_comparison
from alexnet_lab.results.records import check_clean, circumstances, keep_comparison

VARIANTS = {"train": ("torchvision", "d2l", "paper"), "infer": ("torchvision", "paper"), "data": ("torchvision",)}
BATCHES = {
    "cpu": {"train": (64, 128), "infer": (64, 1), "data": (64,)},
    "cuda": {"train": (128, 1024, 4096), "infer": (1024, 64, 1), "data": (128,)},
}
NORM_BATCH = 64


def comparisons(
    arguments: argparse.Namespace, device_config: DeviceConfig, folder: Path, reporter: Reporter
) -> Iterator[Comparison]:
    """What is to be compared, one after another. ``folder``: for files that are made for it."""
    what, precision, device = arguments.what, device_config.precision, str(device_config.device)
    variants = arguments.variant or VARIANTS[what]
    batches = arguments.batch or BATCHES["cuda" if device_config.device.type == "cuda" else "cpu"][what]
    sizes = [(variant, batch) for variant in variants for batch in batches]
    match what:
        case "train":
            yield from (step_comparison(variant, batch, precision, device) for variant, batch in sizes)
            if not arguments.variant:
                yield from (norm_comparison(NORM_BATCH, kind, device) for kind in dict.fromkeys((precision, "fp32")))
        case "infer":
            told = arguments.precision or not multiplies_int8(device_config.device)
            for kind in (precision,) if told else (precision, "int8"):
                for variant, batch in sizes:
                    yield inference_comparison(variant, batch, kind, device)
                    if device_config.device.type == "cpu":
                        yield from runtime_comparisons(variant, batch, kind)
            yield start_comparison(variants[0], precision, device, folder)
        case "data":
            if not arguments.data:
                make_photographs(folder / "photographs")
            source = open_source(arguments.data or str(folder / "photographs"), arguments.data_root, reporter.log)
            yield prepare_comparison(source)
            dataset = open_or_prepare(source, SIDE, 3, home=folder)
            yield from (dataset_comparison(variant, batch, precision, device, dataset.path) for variant, batch in sizes)
            if (photographs := Path(source.location)).is_dir():
                for variant, batch in sizes:
                    yield loader_comparison(variant, batch, precision, device, dataset.path, photographs)


def bench(arguments: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Hold the contests; what ``--json`` prints: the rows, and the machine, its ceilings and the commit beside them."""
    device_config = resolve_device(arguments.device, arguments.precision or "auto")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        planned = list(comparisons(arguments, device_config, Path(folder), reporter))
        hardware_peak = measure_peak(device_config)
        for number, comparison in enumerate(planned, 1):
            name = " ".join(
                filter(None, (comparison.what, comparison.variant, f"batch {comparison.batch}", comparison.precision))
            )
            with stage(reporter, f"{number} of {len(planned)}: {name}", arguments.rounds * len(comparison.candidates)):
                int8 = comparison.precision == "int8"
                before = measure_peak(device_config, int8=int8)
                timed = time_interleaved(comparison.candidates, arguments.rounds, arguments.seconds, reporter.advance)
                around = highest(before, measure_peak(device_config, int8=int8))
            rows.append(make_row(comparison, around, timed))
            hardware_peak = highest(hardware_peak, around)
    return {
        "what": arguments.what,
        **circumstances(device_config),
        "ceilings": dataclasses.asdict(hardware_peak),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def main(arguments: argparse.Namespace) -> int:
    """Time, print, and keep where that is asked for."""
    if arguments.keep:
        check_clean(source_commit(), "--keep works only")
    value = bench(arguments, make_reporter())
    if arguments.json:
        print_json(value)
    else:
        print(describe(value))
    if arguments.keep:
        print(f"kept in {keep_comparison(value)}", file=sys.stderr)
    return 0
