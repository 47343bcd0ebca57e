"""``report.html``: the pictures and figures of a finished training in one file, made at its end or anew."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alexnet.commands.evaluate import choose_images, open_store_for
from alexnet.commands.prepare import remarks
from alexnet.commands.progress import make_reporter
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes
from alexnet.data.store import Store
from alexnet.inference.predictor import Predictor
from alexnet.inference.taps import last_hidden_layer
from alexnet.runtime.device import Machine, choose_machine
from alexnet.runtime.log import Reporter, Silent, stage
from alexnet.runtime.run import Run
from alexnet.visualize import activations, attributions, confusion, curves, embedding, filters, page, predictions
from alexnet.visualize.canvas import Picture

IMAGES = 2000  # of the test images, at even distances, that pictures are made of
Drawing = Callable[[], Picture]


def rebuild(target: str, path: Path, arguments: argparse.Namespace) -> None:
    """The report of a finished run, written anew to ``path``. Raises ``UserError``."""
    run = Run(Path(target))
    if run.description and not run.finished:
        raise UserError(f"{target} is a training that has not finished: a report is of one that has")
    reporter = make_reporter()
    machine = choose_machine(arguments.device, arguments.precision or "auto")
    predictor = Predictor(run.folder, machine)
    store = open_store_for(target, predictor.model, arguments.data, arguments.data_root, reporter)
    try:
        write_bytes(path, build(run, store, machine, reporter).encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error


def add(run: Run, store: Store, machine: Machine, reporter: Reporter) -> None:
    """The report at the end of a training. One that fails, in whatever way, is a warning: the run stands."""
    try:
        write_bytes(run.folder / "report.html", build(run, store, machine, reporter).encode())
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        reporter.say(f"warning: no report.html: {said}; alexnet show report {run.folder} tries anew")


def build(run: Run, store: Store, machine: Machine, reporter: Reporter) -> str:
    """The page, as text. A picture that this run has not enough for, or no library, is left out with the reason."""
    predictor = Predictor(run.folder, machine)
    drawings = _drawings(run, predictor, store)
    sections = []
    with stage(reporter, "drawing the report", len(drawings)):
        for number, (title, draw) in enumerate(drawings.items(), 1):
            try:
                sections.append(page.Section(title, draw()))
            except UserError as error:
                sections.append(page.Section(title, None, error.line))
            reporter.advance(number)
    return page.render(run.recipe, run.result, sections, remarks(store))


def _drawings(run: Run, predictor: Predictor, store: Store) -> dict[str, Drawing]:
    """What a report shows, in order."""
    recipe, result, model = run.recipe, run.result, predictor.model
    split, index = choose_images([model], store)
    history = curves.read_history(run, recipe, result if result["split"] else None)
    drawings: dict[str, Drawing] = {"How it went": lambda: curves.draw_curves([history])}
    if len(index):
        some = index[np.linspace(0, len(index) - 1, min(IMAGES, len(index))).round().astype(np.int64)]
        title = f"{len(some):,} {split} images of {store.name}"
        one = store.read(some[:1])[0]
        layer = last_hidden_layer(model.network)
        drawings |= {
            "What it says of images": lambda: predictions.show_predictions(predictor, store, some, title),
            "What it takes for what": lambda: confusion.show_confusion(predictor, store, some, title),
            "Which images it finds alike": lambda: embedding.show_embedding(
                predictor, store, some, layer, title, Silent()
            ),
            "What its layers make of one image": lambda: activations.show_activations(predictor, one, [], title),
            "Where in that image it looks": lambda: attributions.show_attributions(predictor, one, None),
        }
    drawings["Its first kernels"] = lambda: filters.draw_filters({recipe.name: model.network})
    return drawings
