"""``python -m alexnet_lab.faults`` tries everything a few times, ``--full`` as often as the promise asks for.

``--keep`` writes the outcome to ``results/``. The exit status is 1 if anything was not survived, and with ``--full`` if
anything could not be tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet.core.errors import UserError
from alexnet.data.prepared import PreparedDataset, open_or_prepare
from alexnet.data.sources import open_source
from alexnet.report.tables import table
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.run import source_commit
from alexnet_lab.faults import disk
from alexnet_lab.faults.damage import damage_checkpoints
from alexnet_lab.faults.images import damage_images
from alexnet_lab.faults.power import cut_power
from alexnet_lab.faults.saving import kill_while_saving
from alexnet_lab.faults.training import kill_the_command, kill_while_training, resume_everywhere, stop_by_signals
from alexnet_lab.faults.trial import Tally
from alexnet_lab.results.records import check_clean, circumstances, keep_bench

SMALL_DISK: dict[str, Callable[[Path], Tally]] = {"fill": disk.fill_up, "read-only": disk.forbid_writing}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How often."""

    saves: int
    cuts: int
    kills: int
    commands: int
    seeds: int
    signals: int
    every: int
    damages: int
    images: int


QUICK = Scale(saves=40, cuts=10, kills=8, commands=0, seeds=1, signals=4, every=7, damages=120, images=1000)
FULL = Scale(saves=1000, cuts=300, kills=60, commands=20, seeds=3, signals=20, every=1, damages=1200, images=10_000)


def trials(folder: Path, scale: Scale, draws: random.Random) -> Iterator[Tally]:
    """Everything, one after another, each in a folder of its own."""

    def place(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    dataset = digits(place("store"))
    yield kill_while_saving(place("saving"), scale.saves, draws)
    yield cut_power(place("power"), scale.cuts, draws)
    for seed in range(scale.seeds):
        yield kill_while_training(place(f"killed-{seed}"), dataset, scale.kills, seed, draws)
    if scale.commands:
        yield kill_the_command(place("command"), scale.commands, draws)
    yield stop_by_signals(place("signals"), dataset, scale.signals, draws)
    yield resume_everywhere(place("resumed"), dataset, scale.every)
    yield damage_checkpoints(place("damage"), scale.damages, draws)
    yield damage_images(scale.images, draws)
    yield disk.limit_files(place("limit"))
    yield disk.fail_calls(place("calls"))
    for name in SMALL_DISK:
        yield elsewhere(name, place(name))


def digits(folder: Path) -> PreparedDataset:
    """scikit-learn's digits, prepared."""
    return open_or_prepare(open_source("digits", None, print), None, None, home=folder)


def elsewhere(name: str, folder: Path) -> Tally:
    """A trial on a small disk, by a process that may mount one; without a trial where none may."""
    what = f"{name}, on a small disk"
    if why := disk.no_small_disk(folder):
        return Tally(what, remark=f"not tried: {why}")
    done = subprocess.run(disk.on_a_small_disk(name, folder), capture_output=True, text=True, check=False)
    if not done.stdout:
        return Tally(what, 1, [(done.stderr.strip() or "it ended without a word").splitlines()[-1]])
    return Tally(**json.loads(done.stdout)["trials"][0])


def describe(tallies: Sequence[Tally]) -> str:
    """A table, and below it everything that was not survived."""
    rows = [(t.what, f"{t.trials:,}", f"{len(t.failures):,}", t.remark) for t in tallies]
    failures = [f"{tally.what}: {failure}" for tally in tallies for failure in tally.failures]
    return "\n".join([table(("what", "trials", "not survived", ""), rows), *failures])


def main(words: Sequence[str] | None = None) -> int:
    """Try, print, keep where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.faults", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=SMALL_DISK, help="only this, in --folder, a disk of its own")
    parser.add_argument("--folder", type=Path, help="where to try it (default: a temporary folder)")
    parser.add_argument("--full", action="store_true", help="as often as the promise asks for, half an hour")
    parser.add_argument("--seed", type=int, default=0, help="of the instants and kinds of damage (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--keep", action="store_true", help="write the outcome to results/")
    arguments = parser.parse_args(words)
    try:
        if arguments.keep:
            check_clean(source_commit(), "--keep works only")
        tallies = run(arguments)
        value = document(arguments, tallies)
        print(json.dumps(value) if arguments.json else describe(tallies))
        if arguments.keep:
            print(f"kept in {keep_bench(value)}", file=sys.stderr)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return int(any(tally.failures or (arguments.full and not tally.trials) for tally in tallies))


def run(arguments: argparse.Namespace) -> list[Tally]:
    """What is asked for, with one thread: a copy of this process has no others."""
    torch.set_num_threads(1)
    if arguments.name:
        return [SMALL_DISK[arguments.name](arguments.folder)]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        scale = FULL if arguments.full else QUICK
        return list(trials(Path(folder), scale, random.Random(arguments.seed)))


def document(arguments: argparse.Namespace, tallies: Sequence[Tally]) -> dict[str, Any]:
    """What ``--json`` prints and ``--keep`` writes."""
    return {
        "what": "endurance",
        "full": arguments.full,
        "seed": arguments.seed,
        **circumstances(DeviceConfig(torch.device("cpu"), bf16=False)),
        "trials": [dataclasses.asdict(tally) for tally in tallies],
    }


if __name__ == "__main__":
    sys.exit(main())
