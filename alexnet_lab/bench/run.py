"""Benchmarks: all comparisons of one kind, by interleaved timing, with the hardware peak measured before and after."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from alexnet.core.errors import UserError
from alexnet.data.prepared import open_or_prepare
from alexnet.data.sources import open_source
from alexnet.runtime.device import DeviceConfig, multiplies_int8, resolve_device
from alexnet.runtime.log import NullReporter, Reporter, stage
from alexnet_lab.bench.comparison import Comparison, Row, make_row
from alexnet_lab.bench.data import SIDE, dataset_comparison, loader_comparison, make_photographs, prepare_comparison
from alexnet_lab.bench.hardware_peak import highest, measure_peak
from alexnet_lab.bench.inference import inference_comparison
from alexnet_lab.bench.interleaved import ROUNDS, SECONDS, time_interleaved
from alexnet_lab.bench.runtimes import runtime_comparisons
from alexnet_lab.bench.start import start_comparison
from alexnet_lab.bench.training import norm_comparison, step_comparison
from alexnet_lab.results.records import circumstances

Kind = Literal["train", "infer", "data"]
VARIANTS: dict[Kind, tuple[str, ...]] = {
    "train": ("torchvision", "d2l", "paper"), "infer": ("torchvision", "paper"), "data": ("torchvision",),
}  # fmt: skip
BATCHES: dict[str, dict[Kind, tuple[int, ...]]] = {
    "cpu": {"train": (64, 128), "infer": (64, 1), "data": (64,)},
    "cuda": {"train": (128, 1024, 4096), "infer": (1024, 64, 1), "data": (128,)},
}
NORM_BATCH = 64


def run_benchmark(
    what: Kind,
    *,
    variants: Sequence[str] = (),
    batches: Sequence[int] = (),
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    data: str | None = None,
    data_root: Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Benchmark training steps (``"train"``), inference (``"infer"``) or the loading of images (``"data"``).

    ``variants``, ``batches``: empty for the defaults. ``rounds``: timings of at least ``seconds`` of each candidate.
    ``data``: photographs for ``"data"``; None generates some. ``precision``: None measures the device's default, and
    int8 where the CPU multiplies it. Returns a JSON value: the rows, the hardware peak, the hardware and the commit.
    A comparison that fails, for example because the device has too little memory, is left out with a warning. Raises
    ``UserError`` for unknown names, for images that cannot be used, and if all comparisons fail.
    """
    reporter = reporter or NullReporter()
    device_config = resolve_device(device, precision or "auto")
    norm_alone = not variants
    variants = variants or VARIANTS[what]
    batches = batches or BATCHES["cuda" if device_config.device.type == "cuda" else "cpu"][what]
    sizes = [(variant, batch) for variant in variants for batch in batches]
    rows: list[Row] = []
    failures: list[UserError] = []
    with tempfile.TemporaryDirectory() as folder:
        match what:
            case "train":
                comparisons = list(_training_comparisons(sizes, device_config, norm_alone=norm_alone))
            case "infer":
                int8 = precision is None and multiplies_int8(device_config.device)
                comparisons = list(_inference_comparisons(sizes, device_config, Path(folder), int8=int8))
            case "data":
                comparisons = list(_data_comparisons(sizes, device_config, Path(folder), data, data_root, reporter))
        peak = measure_peak(device_config)
        for number, comparison in enumerate(comparisons, 1):
            title = f"{number} of {len(comparisons)}: {comparison.title}"
            with stage(reporter, title, rounds * len(comparison.candidates)):
                int8 = comparison.precision == "int8"
                before = measure_peak(device_config, int8=int8)
                try:
                    timed = time_interleaved(comparison.candidates, rounds, seconds, reporter.advance)
                except UserError as error:  # such as too little memory for a batch: the other rows are kept
                    failures.append(UserError(f"{comparison.title}: {error.line}", error.details))
                    reporter.log(f"warning: left out: {failures[-1].line}")
                    continue
                peak_around = highest(before, measure_peak(device_config, int8=int8))
            rows.append(make_row(comparison, peak_around, timed))
            peak = highest(peak, peak_around)
    if failures and not rows:
        raise failures[0]
    return {
        "what": what,
        **circumstances(device_config),
        **({"failed": [failure.line for failure in failures]} if failures else {}),
        "hardware_peak": dataclasses.asdict(peak),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _training_comparisons(
    sizes: Sequence[tuple[str, int]], device_config: DeviceConfig, *, norm_alone: bool
) -> Iterator[Comparison]:
    """Training steps of each (variant, batch); with ``norm_alone`` also LRN by itself."""
    precision, device = device_config.precision, str(device_config.device)
    yield from (step_comparison(variant, batch, precision, device) for variant, batch in sizes)
    if norm_alone:
        yield from (norm_comparison(NORM_BATCH, kind, device) for kind in dict.fromkeys((precision, "fp32")))


def _inference_comparisons(
    sizes: Sequence[tuple[str, int]], device_config: DeviceConfig, folder: Path, *, int8: bool
) -> Iterator[Comparison]:
    """Inference of each (variant, batch), and the whole command ``alexnet predict``, whose files are in ``folder``."""
    precision, device = device_config.precision, str(device_config.device)
    for kind in (precision, "int8") if int8 else (precision,):
        for variant, batch in sizes:
            yield inference_comparison(variant, batch, kind, device)
            if device_config.device.type == "cpu":
                yield from runtime_comparisons(variant, batch, kind)
    yield start_comparison(sizes[0][0], precision, device, folder)


def _data_comparisons(
    sizes: Sequence[tuple[str, int]],
    device_config: DeviceConfig,
    folder: Path,
    data: str | None,
    data_root: Path | None,
    reporter: Reporter,
) -> Iterator[Comparison]:
    """Decoding, and training steps that load images. ``folder``: for the prepared dataset and photographs made here."""
    precision, device = device_config.precision, str(device_config.device)
    if not data:
        make_photographs(folder / "photographs")
    source = open_source(data or str(folder / "photographs"), data_root, reporter.log)
    yield prepare_comparison(source)
    dataset = open_or_prepare(source, SIDE, 3, home=folder)
    yield from (dataset_comparison(variant, batch, precision, device, dataset.path) for variant, batch in sizes)
    if (photographs := Path(source.location)).is_dir():
        for variant, batch in sizes:
            yield loader_comparison(variant, batch, precision, device, dataset.path, photographs)
