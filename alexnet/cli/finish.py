"""A training to its end, and what it leaves in its folder: model, curves, report and result."""

from __future__ import annotations

from alexnet.cli.prepare import remarks
from alexnet.config import Recipe
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes, write_json
from alexnet.data.prepared import PreparedDataset
from alexnet.models.classifier import Classifier
from alexnet.plots.curves import CurveDrawer
from alexnet.report.markdown import write_report
from alexnet.runtime.device import DeviceConfig, matrix_rate
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.training.finalize import finalize
from alexnet.training.loop import Training


def fit_and_finish(
    recipe: Recipe, dataset: PreparedDataset, run: Run, seed: int, device_config: DeviceConfig, reporter: Reporter
) -> None:
    """Train to the end from wherever the run stands, and write what it leaves."""
    with device_config.enough_memory(f"add --set train.batch_size={max(1, recipe.train.batch_size // 2)}"):
        matrix_gflops = matrix_rate(device_config)
        training = Training(recipe, dataset, run, seed, device_config, reporter)
        curves = CurveDrawer(recipe)
        finish(training, training.fit(curves), curves, matrix_gflops)


def finish(training: Training, model: Classifier, curves: CurveDrawer, matrix_gflops: float) -> None:
    """Write what a training leaves: model, curves, report and result. Raises ``UserError`` if the disk refuses."""
    run, recipe = training.run, training.recipe
    try:
        result = finalize(training, model, matrix_gflops)
        curves.draw(run, result if result["split"] else None)
        write_bytes(run.folder / "report.md", write_report(recipe, result, remarks(training.dataset)).encode())
        write_json(run.folder / "result.json", result)  # last: it says that everything is there
    except OSError as error:
        kept = "the training itself is done" if training.safe else "no checkpoint of its end could be written either"
        raise UserError(
            f"cannot write the outcome to {run.folder}: {error.strerror or error}; {kept}: make room and give the same "
            "command again, which goes on from the last checkpoint"
        ) from error
