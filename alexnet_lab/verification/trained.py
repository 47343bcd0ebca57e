"""One network of each recipe that trains in five minutes: ``alexnet verify`` must call it trained and whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.analysis.verify import verify_weights
from alexnet.analysis.verify_report import VerifyReport
from alexnet.api import train
from alexnet.core.files import read_json, write_json
from alexnet.recipes import get_recipe
from alexnet.runtime.device import resolve_device
from alexnet_lab.measured import measured_recipes
from alexnet_lab.results.reader import Results, results_folder
from alexnet_lab.results.records import circumstances

Row = dict[str, Any]
LONGEST, RATE = 300.0, 700.0
"""Seconds of training, on a machine with this many GFLOP/s in a 4096³ product."""


def short_recipes() -> list[str]:
    """The recipes whose measured training takes at most ``LONGEST`` seconds on a machine of ``RATE`` GFLOP/s."""
    return [
        name
        for name, found in measured_recipes(Results(results_folder())).items()
        if "seconds" in found and found["seconds"] * found["matrix_gflops"] / RATE <= LONGEST
    ]


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a network was called trained, without a fault."""
    return row["training"] == "trained" and not row["faults"]


def verdict_row(report: VerifyReport) -> Row:
    """What a report says of a network, as JSON."""
    return {"training": report.training, "faults": list(report.faults), "summary": report.summary}


def verify_trained(
    recipes: Sequence[str], folder: Path, *, seed: int = 0, sources: Mapping[str, str] | None = None,
    data_root: Path | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Train each recipe in ``folder/RECIPE-seed-N`` and verify its model; yields a row for each.

    ``sources``: recipe → its images, if they are others than the recipe's. The row is written beside the run; a recipe
    whose row is there is not trained again, and an interrupted training is resumed. Raises ``UserError`` as ``train``.
    """
    place = circumstances(resolve_device("cpu", "fp32"))
    for name in recipes:
        file = folder / f"{name}-seed-{seed}.json"
        if not file.exists():
            out = file.with_suffix("")
            run = train(get_recipe(name), data=(sources or {}).get(name), out=out, seed=seed, device="cpu",
                        data_root=data_root)  # fmt: skip
            result = run.result
            figures = {key: result[key] for key in ("top1", "steps", "seconds", "matrix_gflops")}
            row = {"recipe": name, "seed": seed, "source": result["source"], **figures}
            write_json(file, {**row, **verdict_row(verify_weights(run.folder)), **place})
        yield read_json(file)
