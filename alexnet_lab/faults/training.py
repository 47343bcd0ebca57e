"""Trainings that are killed, stopped and continued, to the same bits as one that was left alone."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from alexnet.api import finish
from alexnet.config import Recipe, override
from alexnet.core.errors import StoppedError
from alexnet.data.loader import DEPTH, Batch
from alexnet.data.prepared import PreparedDataset
from alexnet.plots.curves import CurvesFile
from alexnet.recipes import get_recipe
from alexnet.runtime.checkpoint import list_checkpoints, load_newest
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import Run, lock_run_folder, start_or_continue
from alexnet.training.loop import Training
from alexnet_lab.faults.trial import Child, Tally

CPU = DeviceConfig(torch.device("cpu"), bf16=False)
SMALL = ["train.precision=fp32", "data.image_size=16", "model.width=0.25", "train.epochs=40"]
LONG = override(get_recipe("small-digits"), SMALL)
SHORT = override(LONG, ["train.batch_size=256", "train.epochs=5"])  # 30 steps
DEPTHS = (0, 3, 8)  # batches that are ready ahead of the step: none, as usual, many
CLOCK = {"seconds", "images_per_second", "matrix_gflops"}  # what two equal trainings differ in
GRACE = 30.0  # seconds that a cluster gives a job between SIGTERM and SIGKILL
SIGNALS = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130}


def train_on(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int, depth: int = DEPTH) -> Training:
    """A training in ``folder``, begun or continued; :meth:`~Training.fit` does the rest."""
    run = start_or_continue(folder, recipe, seed, dataset.name, dataset.digest)
    training = Training(recipe, dataset, run, seed, CPU, NullReporter())
    training.loader = functools.partial(training.loader, depth)  # type: ignore[method-assign]
    return training


def no_curves(run: Run) -> None:
    """Nothing to draw."""


def digest(folder: Path) -> str:
    """The sha256 of what a run must leave however it came to its end: metrics, last checkpoint, model, result."""
    last = list_checkpoints(Run(folder).checkpoints)[-1]
    content = hashlib.sha256((folder / "metrics.jsonl").read_bytes())
    for file in [*sorted(last.glob("*.safetensors")), *sorted((folder / "model").glob("*"))]:
        content.update(file.read_bytes())
    for file in filter(Path.exists, (last / "state.json", folder / "result.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        content.update(json.dumps({name: values[name] for name in sorted(values.keys() - CLOCK)}).encode())
    return content.hexdigest()


def left_alone(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int) -> tuple[str, float]:
    """What an uninterrupted training leaves, and the seconds it takes."""
    start = time.perf_counter()
    train_on(folder, recipe, dataset, seed).fit(no_curves)
    return digest(folder), time.perf_counter() - start


def kill_while_training(folder: Path, dataset: PreparedDataset, kills: int, seed: int, draws: random.Random) -> Tally:
    """Trainings killed so many times in all, at random instants from their first write to their last."""
    tally = Tally(f"SIGKILL at random instants of a training, seed {seed}: bits at the end")
    start = time.perf_counter()
    _train(folder / "alone", LONG, dataset, seed)
    seconds, wanted, killed = time.perf_counter() - start, digest(folder / "alone"), 0
    mean = seconds / kills  # every kill costs the way back and what was done since the last checkpoint
    while killed < kills and not tally.failures:
        run = folder / f"killed-{tally.trials}"
        while not Run(run).finished:
            child = Child(lambda tell, run=run: _train(run, LONG, dataset, seed))  # type: ignore[misc]
            status, _ = child.signal_after(draws.expovariate(1 / mean), signal.SIGKILL)
            killed += status != 0
        tally.count(survived=digest(run) == wanted, otherwise=f"other bits after {killed} kills")
    tally.remark = f"{killed} kills; {seconds:.1f} s undisturbed"
    tally.figures = {"kills": killed}
    return tally


def kill_the_command(folder: Path, kills: int, draws: random.Random) -> Tally:
    """``alexnet train`` itself, from the shell, in the machine's own precision on all its threads, killed so often."""
    tally = Tally("SIGKILL at random instants of alexnet train, all threads: bits at the end")
    start = time.perf_counter()
    subprocess.run(_command(folder / "alone"), check=True, capture_output=True)
    seconds, wanted, killed = time.perf_counter() - start, digest(folder / "alone"), 0
    while killed < kills and not tally.failures:
        run, ended = folder / f"killed-{tally.trials}", False
        while not ended:
            with subprocess.Popen(_command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    ended = process.wait(seconds * draws.random()) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
        tally.count(survived=digest(run) == wanted, otherwise=f"other bits after {killed} kills")
    tally.remark = f"{killed} kills; {seconds:.1f} s undisturbed, start included"
    tally.figures = {"kills": killed}
    return tally


def _command(run: Path) -> list[str]:
    changes = [word for change in ("train.epochs=8", "data.image_size=16") for word in ("--set", change)]
    return [sys.executable, "-m", "alexnet", "train", "small-digits", "--out", str(run), *changes]


def _train(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int) -> int:
    """What ``alexnet train`` does, but for measuring the machine."""
    with lock_run_folder(folder):
        training = train_on(folder, recipe, dataset, seed)
        if not training.run.finished:
            finish(training, training.fit(no_curves), CurvesFile(recipe), matrix_gflops=1.0)
    return 0


def stop_by_signals(folder: Path, dataset: PreparedDataset, times: int, draws: random.Random) -> Tally:
    """Trainings stopped by so many signals at random instants: status, soon, no step lost, the same bits."""
    tally = Tally("SIGTERM, SIGUSR1, SIGINT: the status, and no step lost")
    wanted, seconds = left_alone(folder / "alone", LONG, dataset, 0)
    heard, slowest = 0, 0.0
    while heard < times and not tally.failures:
        run, status = folder / f"stopped-{heard}", 1
        while status:
            sent, expected = list(SIGNALS.items())[heard % len(SIGNALS)]
            child = Child(lambda tell, run=run: _fit_until_stopped(run, dataset, tell))  # type: ignore[misc]
            status, told = child.signal_after(0.05 + draws.expovariate(times / seconds / 0.7), sent)
            if status == expected and told:
                heard, slowest = heard + 1, max(slowest, child.seconds)
                found, _ = load_newest(Run(run).checkpoints)
                kept = found is not None and found.step == told[-1]
                tally.count(survived=kept, otherwise=f"{sent.name} at step {told[-1]}, kept {found and found.step}")
            elif status and not (status == 128 + sent and not told):  # before it was listening, a signal ends it
                tally.count(survived=False, otherwise=f"{sent.name} left with status {status}")
        tally.count(survived=digest(run) == wanted, otherwise="a training ended with other bits")
    tally.count(survived=slowest < GRACE, otherwise=f"one took {slowest:.1f} s to end")
    tally.remark = f"{heard} signals; the slowest answer after {slowest:.2f} s"
    tally.figures = {"signals": heard, "slowest_seconds": slowest}
    return tally


def _fit_until_stopped(run: Path, dataset: PreparedDataset, tell: Callable[[int], None]) -> int:
    """Train; a signal's status is handed on, and the step at which it was heard told."""
    training = train_on(run, LONG, dataset, 0)
    try:
        training.fit(no_curves)
    except StoppedError as stopped:
        tell(training.state.step)
        return stopped.status
    return 0


def resume_everywhere(folder: Path, dataset: PreparedDataset, every: int) -> Tally:
    """Trainings of thirty steps, each stopped after another step and continued, with batches far ahead or not."""
    tally = Tally("stopped after one step and continued: bits at the end")
    wanted, _ = left_alone(folder / "alone", SHORT, dataset, 0)
    steps = train_on(folder / "count", SHORT, dataset, 0).last_step
    for depth in DEPTHS:
        for step in range(1, steps + 1, every):
            run = folder / f"resumed-{depth}-{step}"
            _stop_after(train_on(run, SHORT, dataset, 0, depth), step)
            train_on(run, SHORT, dataset, 0, depth).fit(no_curves)
            tally.count(survived=digest(run) == wanted, otherwise=f"other bits after step {step}, depth {depth}")
            shutil.rmtree(run)
    tally.remark = f"{steps} steps; {', '.join(map(str, DEPTHS))} batches ahead"
    return tally


def _stop_after(training: Training, last: int) -> None:
    """Train until a signal comes in step ``last``."""
    step = training.step

    def stepping(batch: Batch) -> None:
        step(batch)
        if training.state.step == last:
            signal.raise_signal(signal.SIGTERM)

    training.step = stepping  # type: ignore[method-assign]
    try:
        training.fit(no_curves)
    except StoppedError:
        return
    if last < training.last_step:
        raise AssertionError("the signal was not heard")
