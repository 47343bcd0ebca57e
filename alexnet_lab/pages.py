"""Writes all pages and tables of results: run ``python -m alexnet_lab.pages`` in a checkout.

``docs/claims.md`` and ``docs/paper.md`` are written whole. Tables of ``README.md``, ``docs/results.md``,
``docs/speed.md``, ``docs/reliability.md``, ``docs/verify.md``, ``docs/transfer.md``, ``docs/instances.md`` and
``docs/devices.md`` are written between two comments, ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.
``alexnet/recipes/measured.json`` is what ``alexnet list`` shows. A test fails if any of them differs from the results.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.config import Recipe
from alexnet.core.errors import UserError
from alexnet.core.files import json_text, write_bytes
from alexnet.core.schema import from_json
from alexnet.plots.curves import plot_training_errors
from alexnet.recipes import RECIPES
from alexnet.report.tables import markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab import instances, transfer
from alexnet_lab.bench import devices
from alexnet_lab.bench.speeds import in_full, side_by_side
from alexnet_lab.claims.claim_result import ClaimResult, Statement
from alexnet_lab.claims.effects import ablation_rows, effect, ensemble_effect, views_effect
from alexnet_lab.claims.paper_sections import STATEMENTS as PAPER_STATEMENTS
from alexnet_lab.claims.registry import STATEMENTS
from alexnet_lab.claims.report import Checked, check, full_sources
from alexnet_lab.claims.training_claims import shares
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.registry import EXPERIMENTS, LONGER, TIMES_LONGER
from alexnet_lab.measured import measured_recipes
from alexnet_lab.results.reader import (
    FAULTS,
    FAULTS_OF_PROCESSES,
    Results,
    Runs,
    divergence,
    file_name,
    main_measures,
)
from alexnet_lab.verification import kept

README, SPEED, RELIABILITY = Path("README.md"), Path("docs/speed.md"), Path("docs/reliability.md")
VERIFY = Path("docs/verify.md")
TRANSFER, INSTANCES = Path("docs/transfer.md"), Path("docs/instances.md")
DEVICES_PAGE = Path("docs/devices.md")
CLAIMS, PAPER, RESULTS_PAGE = Path("docs/claims.md"), Path("docs/paper.md"), Path("docs/results.md")
FIGURE_1, MEASURED = Path("docs/figure1.png"), Path("alexnet/recipes/measured.json")
RESULTS, ABLATIONS_TABLE, TRAININGS, SPEEDS = "results", "ablations", "trainings", "speeds"  # names of tables
IN_README = (
    "small-digits", "small-fashion-mnist-quick", "d2l-fashion-mnist", "small-cifar10-best", "torchvision-cifar10",
    "small-tiny-imagenet-best",
)  # fmt: skip
AVERAGES = {"ten views": views_effect, "ensembles": ensemble_effect}
GENERATED = "This page is generated from `alexnet_lab/results/` by `python -m alexnet_lab.pages`."
PAPER_INTRODUCTION = f"""\
Krizhevsky, Sutskever and Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, NIPS 2012. Each row
is a statement of the paper that code can implement, with the code, the test that checks it, and the measured figures.
"Authors' code" is the code that the Computer History Museum released in 2025, with the network `layers-145.cfg`; here
it is the variant `cuda-convnet`. Files are in `alexnet/`. C1 to C34 are sections of [Claims](claims.md). {GENERATED}"""
CLAIMS_INTRODUCTION = f"""\
This page lists what tutorials and the paper claim about AlexNet, and what was measured here. A verdict is *supported*,
*not supported*, *corrected* (a part of the claim is right, or another figure is right), *inconclusive at this scale*
(the measurements here cannot decide it) or *pending* (not measured yet). `alexnet reproduce` prints these verdicts,
`alexnet reproduce C5` prints one of them, and `alexnet reproduce --run --missing` runs the trainings that have no
results yet. {GENERATED}"""


def results_table(results: Results, names: Sequence[str] = ()) -> str:
    """A row for each results file of a named recipe with finished runs; only the newest of ``names`` if given."""
    files = [value for _, value in results.files() if value["recipe"]["name"] in RECIPES and value["runs"]]
    if names:
        newest = {value["recipe"]["name"]: value for value in files}
        files = [newest[name] for name in names if name in newest]
    head = (
        "recipe",
        "images",
        "test top-1, mean (lowest – highest)",
        "seeds",
        "expected",
        "seconds",
        "images/s",
        "machine",
    )
    return markdown_table(head, [_result_row(value) for value in files])


def _result_row(value: Mapping[str, Any]) -> tuple[str, ...]:
    recipe, runs = from_json(Recipe, value["recipe"]), value["runs"]
    expected = RECIPES[recipe.name].claim.top1  # of the current recipe, because the text of a claim may have changed
    shares, words = main_measures(runs)
    spread = f" ({min(shares):.2%} – {max(shares):.2%})" if len(runs) > 1 else ""
    rate = statistics.median(run["matrix_gflops"] for run in runs)
    return (
        f"`{recipe.name}`",
        value["source"] + (f"; {value['note']}" if value["note"] else ""),
        f"{statistics.mean(shares):.2%}{words}{spread}",
        str(len(runs)),
        "–" if expected is None else " – ".join(f"{100 * share:g}%" for share in expected),
        f"{statistics.median(run['seconds'] for run in runs):,.0f}",
        f"{statistics.median(run['images_per_second'] for run in runs):,.0f}",
        f"{hardware_name(runs[0]['hardware'])}, {runs[0]['hardware']['precision']}, {rate:,.0f} GFLOP/s",
    )


def faults_table(results: Results, what: str = FAULTS) -> str:
    """The newest results of fault injection of a kind; empty if there are none."""
    if (found := results.bench(what)) is None:
        return ""
    path, value = found
    rows = [(t["what"], f"{t['trials']:,}", f"{len(t['failures']):,}", t["remark"]) for t in value["trials"]]
    table = markdown_table(("fault", "trials", "failures", "remark"), rows)
    return f"{table}\n\nFrom `{file_name(path)}`, on {hardware_name(value['hardware'])}."


def claims_page(results: Results) -> str:
    """``docs/claims.md``: an overview, and a section for each claim."""
    checked = check(list(STATEMENTS.values()), results)
    counts = Counter(result.verdict for _, result in checked)
    totals = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    overview = markdown_table(
        ("claim", "statement", "verdict"), [(s.id, s.statement, result.verdict) for s, result in checked]
    )
    parts = ["# Claims", CLAIMS_INTRODUCTION, f"Of {len(checked)} claims: {totals}.", overview]
    return "\n\n".join([*parts, *(_claim_section(*item) for item in checked)]) + "\n"


def _claim_section(statement: Statement, result: ClaimResult) -> str:
    parts = [f"## {statement.id} {statement.statement}", f"**{result.verdict}**"]
    if result.figure:
        parts[-1] += f" · {result.figure}"
    if result.reason:
        parts.append(result.reason)
    parts.append(
        f"* Source: {full_sources(statement)}\n* Claimed: {statement.claimed}\n* Measured: {result.measured}\n"
        f"* Evidence: {_evidence(result)}"
    )
    if result.details:
        parts.append(f"```text\n{result.details}\n```")
    return "\n\n".join(parts)


def _evidence(result: ClaimResult) -> str:
    """The evidence, formatted as code if it is a command or a list of files."""
    is_code = result.evidence.startswith(("alexnet ", "alexnet_lab/")) and ";" not in result.evidence
    return ", ".join(f"`{part}`" for part in result.evidence.split(", ")) if is_code else result.evidence


def paper_page(results: Results) -> str:
    """``docs/paper.md``: the paper by section."""
    checked = dict(_by_id(check(list(STATEMENTS.values()), results)))
    head = ("section", "statement", "recipe, field or file", "test", "measured", "authors' code")
    rows = [
        (s.section, s.statement, s.where, s.tests, _measured(s.measured_by, checked, results), s.authors_code)
        for s in PAPER_STATEMENTS
    ]
    parts = ["# The paper, section by section", PAPER_INTRODUCTION, markdown_table(head, rows)]
    if all(figure_1_runs(results).values()):
        parts.append("![Training error of ReLU and tanh by epoch, as in figure 1 of the paper](figure1.png)")
    return "\n\n".join(parts) + "\n"


def _by_id(checked: Sequence[Checked]) -> Iterable[tuple[str, ClaimResult]]:
    return ((statement.id, result) for statement, result in checked)


def _measured(names: Iterable[str], checked: Mapping[str, ClaimResult], results: Results) -> str:
    """A cell of the paper's table: verdicts of claims, effects of ablations, and outcomes of other trainings."""
    parts = []
    for name in names:
        if name in checked:
            reason = f" ({checked[name].reason.removesuffix('.')})" if checked[name].reason else ""
            parts.append(f"{name}: {checked[name].in_short}{reason}")
        elif name in ABLATIONS:
            if found := effect(results, name):
                parts.append(f"{ABLATIONS[name].what}: {found}")
        elif name in AVERAGES:
            parts += [text for training in RECIPES if (text := AVERAGES[name](results, training))]
        elif runs := results.runs(name):
            losses = " ".join(f"{line['train_loss']:.2f}" for line in runs[0]["epochs"])
            parts.append(f"`{name}`: training loss by epoch {losses}, test {shares([run['top1'] for run in runs])}")
    return "; ".join(parts) or "–"


