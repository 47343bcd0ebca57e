"""What the project says of its measurements, written from ``results/``: ``docs/paper.md``, and the tables of the
README, of ``docs/speed.md`` and of ``docs/reliability.md``.

``python -m alexnet_lab.pages`` rewrites them, and the picture of figure 1. A test fails when they and
``results/`` drift apart.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alexnet.config import recipe_from_json
from alexnet.core.errors import UserError
from alexnet.core.files import write_bytes
from alexnet.plots.curves import plot_training_errors
from alexnet.recipes import RECIPES
from alexnet.report.tables import markdown_table
from alexnet.runtime.device import hardware_name
from alexnet_lab.bench.speeds import in_full, side_by_side
from alexnet_lab.claims.claim_result import ClaimResult, Results, Runs, divergence, project_root
from alexnet_lab.claims.paper import SENTENCES
from alexnet_lab.claims.registry import DOCUMENTS, STATEMENTS
from alexnet_lab.claims.training import shares
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.effects import ablation_rows, effect, ensemble_effect, views_effect
from alexnet_lab.experiments.registry import EXPERIMENTS, LONGER, TIMES_LONGER

README, PAPER, FIGURE_1 = Path("README.md"), Path("docs/paper.md"), Path("docs/figure1.png")  # in the checkout
INTRODUCTION = """\
Krizhevsky, Sutskever and Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, NIPS 2012: where
each sentence that can be code is code, what holds it to its word, and what came out. "What was run" is the authors'
code as the Computer History Museum released it in 2025, network `layers-145.cfg`, which here is the variant
`cuda-convnet`. Files are below `alexnet/`; C1 to C34 are the claims of the second table. This page is written from
`results/` by `python -m alexnet_lab.pages`."""
AVERAGES = {"ten views": views_effect, "ensembles": ensemble_effect}  # what the paper averages over, by training
SPEED, RELIABILITY = Path("docs/speed.md"), Path("docs/reliability.md")
RESULTS, SPEEDS, ENDURANCE = "results", "speeds", "endurance"  # tables, each between <!-- results: begin --> and end


def results_table(results: Results) -> str:
    """The README's table: a row for each measurement of a named recipe that was trained to its end."""
    rows = [_result_row(value) for _, value in results.files() if value["recipe"]["name"] in RECIPES and value["runs"]]
    head = ("recipe, on", "test top-1, mean (lowest – highest) of seeds", "expected", "seconds", "images/s", "where")
    return markdown_table(head, rows)


def endurance_table(results: Results) -> str:
    """What the newest full set of endurance trials came to; empty before there is one."""
    if (found := results.comparison("endurance")) is None:
        return ""
    path, value = found
    rows = [(t["what"], f"{t['trials']:,}", f"{len(t['failures']):,}", t["remark"]) for t in value["trials"]]
    table = markdown_table(("what", "trials", "not survived", ""), rows)
    return f"{table}\n\nFrom `results/{path.name}`, on {hardware_name(value['hardware'])}."


def _result_row(value: dict[str, Any]) -> tuple[str, ...]:
    recipe, runs = recipe_from_json(value["recipe"]), value["runs"]
    claim = RECIPES[recipe.name].claim  # today's words for the same training
    top1 = [run["top1"] for run in runs]
    evenly_spaced = f" ({min(top1):.2%} – {max(top1):.2%})" if len(runs) > 1 else ""
    rate = statistics.median(run["matrix_gflops"] for run in runs)
    return (
        f"`{recipe.name}`, {value['source']}" + (f", {value['note']}" if value["note"] else ""),
        f"{statistics.mean(top1):.2%}{evenly_spaced}, {len(runs)} seed{'s' if len(runs) > 1 else ''}",
        "–" if claim.top1 is None else " – ".join(f"{100 * share:g}%" for share in claim.top1),
        f"{statistics.median(run['seconds'] for run in runs):,.0f}",
        f"{statistics.median(run['images_per_second'] for run in runs):,.0f}",
        f"{hardware_name(runs[0]['hardware'])}, {runs[0]['hardware']['precision']}, {rate:,.0f} GFLOP/s",
    )


def paper_page(results: Results) -> str:
    """``docs/paper.md``: the paper by section, every claim of the documents, and the ablations."""
    findings = {name: statement.check(results) for name, statement in STATEMENTS.items()}
    parts = [
        "# The paper, section by section",
        INTRODUCTION,
        markdown_table(
            ("section", "what it says", "recipe, field or file", "test", "measured", "what was run"),
            [
                (s.section, s.says, s.where, s.held_by, _measured(s.measured_by, findings, results), s.ran)
                for s in SENTENCES
            ],
        ),
        *(["![training error of figure 1's two nets](figure1.png)"] if all(figure_1_nets(results).values()) else []),
        "## What is said of AlexNet",
        "Each checkable statement of the source documents. `alexnet reproduce C5` prints one with its figures; "
        "`alexnet reproduce --run --missing` trains what has no results yet. " + _documents(),
        markdown_table(
            ("", "says", "in", "claimed", "measured", "verdict", "evidence"),
            [
                (
                    name,
                    s.says,
                    s.source,
                    s.claimed,
                    findings[name].measured,
                    findings[name].verdict,
                    _code(findings[name]),
                )
                for name, s in STATEMENTS.items()
            ],
        ),
        *_ablations(results),
        *_derived(results),
    ]
    return "\n\n".join(parts) + "\n"


