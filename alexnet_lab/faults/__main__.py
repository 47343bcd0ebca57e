"""``python -m alexnet_lab.faults`` runs fault injection: kills, power cuts, failing calls, damaged files.

Without options it runs a few trials of each kind, with ``--full`` as many as ``docs/reliability.md`` reports. Random
command lines can be run in parts: ``commands --first 3000 --count 500``. So can changed weights files; with ``--out``
they are continued where they ended: ``weights --format onnx --count 10000 --out FILE``. Kills of the processes of one
training run only by themselves, and are continued too: ``processes --count 2000 --out FILE``.
``--keep`` writes the outcome to ``alexnet_lab/results/``, in a checkout. The exit status is 1 if there was a failure,
and with ``--full`` also if a kind of fault could not be injected here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet.core.errors import UserError
from alexnet.core.files import json_text
from alexnet.data.prepared import PreparedDataset, open_or_prepare
from alexnet.data.sources import open_source
from alexnet.report.tables import table
from alexnet.runtime.device import DeviceConfig
from alexnet_lab.faults import disk
from alexnet_lab.faults.calls import fail_every_call, library_is_loaded, trials_with_library
from alexnet_lab.faults.commands import Line, Outcome, fuzz_commands
from alexnet_lab.faults.damage import damage_checkpoints
from alexnet_lab.faults.images import damage_images
from alexnet_lab.faults.parsers import fuzz_parsers
from alexnet_lab.faults.power import cut_power
from alexnet_lab.faults.processes import kill_ranks
from alexnet_lab.faults.resuming import (
    kill_command,
    kill_each_task,
    kill_while_training,
    resume_after_each_step,
    stop_by_signals,
)
from alexnet_lab.faults.saving import kill_while_saving
from alexnet_lab.faults.trial import FaultResult
from alexnet_lab.faults.weights import FORMATS, damage_weights
from alexnet_lab.results.reader import FAULTS, FAULTS_OF_PROCESSES
from alexnet_lab.results.records import check_clean, circumstances, code_commit, keep_bench

SMALL_DISK: dict[str, Callable[[Path], FaultResult]] = {"fill": disk.fill_disk, "read-only": disk.make_read_only}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many trials of each kind."""

    saves: int
    cuts: int
    kills: int
    commands: int
    seeds: int
    signals: int
    every: int
    damages: int
    images: int
    calls: int  # every so many system calls one fails
    inputs: int  # of each parser
    lines: int  # command lines
    weights: int  # changed weights files of each format
    task_kills: int  # of trainings for each task but classification
    ranks: int  # kills of processes of a training in several


@dataclasses.dataclass(frozen=True)
class Part:
    """Which trials of a kind that can be run in parts. ``count``: None for as many as the scale has. ``format``: of
    weights files, None for all. ``out``: where their figures are.
    """

    first: int = 0
    count: int | None = None
    format: str | None = None
    out: Path | None = None

    def numbers(self, count: int) -> range:
        return range(self.first, self.first + (count if self.count is None else self.count))


QUICK = Scale(
    saves=40, cuts=10, kills=8, commands=0, seeds=1, signals=4, every=7, damages=120, images=1000, calls=47, inputs=50,
    lines=120, weights=25, task_kills=3, ranks=2,
)  # fmt: skip
FULL = Scale(
    saves=1000, cuts=300, kills=60, commands=20, seeds=3, signals=20, every=1, damages=1200, images=10_000, calls=1,
    inputs=5000, lines=10_000, weights=10_000, task_kills=30, ranks=2000,
)  # fmt: skip
PROCESSES = "processes"  # in no other trials: each kill takes half a minute
TASKS = "tasks"
ALONE = ("calls", "commands", "parsers", "weights")


