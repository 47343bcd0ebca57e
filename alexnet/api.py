"""What each command does, as a function for Python: parse nothing, print nothing, return values.

The commands in ``cli/`` call these functions and print what they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from alexnet.config import Recipe
from alexnet.core.errors import RUNS, UserError
from alexnet.core.files import write_bytes, write_json
from alexnet.data.prepared import PreparedDataset
from alexnet.data.sources import absolute_source
from alexnet.models.bundle import load_model, model_folder
from alexnet.models.classifier import Classifier
from alexnet.models.registry import get_variant
from alexnet.plots.curves import CurvesFile
from alexnet.report import build as report
from alexnet.report.markdown import write_report
from alexnet.runtime.device import DeviceConfig, matrix_rate, resolve_device
from alexnet.runtime.log import NullReporter, Reporter
from alexnet.runtime.run import Run, lock_run_folder, start_or_continue
from alexnet.training.datasets import choose_test_images, open_dataset_for, prepare, remarks
from alexnet.training.evaluate import evaluate_models
from alexnet.training.finalize import finalize
from alexnet.training.loop import Training
from alexnet.training.resolve import choose


def train(
    recipe: Recipe | str | None = None,
    *,
    data: Path | str | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    device: str | None = None,
    reference: bool = False,
    data_root: Path | str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe (a value, a name, or None for the default) and return its run folder; quiet without a reporter.

    ``data``: a source in place of the recipe's; ``out``: the run folder, ``runs/<recipe>`` if None; ``overrides``:
    ``section.field=value``; ``plain``: without the fast forms. An interrupted run of the same recipe, seed and images
    is continued, a finished one returned. Raises ``UserError`` for what a user can mend and ``StoppedError`` after a
    checkpoint if a signal asked for it.
    """
    reporter = reporter or NullReporter()
    source, recipe = choose(recipe, data, overrides, Path(data_root) if data_root else None, reporter.log)
    get_variant(recipe.model.variant)  # an unknown one is said before hours of decoding
    device_config = resolve_device(device, recipe.train.precision, reference=reference)
    dataset, _ = prepare(source, recipe.data.resize_size, recipe.data.channels, reporter)
    if out is not None and not str(out).strip():
        raise UserError("--out is empty: give a folder, or leave it out for runs/RECIPE")
    folder = Path(out or RUNS / recipe.name)
    place = absolute_source(recipe.data.source, source, Path(data_root) if data_root else None)
    if not Run(folder).finished:
        with lock_run_folder(folder):
            run = start_or_continue(folder, recipe, seed, place, dataset.digest)
            if not run.finished:
                fit_and_finish(recipe, dataset, run, seed, device_config, reporter)
                report.add(run, dataset, device_config, reporter)
                return run
    run = start_or_continue(folder, recipe, seed, place, dataset.digest)
    if not (run.folder / "report.html").exists():
        report.add(run, dataset, device_config, reporter)
    done = f"{run.folder} is finished already, {run.result['steps']:,} steps"
    reporter.log(f"{done}; to train anew give another folder with --out")
    return run


def fit_and_finish(
    recipe: Recipe, dataset: PreparedDataset, run: Run, seed: int, device_config: DeviceConfig, reporter: Reporter
) -> None:
    """Train to the end from wherever the run stands, and write what it leaves."""
    with device_config.enough_memory(f"add --set train.batch_size={max(1, recipe.train.batch_size // 2)}"):
        matrix_gflops = matrix_rate(device_config)
        training = Training(recipe, dataset, run, seed, device_config, reporter)
        curves = CurvesFile(recipe)
        finish(training, training.fit(curves), curves, matrix_gflops)


def finish(training: Training, model: Classifier, curves: CurvesFile, matrix_gflops: float) -> None:
    """Write what a training leaves: model, curves, report and result. Raises ``UserError`` if the disk refuses."""
    run, recipe = training.run, training.recipe
    try:
        result = finalize(training, model, matrix_gflops)
        curves.write(run, result if result["split"] else None)
        write_bytes(run.folder / "report.md", write_report(recipe, result, remarks(training.dataset)).encode())
        write_json(run.folder / "result.json", result)  # last: it says that everything is there
    except OSError as error:
        kept = "the training itself is done" if training.safe else "no checkpoint of its end could be written either"
        raise UserError(
            f"cannot write the outcome to {run.folder}: {error.strerror or error}; {kept}: make room and give the same "
            "command again, which goes on from the last checkpoint"
        ) from error


def evaluate(
    *runs: Path | str,
    data: Path | str | None = None,
    views: Literal[1, 10] = 1,
    device: str | None = None,
    precision: str = "auto",
    reference: bool = False,
    data_root: Path | str | None = None,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Count each run, then their ensemble if there are several: a dict each with ``run``, ``split``, ``top1``, ``top5``
    (shares), ``loss``, ``images``, ``per_class``, ``calibration_error``, ``confusions`` (wrong pairs) and
    ``confusion_matrix`` (images, true class by row; None above 2,000 classes).

    A run given twice counts once. ``data``: other images than the run's own. Of a set without splits those are counted
    that no run was trained on. Raises ``UserError``.
    """
    runs = tuple({model_folder(run).resolve(): run for run in runs}.values())
    device_config = resolve_device(device, precision, reference=reference)
    models = [load_model(run) for run in runs]
    for run, model in zip(runs, models, strict=True):
        if views == 10 and model.preprocessing.crop == model.preprocessing.resize_size:
            raise UserError(f"{run} sees whole images, it was trained without augment.crop: ten views need a crop")
    root = Path(data_root) if data_root else None
    reporter = reporter or NullReporter()
    datasets = [open_dataset_for(run, model, data, root, reporter) for run, model in zip(runs, models, strict=True)]
    split, index = choose_test_images(models, datasets[0])
    with device_config.enough_memory("give fewer runs at a time, or --device cpu"):
        counts = evaluate_models(models, datasets, index, device_config, views, reporter)
    names = [str(run) for run in runs] + ["ensemble"]
    rows = []
    for name, count in zip(names, counts, strict=False):
        matrix = count.confusion_matrix()
        row = {"run": name, "split": split, "views": views, **count.summary(datasets[0].classes)}
        rows.append({**row, "confusion_matrix": None if matrix is None else matrix.tolist()})
    return rows