def ablation_tables(results: Results) -> str:
    """The ablations: the short ones, and the longer ones if they were measured; empty without results."""
    parts = []
    for suffix, title in (("", ""), (LONGER, f"### {TIMES_LONGER} times as long")):
        if not (rows := ablation_rows(results, suffix)):
            continue
        runs = results.runs(BASE + suffix)
        epochs = EXPERIMENTS[BASE + suffix].build().train.epochs
        about = (
            f"The base is `{BASE}`: {epochs} epochs of CIFAR-10 (JPEG), {len(runs)} seeds, on "
            f"{hardware_name(runs[0]['hardware'])}. Each row changes one thing. All trainings use the same number of "
            "images, so they take different times. A difference is the mean over pairs of trainings with the same "
            "seed, with a 95 % confidence interval. The accuracy on the training images was measured during the last "
            "epoch, with augmentation and dropout, so it cannot be compared with the test accuracy. Seconds are "
            "medians; other programs ran during some trainings."
        )
        head = ("changed", "paper", "test top-1, mean (lowest – highest)", "difference", "train top-1", "seconds")
        parts += [*([title] if title else []), about, markdown_table(head, rows)]
    return "\n\n".join(parts)


def trainings_table(results: Results) -> str:
    """The other trainings: recipes that were shortened, or changed to answer a question; empty without results."""
    ablations = {f"{name}{suffix}" for name in (BASE, *ABLATIONS) for suffix in ("", LONGER)}
    rows = []
    for name, experiment in EXPERIMENTS.items():
        runs = results.runs(name)
        if name in RECIPES or name in ablations or not (runs or results.diverged(name)):
            continue
        top1 = shares([run["top1"] for run in runs]) if runs else divergence(results, name)
        seconds = f"{statistics.median(run['seconds'] for run in runs):,.0f}" if runs else "–"
        machine = hardware_name((runs or results.diverged(name))[0]["hardware"])
        changes = ", ".join(f"`{change}`" for change in experiment.changes)
        note = f"; {text}" if (text := results.note(name)) else ""
        rows.append((f"`{name}`", f"`{experiment.recipe or name}` with {changes}{note}", top1, seconds, machine))
    head = ("training", "recipe and changes", "test top-1", "seconds", "machine")
    return markdown_table(head, rows) if rows else ""


