"""``alexnet train``: prepare if needed, train, evaluate, write the run and its report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet.commands import report
from alexnet.commands.choose import choose
from alexnet.commands.console import print_json
from alexnet.commands.prepare import prepare, remarks
from alexnet.commands.progress import make_reporter
from alexnet.config import Recipe
from alexnet.core.errors import UserError
from alexnet.core.files import folder_bytes, write_bytes, write_json
from alexnet.data.sources import reopened_by
from alexnet.data.store import Store
from alexnet.model.saved import SavedModel
from alexnet.model.variants import get_variant
from alexnet.runtime.device import Machine, choose_machine, matrix_rate
from alexnet.runtime.log import Reporter, Silent
from alexnet.runtime.run import Run, claim, start_or_continue
from alexnet.training.outcome import conclude
from alexnet.training.train import Training
from alexnet.visualize.curves import CurveDrawer
from alexnet.visualize.measure import describe_measure
from alexnet.visualize.report import write_report

LARGE = 100e6  # bytes of checkpoints that are worth a word


def train(
    recipe: Recipe | str | None = None,
    *,
    data: Path | str | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    device: str | None = None,
    plain: bool = False,
    data_root: Path | str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe (a value, a name, or None for the default) and return its run folder; quiet without a reporter.

    ``data``: a source in place of the recipe's; ``out``: the run folder, ``runs/<recipe>`` if None; ``overrides``:
    ``section.field=value``; ``plain``: without the fast forms. An interrupted run of the same recipe, seed and images
    is continued, a finished one returned. Raises ``UserError`` for what a user can mend and ``StoppedError`` after a
    checkpoint if a signal asked for it.
    """
    reporter = reporter or Silent()
    source, recipe = choose(recipe, data, overrides, Path(data_root) if data_root else None, reporter.say)
    get_variant(recipe.model.variant)  # an unknown one is said before hours of decoding
    machine = choose_machine(device, recipe.train.precision, plain=plain)
    store, _ = prepare(source, recipe.data.stored, recipe.data.channels, reporter)
    if out is not None and not str(out).strip():
        raise UserError("--out is empty: give a folder, or leave it out for runs/RECIPE")
    folder = Path(out or Path("runs") / recipe.name)
    place = reopened_by(recipe.data.source, source, Path(data_root) if data_root else None)
    if not Run(folder).finished:
        with claim(folder):
            run = start_or_continue(folder, recipe, seed, place, store.digest)
            if not run.finished:
                fit_and_finish(recipe, store, run, seed, machine, reporter)
                report.add(run, store, machine, reporter)
                return run
    run = start_or_continue(folder, recipe, seed, place, store.digest)
    done = f"{run.folder} is finished already, {run.result['steps']:,} steps"
    reporter.say(f"{done}; to train anew give another folder with --out")
    return run


def fit_and_finish(recipe: Recipe, store: Store, run: Run, seed: int, machine: Machine, reporter: Reporter) -> None:
    """Train to the end from wherever the run stands, and write what it leaves."""
    with machine.enough_memory(f"add --set train.batch_size={max(1, recipe.train.batch_size // 2)}"):
        matrix_gflops = matrix_rate(machine)
        training = Training(recipe, store, run, seed, machine, reporter)
        curves = CurveDrawer(recipe)
        finish(training, training.fit(curves), curves, matrix_gflops)


def finish(training: Training, model: SavedModel, curves: CurveDrawer, matrix_gflops: float) -> None:
    """Write what a training leaves: model, curves, report and result. Raises ``UserError`` if the disk refuses."""
    run, recipe = training.run, training.recipe
    try:
        result = conclude(training, model, matrix_gflops)
        curves.draw(run, result if result["split"] else None)
        write_bytes(run.folder / "report.md", write_report(recipe, result, remarks(training.store)).encode())
        write_json(run.folder / "result.json", result)  # last: it says that everything is there
    except OSError as error:
        kept = "the training itself is done" if training.safe else "no checkpoint of its end could be written either"
        raise UserError(
            f"cannot write the outcome to {run.folder}: {error.strerror or error}; {kept}: make room and give the same "
            "command again, which goes on from the last checkpoint"
        ) from error


def main(arguments: argparse.Namespace) -> int:
    """Train and print the outcome."""
    overrides = [*arguments.set, *([f"train.precision={arguments.precision}"] if arguments.precision else [])]
    run = train(
        arguments.recipe, data=arguments.data, out=arguments.out, seed=arguments.seed, overrides=overrides,
        device=arguments.device, plain=arguments.plain, data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
    elif result["split"]:
        print(describe_measure(result))
    if not arguments.json:
        print(f"the run is in {run.folder}: report.html, curves.png, model/")
        if (size := folder_bytes(run.checkpoints)) > LARGE:
            print(f"{run.checkpoints} holds {size / 1e9:.1f} GB that a finished run no longer needs: it may be removed")
    return 0