def _documents() -> str:
    return "; ".join(f"{name}: {what}" for name, what in DOCUMENTS.items()) + "."


def _code(finding: ClaimResult) -> str:
    """The evidence, as code where it is a command or a file."""
    is_code = finding.evidence.startswith(("alexnet ", "results/")) and ";" not in finding.evidence
    return ", ".join(f"`{part}`" for part in finding.evidence.split(", ")) if is_code else finding.evidence


def _measured(names: Iterable[str], findings: Mapping[str, ClaimResult], results: Results) -> str:
    """The verdicts of claims, the effects of ablations and how other trainings went, in a cell of a table."""
    parts = []
    for name in names:
        if name in findings:
            parts.append(f"{name}: {findings[name].verdict}")
        elif name in ABLATIONS:
            if found := effect(results, name):
                parts.append(f"{ABLATIONS[name].what}: {found}")
        elif name in AVERAGES:
            parts += [text for training in RECIPES if (text := AVERAGES[name](results, training))]
        elif runs := results.runs(name):
            losses = " ".join(f"{line['train_loss']:.2f}" for line in runs[0]["epochs"])
            parts.append(f"`{name}`: training loss by epoch {losses}, test {shares([run['top1'] for run in runs])}")
    return "; ".join(parts) or "–"


def _ablations(results: Results) -> list[str]:
    """The ablations' tables: the short ones, and where they were measured the longer ones."""
    parts = []
    for suffix, title in (("", "## One ingredient at a time"), (LONGER, f"### {TIMES_LONGER} times as long")):
        if not (rows := ablation_rows(results, suffix)):
            continue
        runs = results.runs(BASE + suffix)
        epochs = EXPERIMENTS[BASE + suffix].build().train.epochs
        about = (
            f"`{BASE}`: {epochs} epochs of CIFAR-10 (JPEG), {len(runs)} seeds, on {hardware_name(runs[0]['hardware'])}; "
            "each row changes what it says and nothing else, so that all see as many images, not as many seconds. "
            "Differences are of pairs of one seed, with 95 % intervals. Accuracy on train is the last epoch's as it "
            "went, augmented and with dropout, so it is not to be held against that on test. Seconds: the "
            "median; some ran beside other work."
        )
        head = ("changed", "paper", "test top-1, mean (lowest – highest)", "difference", "train top-1", "seconds")
        parts += [title, about, markdown_table(head, rows)]
    return parts


def _derived(results: Results) -> list[str]:
    """The table of trainings that are a named recipe's, shortened or changed to answer a question."""
    ablations = {f"{name}{suffix}" for name in (BASE, *ABLATIONS) for suffix in ("", LONGER)}
    rows = []
    for name, experiment in EXPERIMENTS.items():
        runs = results.runs(name)
        if name in RECIPES or name in ablations or not (runs or results.diverged(name)):
            continue
        top1 = shares([run["top1"] for run in runs]) if runs else divergence(results, name)
        seconds = f"{statistics.median(run['seconds'] for run in runs):,.0f}" if runs else "–"
        device_config = hardware_name((runs or results.diverged(name))[0]["hardware"])
        changes = ", ".join(f"`{change}`" for change in experiment.changes)
        note = f"; {text}" if (text := results.note(name)) else ""
        rows.append((f"`{name}`", f"`{experiment.recipe or name}` with {changes}{note}", top1, seconds, device_config))
    if not rows:
        return []
    about = "Recipes shortened to what a machine could give, or changed in one thing to answer a question."
    head = ("training", "what it is", "test top-1", "seconds", "where")
    return ["## Other trainings", about, markdown_table(head, rows)]


def figure_1_nets(results: Results) -> dict[str, Runs]:
    """The measured runs of figure 1, by unit."""
    return {unit: results.runs(f"fig1-{unit.lower()}") for unit in ("ReLU", "tanh")}


def write_pages(root: Path) -> None:
    """Write the pages of the checkout at ``root``, and the picture where its two nets were measured.

    Raises ``UserError`` where there is no place for the table.
    """
    results = Results(root / "results")
    tables = {
        README: {RESULTS: results_table(results), SPEEDS: side_by_side(results.benches())},
        SPEED: {SPEEDS: in_full(results.benches())},
        RELIABILITY: {ENDURANCE: endurance_table(results)},
    }
    for page, parts in tables.items():
        text = (root / page).read_text(encoding="utf-8") if (root / page).is_file() else ""
        for name, table in parts.items():
            text = between(text, name, table, page)
        write_bytes(root / page, text.encode())
    write_bytes(root / PAPER, paper_page(results).encode())
    if all((nets := figure_1_nets(results)).values()):
        plot_training_errors(nets, root / FIGURE_1)


def between(text: str, name: str, content: str, page: Path = README) -> str:
    """``text`` of a page with what stands between the comments of a name replaced.

    Raises ``UserError`` where they are not.
    """
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{page} has no place for its {name}: it needs the lines {begin} and {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


if __name__ == "__main__":
    try:
        write_pages(project_root())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
