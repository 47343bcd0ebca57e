"""``alexnet train``: prepare if needed, train, evaluate, write the run and its report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.commands.console import make_reporter, print_json
from alexnet.config import Recipe, override
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes, write_json
from alexnet.data.sources import BUILTIN_SOURCES, Source, open_source
from alexnet.data.store import LARGEST_KEPT_SIDE, Store, natural_side, open_or_prepare
from alexnet.model.saved import SavedModel, save_model
from alexnet.recipes import DEFAULT, get_recipe
from alexnet.runtime.device import choose_machine, describe_hardware, matrix_rate
from alexnet.runtime.log import Reporter, Silent
from alexnet.runtime.run import Run, start_or_continue
from alexnet.training.evaluate import evaluate_models
from alexnet.training.train import Training
from alexnet.visualize.curves import draw_curves
from alexnet.visualize.report import write_report

SECONDS_BETWEEN_DRAWINGS = 10.0


def train(
    recipe: Recipe | str | None = None,
    *,
    data: Path | str | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    device: str | None = None,
    data_root: Path | str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe (a value, a name, or None for the default) and return its run folder; quiet without a reporter.

    ``data``: a source in place of the recipe's; ``out``: the run folder, ``runs/<recipe>`` if None; ``overrides``:
    ``section.field=value``. An interrupted run of the same recipe, seed and images is continued, a finished one
    returned. Raises ``UserError`` for what a user can mend and ``StoppedError`` after a checkpoint if a signal asked
    for it.
    """
    reporter = reporter or Silent()
    source, recipe = choose(recipe, data, Path(data_root) if data_root else None)
    recipe = override(recipe, overrides)
    machine = choose_machine(device, recipe.train.precision)
    store = open_store_of(recipe, source, reporter)
    text = recipe.data.source if recipe.data.source in BUILTIN_SOURCES else source.location
    run = start_or_continue(Path(out or Path("runs") / recipe.name), recipe, seed, text, store.digest)
    if run.finished:
        reporter.say(f"{run.folder} is finished already; another --out or --seed trains anew")
        return run
    rate = matrix_rate(machine)
    training = Training(recipe, store, run, seed, machine, reporter)
    model = training.fit(Curves(recipe))
    finish(training, model, rate)
    return run


def choose(recipe: Recipe | str | None, data: Path | str | None, data_root: Path | None) -> tuple[Source, Recipe]:
    """The source and the recipe meant; with data alone, the recipe for photographs or for small images."""
    if isinstance(recipe, str):
        recipe = get_recipe(recipe)
    text = str(data) if data else (recipe or get_recipe(DEFAULT)).data.source
    if not text and recipe:
        raise UserError(f"recipe {recipe.name!r} trains on images of your own: give --data FOLDER")
    source = open_source(text, data_root)
    if recipe is None:
        small = natural_side(source) <= LARGEST_KEPT_SIDE
        recipe = get_recipe(DEFAULT if not data else "photos-small" if small else "photos")
    return source, replace(recipe, data=replace(recipe.data, source=text))


def open_store_of(recipe: Recipe, source: Source, reporter: Reporter) -> Store:
    """The recipe's store, prepared now if need be; says which files were refused."""
    begun = False

    def progress(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(f"preparing {source.name}", total or 0)
            begun = True
        reporter.advance(done)

    store = open_or_prepare(source, recipe.data.stored, recipe.data.channels, progress=progress)
    if begun:
        reporter.finish()
        for item in store.meta["refused"]:
            reporter.say(f"  refused {item['name']}: {item['reason']}")
        for warning in store.meta["warnings"]:
            reporter.say(f"  note: {warning}")
    return store


class Curves:
    """Redraws ``curves.png`` as the training goes, not so often that drawing costs more than training."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._last = -SECONDS_BETWEEN_DRAWINGS

    def __call__(self, run: Run) -> None:
        """Draw unless the last drawing is fresh."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_DRAWINGS:
            draw_curves(run.metrics(), self.recipe.name, run.folder / "curves.png", self.recipe.claim.top1)
            self._last = time.monotonic()


def finish(training: Training, model: SavedModel, rate: float) -> None:
    """Save the model, count the test images, write the report; ``result.json`` last, for it says that all is there."""
    run, recipe, store = training.run, training.recipe, training.store
    save_model(run.model_folder, model)
    split = next((name for name in ("test", "val") if len(store.subset(name))), None)
    counted: dict[str, Any] = {}
    if split:
        (counts,) = evaluate_models([model], [store], split, training.machine, recipe.train.views, training.reporter)
        counted = counts.summary(store.classes)
    progress = training.progress
    images = len(training.train_index) * recipe.train.epochs
    result = {
        "recipe": recipe.name, "seed": training.seed, "source": store.name, "data": store.digest,
        "split": split, "views": recipe.train.views, **counted,
        "last_epoch": [line for line in run.metrics() if "train_loss" in line][-1],
        "splits": {
            "train": len(training.train_index), "val": len(training.val_index), "test": len(store.subset("test")),
        },
        "steps": progress.step, "seconds": progress.seconds, "images_per_second": images / progress.seconds,
        "matrix_gflops": rate, "hardware": describe_hardware(training.machine),
    }  # fmt: skip
    Curves(recipe)(run)
    write_bytes(run.folder / "report.md", write_report(recipe, result, store.meta["warnings"]).encode())
    write_json(run.folder / "result.json", result)


def main(arguments: argparse.Namespace) -> int:
    """Train and print the outcome."""
    overrides = list(arguments.set)
    if arguments.precision:
        overrides.append(f"train.precision={arguments.precision}")
    run = train(
        arguments.recipe, data=arguments.data, out=arguments.out, seed=arguments.seed, overrides=overrides,
        device=arguments.device, data_root=arguments.data_root, reporter=make_reporter(),
    )  # fmt: skip
    result = run.result
    if arguments.json:
        print_json({**result, "run": str(run.folder)})
    elif result["split"]:
        figures = f"{result['top1']:.2%} (top-5 {result['top5']:.2%}) on {result['images']:,} images"
        print(f"{result['split']} accuracy {figures}")
    if not arguments.json:
        print(f"the run is in {run.folder}: report.md, curves.png, model/")
    return 0