def trials(folder: Path, scale: Scale, seed: int) -> Iterator[FaultResult]:
    """All kinds of faults, one after another, each in its own folder."""

    def subfolder(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    draws = random.Random(seed)
    dataset = digits(subfolder("digits"))
    yield kill_while_saving(subfolder("saving"), scale.saves, draws)
    yield cut_power(subfolder("power"), scale.cuts, draws)
    for number in range(scale.seeds):
        yield kill_while_training(subfolder(f"killed-{number}"), dataset, scale.kills, number, draws)
    yield from kill_each_task(subfolder("tasks"), scale.task_kills, draws)
    if scale.commands:
        yield kill_command(subfolder("command"), scale.commands, draws)
    yield stop_by_signals(subfolder("signals"), dataset, scale.signals, draws)
    yield resume_after_each_step(subfolder("resumed"), dataset, scale.every)
    yield damage_checkpoints(subfolder("damage"), scale.damages, draws)
    yield damage_images(scale.images, draws)
    yield disk.limit_files(subfolder("limit"))
    for name in SMALL_DISK:
        yield on_small_disk(name, subfolder(name))
    for name in ALONE:
        yield from trials_alone(name, subfolder(name), scale, seed)


def trials_alone(name: str, folder: Path, scale: Scale, seed: int, part: Part | None = None) -> Iterable[FaultResult]:
    """The trials of a kind in ``ALONE``, or of ``PROCESSES``. ``part``: which of them; None for the first ones."""
    part = part or Part()
    if name == PROCESSES:
        return kill_ranks(folder, len(part.numbers(scale.ranks)), seed, part.out)
    if name == TASKS:
        return kill_each_task(folder, scale.task_kills if part.count is None else part.count, random.Random(seed))
    if name == "calls":
        return trials_with_library(folder, scale.calls) if library_is_loaded() else fail_every_call(folder, scale.calls)
    if name == "parsers":
        return [fuzz_parsers(folder, scale.inputs, seed)]
    if name == "weights":
        formats = FORMATS if part.format is None else (part.format,)
        return (damage_weights(folder, each, part.numbers(scale.weights), seed, part.out) for each in formats)
    return [fuzz_commands(folder, part.numbers(scale.lines), seed, _log_failure)]


def _log_failure(line: Line, outcome: Outcome) -> None:
    if outcome.faults:
        print(f"{line.number}: {'; '.join(outcome.faults)}: {line}", file=sys.stderr, flush=True)


def digits(folder: Path) -> PreparedDataset:
    """scikit-learn's digits, prepared."""
    return open_or_prepare(open_source("digits", None, print), None, None, home=folder)


def on_small_disk(name: str, folder: Path) -> FaultResult:
    """Trials on a small disk that another process mounts; no trial if the system does not allow that."""
    what = f"{name}, on a small disk"
    if why := disk.no_small_disk(folder):
        return FaultResult(what, remark=f"not possible here: {why}")
    done = subprocess.run(disk.on_a_small_disk(name, folder), capture_output=True, text=True, check=False)
    if not done.stdout:
        return FaultResult(what, 1, [(done.stderr.strip() or "it ended without a message").splitlines()[-1]])
    return FaultResult(**json.loads(done.stdout)["trials"][0])


def describe(results: Sequence[FaultResult]) -> str:
    """A table, and below it every failure."""
    rows = [(t.what, f"{t.trials:,}", f"{len(t.failures):,}", t.remark) for t in results]
    failures = [f"{result.what}: {failure}" for result in results for failure in result.failures]
    return "\n".join([table(("fault", "trials", "failures", "remark"), rows), *failures])


def main(words: Sequence[str] | None = None) -> int:
    """The command: run the trials, print and optionally keep them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.faults", description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", nargs="?", choices=(*SMALL_DISK, *ALONE, PROCESSES, TASKS),
        help="only this kind; fill and read-only need a small disk as --folder",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where the trials write (default: a temporary folder)")
    parser.add_argument(
        "--full", action="store_true", help="as many trials as docs/reliability.md reports; half an hour"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of times and kinds of damage (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first line or file (default: 0)")
    parser.add_argument("--count", type=int, help="how many command lines, kills, or weights files of each format")
    parser.add_argument("--format", choices=FORMATS, help="of weights files (default: all)")
    parser.add_argument("--out", type=Path, help="a JSON file with the figures, continued if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--keep", action="store_true", help="write the outcome to alexnet_lab/results/, in a checkout")
    arguments = parser.parse_args(words)
    try:
        if arguments.keep:
            check_clean(code_commit(), "--keep")
        if arguments.out and arguments.name != PROCESSES and not (arguments.name == "weights" and arguments.format):
            raise UserError("--out is for processes, or for one format: give weights --format FORMAT with it")
        part = Part(arguments.first, arguments.count, arguments.format, arguments.out)
        results = run(arguments.name, arguments.folder, full=arguments.full, seed=arguments.seed, part=part)
        what = FAULTS_OF_PROCESSES if arguments.name == PROCESSES else FAULTS
        value = to_document(results, what, full=arguments.full, seed=arguments.seed)
        print(json_text(value) if arguments.json else describe(results))
        if arguments.keep:
            print(f"kept in {keep_bench(value)}", file=sys.stderr)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return int(any(result.failures or (arguments.full and not result.trials) for result in results))


def run(name: str | None, folder: Path | None, *, full: bool, seed: int, part: Part | None = None) -> list[FaultResult]:
    """All trials, or those of ``name``, below ``folder`` (None: a temporary folder). ``part``: which of them.

    Uses one thread, because a forked process has no other threads. Raises ``UserError`` for a small disk without a
    folder.
    """
    torch.set_num_threads(1)
    scale = FULL if full else QUICK
    if name in SMALL_DISK:
        if folder is None:
            raise UserError(f"{name} needs --folder: give a folder on a small disk")
        return [SMALL_DISK[name](folder)]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if name:
            return list(trials_alone(name, Path(temporary), scale, seed, part))
        return list(trials(Path(temporary), scale, seed))


def to_document(results: Sequence[FaultResult], what: str, *, full: bool, seed: int) -> dict[str, Any]:
    """What ``--json`` prints and ``--keep`` writes. ``what``: the kind of the results file."""
    return {
        "what": what,
        "full": full,
        "seed": seed,
        **circumstances(DeviceConfig(torch.device("cpu"), bf16=False)),
        "trials": [dataclasses.asdict(result) for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
