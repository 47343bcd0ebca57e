"""``alexnet bench``: ours beside stock PyTorch and beside what the machine can do, by turns in one run."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet.bench.ceilings import highest, measure_ceilings
from alexnet.bench.contest import Contest, Row, make_row
from alexnet.bench.data import SIDE, loader_contest, make_photographs, prepare_contest, store_contest
from alexnet.bench.inference import inference_contest
from alexnet.bench.report import describe
from alexnet.bench.runtimes import runtime_contests
from alexnet.bench.start import start_contest
from alexnet.bench.training import norm_contest, step_contest
from alexnet.bench.turns import take_turns
from alexnet.commands.console import print_json
from alexnet.commands.progress import make_reporter
from alexnet.data.sources import open_source
from alexnet.data.store import open_or_prepare
from alexnet.reproduce.results import circumstances, demand_clean, keep_comparison
from alexnet.runtime.device import Machine, choose_machine, multiplies_int8
from alexnet.runtime.log import Reporter, stage
from alexnet.runtime.run import source_commit

VARIANTS = {"train": ("torchvision", "d2l", "paper"), "infer": ("torchvision", "paper"), "data": ("torchvision",)}
BATCHES = {
    "cpu": {"train": (64, 128), "infer": (64, 1), "data": (64,)},
    "cuda": {"train": (128, 1024, 4096), "infer": (1024, 64, 1), "data": (128,)},
}
NORM_BATCH = 64


def contests(arguments: argparse.Namespace, machine: Machine, folder: Path, reporter: Reporter) -> Iterator[Contest]:
    """What is to be compared, one after another. ``folder``: for files that are made for it."""
    what, precision, device = arguments.what, machine.precision, str(machine.device)
    variants = arguments.variant or VARIANTS[what]
    batches = arguments.batch or BATCHES["cuda" if machine.device.type == "cuda" else "cpu"][what]
    sizes = [(variant, batch) for variant in variants for batch in batches]
    match what:
        case "train":
            yield from (step_contest(variant, batch, precision, device) for variant, batch in sizes)
            if not arguments.variant:
                yield from (norm_contest(NORM_BATCH, kind, device) for kind in dict.fromkeys((precision, "fp32")))
        case "infer":
            told = arguments.precision or not multiplies_int8(machine.device)
            for kind in (precision,) if told else (precision, "int8"):
                for variant, batch in sizes:
                    yield inference_contest(variant, batch, kind, device)
                    if machine.device.type == "cpu":
                        yield from runtime_contests(variant, batch, kind)
            yield start_contest(variants[0], precision, device, folder)
        case "data":
            if not arguments.data:
                make_photographs(folder / "photographs")
            source = open_source(arguments.data or str(folder / "photographs"), arguments.data_root, reporter.say)
            yield prepare_contest(source)
            store = open_or_prepare(source, SIDE, 3, home=folder)
            yield from (store_contest(variant, batch, precision, device, store.path) for variant, batch in sizes)
            if (photographs := Path(source.location)).is_dir():
                for variant, batch in sizes:
                    yield loader_contest(variant, batch, precision, device, store.path, photographs)


def bench(arguments: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Hold the contests; what ``--json`` prints: the rows, and the machine, its ceilings and the commit beside them."""
    machine = choose_machine(arguments.device, arguments.precision or "auto")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        planned = list(contests(arguments, machine, Path(folder), reporter))
        ceilings = measure_ceilings(machine)
        for number, contest in enumerate(planned, 1):
            name = " ".join(filter(None, (contest.what, contest.variant, f"batch {contest.batch}", contest.precision)))
            with stage(reporter, f"{number} of {len(planned)}: {name}", arguments.rounds * len(contest.contestants)):
                int8 = contest.precision == "int8"
                before = measure_ceilings(machine, int8=int8)
                timed = take_turns(contest.contestants, arguments.rounds, arguments.seconds, reporter.advance)
                around = highest(before, measure_ceilings(machine, int8=int8))
            rows.append(make_row(contest, around, timed))
            ceilings = highest(ceilings, around)
    return {
        "what": arguments.what,
        **circumstances(machine),
        "ceilings": dataclasses.asdict(ceilings),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def main(arguments: argparse.Namespace) -> int:
    """Time, print, and keep where that is asked for."""
    if arguments.keep:
        demand_clean(source_commit(), "--keep works only")
    value = bench(arguments, make_reporter())
    if arguments.json:
        print_json(value)
    else:
        print(describe(value))
    if arguments.keep:
        print(f"kept in {keep_comparison(value)}", file=sys.stderr)
    return 0
