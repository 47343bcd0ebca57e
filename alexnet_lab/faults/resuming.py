"""Trainings that are killed, stopped and resumed: they end with the same bits as an uninterrupted training."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from alexnet.api import finish
from alexnet.config import Recipe, override
from alexnet.core.errors import StoppedError
from alexnet.data.loader import DEPTH, Batch
from alexnet.data.prepared import PreparedDataset, open_or_prepare
from alexnet.data.sources import open_source
from alexnet.plots.curves import CurvesFile
from alexnet.recipes import get_recipe
from alexnet.runtime.checkpoint import list_checkpoints, load_newest
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import Run, lock_run_folder, start_or_continue
from alexnet.training.build import resize_of
from alexnet.training.datasets import ANNOTATIONS
from alexnet.training.loop import Training
from alexnet_lab.faults.trial import Child, FaultResult
from alexnet_lab.made_scenes import shipped_photographs, write_scenes

CPU = DeviceConfig(torch.device("cpu"), bf16=False)
SMALL = ["train.precision=fp32", "data.image_size=16", "model.width=0.25", "train.epochs=40"]
LONG = override(get_recipe("small-digits"), SMALL)
SHORT = override(LONG, ["train.batch_size=256", "train.epochs=5"])  # 30 steps
TASK_SIDE = 48  # pixels of the images of the other tasks
OTHER_TASKS = {
    name: override(
        get_recipe(name),
        {
            "model.width": 0.125, "data.resize_size": TASK_SIDE, "data.image_size": TASK_SIDE,
            "augment.crop": TASK_SIDE, "train.init": "none", "train.precision": "fp32", "train.epochs": 6,
        },
    )
    for name in ("segmentation", "detection")
}  # fmt: skip
DEPTHS = (0, 3, 8)  # prefetched batches: none, the usual number, many
CLOCK = {"seconds", "images_per_second", "matrix_gflops"}  # fields that differ between equal trainings
GRACE = 30.0  # seconds between SIGTERM and SIGKILL on a cluster
SIGNALS = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130}


def train_on(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int, depth: int = DEPTH) -> Training:
    """A training in ``folder``, new or resumed; :meth:`~Training.fit` runs it."""
    run = start_or_continue(folder, recipe, seed, dataset.name, dataset.digest)
    training = Training(recipe, dataset, run, seed, CPU, NullReporter())
    training.loader = functools.partial(training.loader, depth)  # type: ignore[method-assign]
    return training


def no_curves(run: Run) -> None:
    """Draws no curves."""


def digest(folder: Path) -> str:
    """The sha256 of what every finished run must have: metrics, model, result, and a kept checkpoint."""
    last = list_checkpoints(Run(folder).checkpoints)[-1:]
    tensors = [file for path in last for file in sorted(path.glob("*.safetensors"))]
    content = hashlib.sha256((folder / "metrics.jsonl").read_bytes())
    for file in [*tensors, *sorted((folder / "model").glob("*"))]:
        content.update(file.read_bytes())
    for file in filter(Path.exists, (*(path / "state.json" for path in last), folder / "result.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        content.update(json.dumps({name: values[name] for name in sorted(values.keys() - CLOCK)}).encode())
    return content.hexdigest()


def uninterrupted(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int) -> tuple[str, float]:
    """The digest of an uninterrupted training, and the seconds that it takes."""
    start = time.perf_counter()
    train_on(folder, recipe, dataset, seed).fit(no_curves)
    return digest(folder), time.perf_counter() - start


def kill_while_training(
    folder: Path, dataset: PreparedDataset, kills: int, seed: int, draws: random.Random, recipe: Recipe = LONG
) -> FaultResult:
    """Trainings killed ``kills`` times in all, at random times from their first write to their last."""
    task = "a training" if recipe is LONG else f"a training for {recipe.model.task}"
    result = FaultResult(f"SIGKILL at random times during {task}, seed {seed}: same bits")
    start = time.perf_counter()
    _train(folder / "alone", recipe, dataset, seed)
    seconds, wanted, killed = time.perf_counter() - start, digest(folder / "alone"), 0
    mean = seconds / kills  # each kill costs a restart and the steps since the last checkpoint
    while killed < kills and not result.failures:
        run = folder / f"killed-{result.trials}"
        while not Run(run).finished:
            child = Child(lambda send, run=run: _train(run, recipe, dataset, seed))  # type: ignore[misc]
            status, _ = child.signal_after(draws.expovariate(1 / mean), signal.SIGKILL)
            killed += status != 0
        result.count(passed=digest(run) == wanted, failure=f"other bits after {killed} kills")
    result.remark = f"{killed} kills; {seconds:.1f} s without kills"
    result.figures = {"kills": killed}
    return result


def kill_each_task(folder: Path, kills: int, draws: random.Random) -> Iterator[FaultResult]:
    """:func:`kill_while_training` for each task but classification, on made images."""
    with tempfile.TemporaryDirectory() as place:
        write_scenes(shipped_photographs(Path(place)), folder / "scenes", 0, {"train": 40, "test": 8})
    for name, recipe in OTHER_TASKS.items():
        source = open_source(str(folder / "scenes"), annotations=ANNOTATIONS[recipe.model.task])
        dataset = open_or_prepare(source, TASK_SIDE, resize=resize_of(recipe), home=folder)
        (folder / name).mkdir()
        yield kill_while_training(folder / name, dataset, kills, 0, draws, recipe)


def kill_command(folder: Path, kills: int, draws: random.Random) -> FaultResult:
    """The command ``alexnet train``, in the machine's default precision with all threads, killed ``kills`` times."""
    result = FaultResult("SIGKILL at random times during alexnet train, all threads: same bits")
    start = time.perf_counter()
    subprocess.run(_command(folder / "alone"), check=True, capture_output=True)
    seconds, wanted, killed = time.perf_counter() - start, digest(folder / "alone"), 0
    while killed < kills and not result.failures:
        run, ended = folder / f"killed-{result.trials}", False
        while not ended:
            with subprocess.Popen(_command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    ended = process.wait(seconds * draws.random()) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
        result.count(passed=digest(run) == wanted, failure=f"other bits after {killed} kills")
    result.remark = f"{killed} kills; {seconds:.1f} s without kills, start included"
    result.figures = {"kills": killed}
    return result


def _command(run: Path) -> list[str]:
    changes = [word for change in ("train.epochs=8", "data.image_size=16") for word in ("--set", change)]
    return [sys.executable, "-m", "alexnet", "train", "small-digits", "--out", str(run), *changes]


def _train(folder: Path, recipe: Recipe, dataset: PreparedDataset, seed: int) -> int:
    """What ``alexnet train`` does, without measuring the machine's rate."""
    with lock_run_folder(folder):
        training = train_on(folder, recipe, dataset, seed)
        if not training.run.finished:
            curves = CurvesFile(recipe)
            finish(training, training.fit(no_curves), curves, matrix_gflops=1.0, keep_checkpoints=True)
    return 0


def stop_by_signals(folder: Path, dataset: PreparedDataset, times: int, draws: random.Random) -> FaultResult:
    """Trainings stopped by ``times`` signals at random times: right exit status, soon, no step lost, same bits."""
    result = FaultResult("SIGTERM, SIGUSR1, SIGINT: right exit status, no step lost")
    wanted, seconds = uninterrupted(folder / "alone", LONG, dataset, 0)
    handled, slowest = 0, 0.0
    while handled < times and not result.failures:
        run, status = folder / f"stopped-{handled}", 1
        while status and not result.failures:  # after a failure the training may never get to its end
            sent, expected = list(SIGNALS.items())[handled % len(SIGNALS)]
            child = Child(lambda send, run=run: _fit_until_stopped(run, dataset, send))  # type: ignore[misc]
            status, received = child.signal_after(0.05 + draws.expovariate(times / seconds / 0.7), sent)
            if status == expected and received:
                handled, slowest = handled + 1, max(slowest, child.seconds)
                found, _ = load_newest(Run(run).checkpoints)
                kept = found is not None and found.step == received[-1]
                result.count(passed=kept, failure=f"{sent.name} at step {received[-1]}, kept {found and found.step}")
            elif status and not (
                status == 128 + sent and not received
            ):  # before its handler is set, a signal ends the process
                result.count(passed=False, failure=f"{sent.name} ended with status {status}")
        if not status:
            result.count(passed=digest(run) == wanted, failure="a training ended with other bits")
    result.count(passed=slowest < GRACE, failure=f"one took {slowest:.1f} s to end")
    result.remark = f"{handled} signals; slowest response {slowest:.2f} s"
    result.figures = {"signals": handled, "slowest_seconds": slowest}
    return result


def _fit_until_stopped(run: Path, dataset: PreparedDataset, send: Callable[[int], None]) -> int:
    """Train; returns the exit status of a signal, and sends the step at which it was handled."""
    training = train_on(run, LONG, dataset, 0)
    try:
        training.fit(no_curves)
    except StoppedError as stopped:
        send(training.state.step)
        return stopped.status
    return 0


def resume_after_each_step(folder: Path, dataset: PreparedDataset, every: int) -> FaultResult:
    """Trainings of thirty steps, each stopped after another step and resumed, with prefetched batches or without."""
    result = FaultResult("stopped after each step and resumed: same bits")
    wanted, _ = uninterrupted(folder / "alone", SHORT, dataset, 0)
    steps = train_on(folder / "count", SHORT, dataset, 0).last_step
    for depth in DEPTHS:
        for step in range(1, steps + 1, every):
            run = folder / f"resumed-{depth}-{step}"
            _stop_after(train_on(run, SHORT, dataset, 0, depth), step)
            train_on(run, SHORT, dataset, 0, depth).fit(no_curves)
            result.count(passed=digest(run) == wanted, failure=f"other bits after step {step}, depth {depth}")
            shutil.rmtree(run)
    result.remark = f"{steps} steps; {', '.join(map(str, DEPTHS))} prefetched batches"
    return result


def _stop_after(training: Training, last: int) -> None:
    """Train until a signal arrives in step ``last``."""
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
        raise AssertionError("the signal was not handled")
