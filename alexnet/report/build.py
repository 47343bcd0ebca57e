"""``report.html``: the pictures and figures of a finished training in one file, made at its end or anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexnet.cli.naming import run_folder
from alexnet.core.errors import UserError, one_line
from alexnet.core.files import write_bytes
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.models.bundle import load_model
from alexnet.plots.canvas import missing_glyphs_note
from alexnet.report import html as page
from alexnet.report.values import of_images, of_training
from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet.runtime.log import Reporter, stage
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run
from alexnet.training.datasets import open_dataset_for, remarks


def rebuild(target: str, path: Path, arguments: argparse.Namespace) -> list[page.Section]:
    """The report of a finished run, written anew to ``path``; what it shows. Raises ``UserError``."""
    run = Run(run_folder(target))
    if run.description and not run.finished:
        raise UserError(f"{target} is a training that has not finished: a report is of one that has")
    reporter = make_reporter()
    device_config = resolve_device(arguments.device, arguments.precision or "auto")
    model = load_model(run.folder)
    dataset = open_dataset_for(run.folder, model, arguments.data, arguments.data_root, reporter)
    try:
        return write(path, run, dataset, device_config, reporter)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error


def add(run: Run, dataset: PreparedDataset, device_config: DeviceConfig, reporter: Reporter) -> None:
    """The report at the end of a training. One that fails, in whatever way, is a warning: the run stands."""
    try:
        write(run.folder / "report.html", run, dataset, device_config, reporter)
    except Exception as error:
        reporter.log(f"warning: no report.html: {one_line(error)}; alexnet show report {run.folder} tries anew")


def write(
    path: Path, run: Run, dataset: PreparedDataset, device_config: DeviceConfig, reporter: Reporter
) -> list[page.Section]:
    """The page, and what it shows. Raises ``OSError`` if the disk refuses."""
    predictor = Predictor(run.folder, device_config)
    sections = draw(run, predictor, dataset, reporter)
    if note := missing_glyphs_note([each.picture.figure for each in sections if each.picture]):
        reporter.log(note)
    names = dict(zip(predictor.model.classes, predictor.model.labels, strict=True))
    write_bytes(path, page.render(run.recipe, run.result, sections, remarks(dataset), names, run.name).encode())
    return sections


def draw(run: Run, predictor: Predictor, dataset: PreparedDataset, reporter: Reporter) -> list[page.Section]:
    """The pictures. One that this run has not enough for, or no library, is left out with the reason."""
    drawings = of_training(run, predictor, dataset) | of_images(run, predictor, dataset)
    sections = []
    with stage(reporter, "drawing the report", len(drawings)):
        for number, (title, picture) in enumerate(drawings.items(), 1):
            try:
                sections.append(page.section(title, picture()))
            except UserError as error:
                sections.append(page.left_out(title, error.line))
            except Exception as error:  # a picture that fails costs none of the others
                reporter.log(f"warning: the report has no {title!r}: {one_line(error)}")
                sections.append(page.left_out(title, one_line(error)))
            reporter.advance(number)
    return sections