def figure_1_runs(results: Results) -> dict[str, Runs]:
    """The measured runs of figure 1, by activation."""
    return {activation: results.runs(f"fig1-{activation.lower()}") for activation in ("ReLU", "tanh")}


def tables(results: Results) -> dict[Path, dict[str, str]]:
    """Page → name of a table → the table."""
    benches = results.benches()
    faults = [FAULTS, *([FAULTS_OF_PROCESSES] if results.bench(FAULTS_OF_PROCESSES) else [])]  # not measured at first
    speeds = f"## All machines\n\n{side_by_side(benches)}\n\n## Every figure\n\n{in_full(benches)}" if benches else ""
    return {
        README: {RESULTS: results_table(results, IN_README)},
        RESULTS_PAGE: {
            RESULTS: results_table(results),
            ABLATIONS_TABLE: ablation_tables(results),
            TRAININGS: trainings_table(results),
        },
        SPEED: {SPEEDS: speeds},
        RELIABILITY: {what: faults_table(results, what) for what in faults},
        VERIFY: kept.tables(results),
        TRANSFER: transfer.tables(results),
        INSTANCES: instances.tables(results),
        DEVICES_PAGE: {devices.DEVICES: devices.page_table(results)},
    }


def measured_json(results: Results) -> str:
    """The content of ``alexnet/recipes/measured.json``."""
    return json_text(measured_recipes(results), indent=1) + "\n"


def write_pages(root: Path) -> None:
    """Write all pages of the checkout at ``root`` from its results.

    Raises ``UserError`` if a page does not have the comments for its table.
    """
    results = Results(root / "alexnet_lab" / "results")
    for page, named in tables(results).items():
        text = (root / page).read_text(encoding="utf-8") if (root / page).is_file() else ""
        for name, table in named.items():
            text = between(text, name, table, page)
        write_bytes(root / page, text.encode())
    write_bytes(root / CLAIMS, claims_page(results).encode())
    write_bytes(root / PAPER, paper_page(results).encode())
    write_bytes(root / MEASURED, measured_json(results).encode())
    instances.draw_picture(results, root / instances.PICTURE)
    transfer.draw_picture(results, root / transfer.PICTURE)
    if all((runs := figure_1_runs(results)).values()):
        plot_training_errors(runs, root / FIGURE_1)


def between(text: str, name: str, content: str, page: Path) -> str:
    """``text`` of a page with ``content`` between the two comments of ``name``. Raises ``UserError`` without them."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{page} has no place for its table {name}: add the lines {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def write_in_checkout(write: Callable[[Path], None]) -> int:
    """Call ``write`` with the root of the checkout that this package is in; returns the exit status."""
    root = Path(__file__).parents[1]
    try:
        if not (root / ".git").exists():
            raise UserError(
                "the pages can only be written in a checkout of the project, and this package is not in one: clone the "
                "project"
            )
        write(root)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(write_in_checkout(write_pages))
