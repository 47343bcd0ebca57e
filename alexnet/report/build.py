"""``report.html``: the figures and numbers of a finished training in one file, written at its end or again later.

The figures are the plots whose entry has a ``report`` (see ``plots/options.py``), in the order of
``plots/registry.py``.
"""

from __future__ import annotations

from pathlib import Path

from alexnet.config import Task
from alexnet.core.errors import UserError, cannot_write, one_line
from alexnet.core.files import write_text
from alexnet.data.prepared import PreparedDataset
from alexnet.inference.predictor import Predictor
from alexnet.models.bundle import load_model
from alexnet.plots.canvas import missing_glyphs_note
from alexnet.plots.inputs import FinishedRun
from alexnet.plots.options import Accepts, ReportFigure
from alexnet.plots.registry import PLOTS, get_plot
from alexnet.report import html as page
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.lock import MovedError
from alexnet.runtime.log import Reporter, stage
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import run_folder
from alexnet.training.datasets import open_dataset_for, remarks

REPORT = Accepts(options=("data",))


def rebuild(
    target: str,
    path: Path,
    device_config: DeviceConfig,
    reporter: Reporter,
    *,
    data: str | None = None,
    data_root: Path | None = None,
) -> list[page.Section]:
    """Write the report of a finished run to ``path``, and return its sections.

    ``data``: a source in place of the run's own images. Raises ``UserError``.
    """
    run = Run(run_folder(target))
    if run.description and not run.finished:
        raise UserError(f"{target} has not finished: repeat the command that started it, then make its report")
    model = load_model(run.folder)
    dataset = open_dataset_for(run.folder, model, data, data_root, reporter)
    sections, text = make_page(run, dataset, device_config, reporter)
    try:
        write_text(path, text)
    except OSError as error:
        raise cannot_write(path, error, "give another --out") from error
    return sections


def add(run: Run, dataset: PreparedDataset, device_config: DeviceConfig, reporter: Reporter) -> None:
    """Write the report at the end of a training. An error is logged as a warning, because the run is complete.

    Raises ``MovedError`` if the run's folder is no longer at its path.
    """
    try:
        write_text(run.folder / "report.html", make_page(run, dataset, device_config, reporter)[1])
    except MovedError:
        raise
    except Exception as error:
        reporter.log(f"warning: no report.html: {one_line(error)}; try again with: alexnet show report {run.folder}")


def make_page(
    run: Run, dataset: PreparedDataset, device_config: DeviceConfig, reporter: Reporter
) -> tuple[list[page.Section], str]:
    """The sections of a report, and the whole page as HTML. Raises ``UserError`` if the model cannot be read."""
    predictor = Predictor(run.folder, device_config)
    sections = make_sections(FinishedRun(run, predictor, dataset), reporter)
    if note := missing_glyphs_note([each.picture.figure for each in sections if each.picture]):
        reporter.log(note)
    names = dict(zip(predictor.model.classes, predictor.model.labels, strict=True))
    return sections, page.render(
        run.recipe, run.result, sections, [*remarks(dataset), *run.waiting()], names, run.name, dataset.side
    )


def report_figures(task: Task = "classification") -> list[ReportFigure]:
    """The figures of the report of a training for this task, in order."""
    plots = (get_plot(name) for name in PLOTS)
    return [plot.report for plot in plots if plot.report and task in plot.tasks]


def make_sections(finished: FinishedRun, reporter: Reporter) -> list[page.Section]:
    """A section for each figure; if a figure cannot be made, its section has the reason."""
    task = finished.predictor.model.task
    figures = [figure for figure in report_figures(task) if figure.applies(finished)]
    sections = []
    with stage(reporter, "making the report", len(figures)):
        for number, figure in enumerate(figures, 1):
            try:
                sections.append(page.section(figure.title, figure.compose(finished)))
            except UserError as error:
                sections.append(page.left_out(figure.title, error.line))
            except Exception as error:  # if one figure fails, the others are still made
                reporter.log(f"warning: the report has no figure {figure.title!r}: {one_line(error)}")
                sections.append(page.left_out(figure.title, one_line(error)))
            reporter.advance(number)
    return sections
