"""The job queue of ``alexnet reproduce --run``: runs the needed trainings and timings and keeps the results."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alexnet.api import evaluate, train
from alexnet.core.errors import DivergedError, UserError, unknown
from alexnet.data.sources import BUILTIN_SOURCES, open_source
from alexnet.recipes import get_recipe
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.training.datasets import prepare
from alexnet_lab.bench import textbook
from alexnet_lab.claims.registry import TIMED, needed_experiments
from alexnet_lab.experiments.registry import Device, Experiment, run_folder
from alexnet_lab.results.reader import Results
from alexnet_lab.results.records import check_clean, code_commit, keep, keep_bench


@dataclass(frozen=True)
class Job:
    """A training or a timing. ``run`` writes a results file and returns its path. ``minutes``: approximate time."""

    minutes: float
    title: str
    run: Callable[[], Path]


@dataclass(frozen=True)
class Settings:
    """How jobs run. ``sources``: built-in image set → ``NAME:PATH``. ``device``: as ``resolve_device`` takes it.
    ``data_root``: folder of built-in image sets. ``again``: train finished seeds once more.
    """

    sources: Mapping[str, str]
    device: str | None
    data_root: Path | None
    again: bool
    reporter: Reporter


def run_queue(
    results: Results,
    claims: Sequence[str],
    *,
    reporter: Reporter,
    missing: bool = False,
    sources: Sequence[str] = (),
    device: str | None = None,
    data_root: Path | None = None,
) -> None:
    """Train every seed of every experiment that ``claims`` need (all if empty), and keep the results.

    ``missing``: only trainings without results; otherwise everything is measured again. ``sources``: the folders of
    image sets, as ``NAME:PATH``. Interrupted trainings are resumed. Raises ``UserError`` before anything is trained if
    results could not be kept, and after all jobs if some of them failed.
    """
    check_clean(code_commit(), "--run")
    settings = Settings(_by_name(sources), device, data_root, not missing, reporter)
    kind: Device = "cuda" if resolve_device(device, "auto").device.type == "cuda" else "cpu"
    claims = [name.upper() for name in claims]
    jobs: list[Job] = []
    if claims != [TIMED]:
        trained = [name for name in claims if name != TIMED]
        jobs += [
            Job(item.cost(kind), _title(item, kind), partial(run_experiment, item, kind, settings))
            for item in needed_experiments(trained, results, kind, missing=missing)
        ]
    if (not claims or TIMED in claims) and not (missing and results.bench(textbook.RECIPE, kind)):
        title = f"{textbook.RECIPE} and the textbook's own loop"
        jobs.append(Job(textbook.MINUTES, title, partial(time_textbook, settings)))
    if not jobs:
        reporter.log("nothing to run: all results exist for this kind of device")
    run_jobs(jobs, reporter)


def run_jobs(jobs: Sequence[Job], reporter: Reporter) -> None:
    """Run all jobs, cheapest first. A job that fails with ``UserError`` does not stop the others.

    Raises ``UserError`` at the end if any failed.
    """
    failed = []
    for number, job in enumerate(sorted(jobs, key=lambda job: job.minutes), 1):
        reporter.log(f"{number}/{len(jobs)}  {job.title}")
        try:
            reporter.log(f"kept in {job.run()}")
        except UserError as error:  # for example missing images, which the next job may not need
            reporter.log(f"{job.title}: {error.line}")
            failed.append(job.title.partition(",")[0])
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed, see above: {', '.join(failed)}")


def _title(experiment: Experiment, device: Device) -> str:
    seeds = len(experiment.seeds(device))
    cost = f", about {experiment.minutes * seeds:.0f} minutes" if device == "cpu" else ""
    return f"{experiment.name}, {seeds} seed(s){cost}"


def _by_name(sources: Sequence[str]) -> dict[str, str]:
    """Name → ``NAME:PATH``. Raises ``UserError`` for anything else."""
    for text in sources:
        name, colon, path = text.partition(":")
        if not (colon and path):
            raise UserError(f"--data {text}: write NAME:PATH, e.g. cifar10:{path or text}")
        if name not in BUILTIN_SOURCES:
            raise unknown("source", name, BUILTIN_SOURCES)
    return {text.partition(":")[0]: text for text in sources}


def run_experiment(experiment: Experiment, device: Device, settings: Settings) -> Path:
    """Train or resume every seed, evaluate their average, and keep the results; returns the path of the file.

    The checkpoints of finished runs are removed once their results are kept, because they take gigabytes.
    """
    recipe, seeds = experiment.build(), experiment.seeds(device)
    folders = [run_folder(recipe, device, seed, again=settings.again) for seed in seeds]
    source = settings.sources.get(recipe.data.source)
    for seed, folder in zip(seeds, folders, strict=True):
        with contextlib.suppress(DivergedError):  # a result, kept like the others
            train(
                recipe, data=source, out=folder, seed=seed, device=settings.device, data_root=settings.data_root,
                reporter=settings.reporter,
            )  # fmt: skip
    finished = [folder for folder in folders if Run(folder).finished]
    ensemble = None
    if len(finished) > 1:
        *_, together = evaluate(
            finished, data=source, views=10 if recipe.train.views == 10 else 1, device=settings.device,
            precision=recipe.train.precision, data_root=settings.data_root, reporter=settings.reporter,
        )  # fmt: skip
        ensemble = together.to_json()
    path = keep(folders, ensemble=ensemble)
    for folder in folders:
        shutil.rmtree(Run(folder).checkpoints, ignore_errors=True)
    return path


def time_textbook(settings: Settings) -> Path:
    """Compare the textbook's own training loop with ours and keep the speeds; returns the path of the file."""
    place = settings.sources.get("fashion-mnist", "fashion-mnist")
    source = open_source(place, settings.data_root, settings.reporter.log)
    dataset, _ = prepare(source, None, None, settings.reporter)
    device_config = resolve_device(settings.device, get_recipe(textbook.RECIPE).train.precision)
    return keep_bench(textbook.compare(dataset.path, device_config))
