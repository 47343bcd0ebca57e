"""``alexnet train``: prepare if needed, train, evaluate, write the run and its report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from alexnet.cli.console import print_json
from alexnet.cli.finish import fit_and_finish
from alexnet.cli.prepare import prepare
from alexnet.config import Recipe
from alexnet.core.errors import RUNS, UserError
from alexnet.core.files import folder_bytes
from alexnet.data.sources import reopened_by
from alexnet.models.registry import get_variant
from alexnet.report import build as report
from alexnet.report.markdown import readings
from alexnet.report.text import describe_measure
from alexnet.runtime.device import resolve_device
from alexnet.runtime.log import NullReporter, Reporter
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run, claim, start_or_continue
from alexnet.training.resolve import choose

LEFT = ("report.html", "report.md", "curves.png")
LARGE = 100e6  # bytes of checkpoints that are worth a word


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
    place = reopened_by(recipe.data.source, source, Path(data_root) if data_root else None)
    if not Run(folder).finished:
        with claim(folder):
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


def main(arguments: argparse.Namespace) -> int:
    """Train and print the outcome."""
    overrides = [*arguments.set, *([f"train.precision={arguments.precision}"] if arguments.precision else [])]
    run = train(
        arguments.recipe, data=arguments.data, out=arguments.out, seed=arguments.seed, overrides=overrides,
        device=arguments.device, reference=arguments.reference, data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
    elif result["split"]:
        print("\n".join([describe_measure(result), *readings(run.recipe, result)]))
    if not arguments.json:
        print(f"the run is in {run.folder}: {', '.join(n for n in LEFT if (run.folder / n).exists())}, model/")
        if (size := folder_bytes(run.checkpoints)) > LARGE:
            print(f"{run.checkpoints} holds {size / 1e9:.1f} GB that a finished run no longer needs: it may be removed")
    return 0
