"""``report.html``: the pictures and figures of a finished training in one file, made at its end or anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexnet.commands.album import of_images, of_training
from alexnet.commands.evaluate import open_store_for
from alexnet.commands.naming import run_folder
from alexnet.commands.prepare import remarks
from alexnet.commands.progress import make_reporter
from alexnet.core.errors import UserError, in_a_line
from alexnet.core.files import write_bytes
from alexnet.data.store import Store
from alexnet.inference.predictor import Predictor
from alexnet.model.saved import load_model
from alexnet.runtime.device import Machine, choose_machine
from alexnet.runtime.log import Reporter, stage
from alexnet.runtime.run import Run
from alexnet.visualize import page
from alexnet.visualize.canvas import about_letters


def rebuild(target: str, path: Path, arguments: argparse.Namespace) -> list[page.Section]:
    """The report of a finished run, written anew to ``path``; what it shows. Raises ``UserError``."""
    run = Run(run_folder(target))
    if run.description and not run.finished:
        raise UserError(f"{target} is a training that has not finished: a report is of one that has")
    reporter = make_reporter()
    machine = choose_machine(arguments.device, arguments.precision or "auto")
    model = load_model(run.folder)
    store = open_store_for(run.folder, model, arguments.data, arguments.data_root, reporter)
    try:
        return write(path, run, store, machine, reporter)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error


def add(run: Run, store: Store, machine: Machine, reporter: Reporter) -> None:
    """The report at the end of a training. One that fails, in whatever way, is a warning: the run stands."""
    try:
        write(run.folder / "report.html", run, store, machine, reporter)
    except Exception as error:
        reporter.say(f"warning: no report.html: {in_a_line(error)}; alexnet show report {run.folder} tries anew")


def write(path: Path, run: Run, store: Store, machine: Machine, reporter: Reporter) -> list[page.Section]:
    """The page, and what it shows. Raises ``OSError`` if the disk refuses."""
    predictor = Predictor(run.folder, machine)
    sections = draw(run, predictor, store, reporter)
    if note := about_letters([each.picture.figure for each in sections if each.picture]):
        reporter.say(note)
    names = dict(zip(predictor.model.classes, predictor.model.readable_classes, strict=True))
    write_bytes(path, page.render(run.recipe, run.result, sections, remarks(store), names, run.name).encode())
    return sections


def draw(run: Run, predictor: Predictor, store: Store, reporter: Reporter) -> list[page.Section]:
    """The pictures. One that this run has not enough for, or no library, is left out with the reason."""
    drawings = of_training(run, predictor, store) | of_images(run, predictor, store)
    sections = []
    with stage(reporter, "drawing the report", len(drawings)):
        for number, (title, picture) in enumerate(drawings.items(), 1):
            try:
                sections.append(page.section(title, picture()))
            except UserError as error:
                sections.append(page.left_out(title, error.line))
            except Exception as error:  # a picture that fails costs none of the others
                reporter.say(f"warning: the report has no {title!r}: {in_a_line(error)}")
                sections.append(page.left_out(title, in_a_line(error)))
            reporter.advance(number)
    return sections
