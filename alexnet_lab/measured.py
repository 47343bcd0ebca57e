"""What ``alexnet list`` shows of the results: ``alexnet/recipes/measured.json``, a summary for each named recipe.

The library does not import the laboratory, so the laboratory writes this file (``python -m alexnet_lab.pages``), and a
test compares it with the results.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from alexnet.recipes import RECIPES
from alexnet.runtime.device import hardware_name
from alexnet_lab.experiments.registry import EXPERIMENTS
from alexnet_lab.results.reader import Results, Runs, divergence


def measured_recipes(results: Results) -> dict[str, dict[str, Any]]:
    """Recipe → its measured results.

    A recipe that was trained to its end has ``top1`` (``mean``, ``lowest``, ``highest``: shares of the test images),
    ``seeds``, ``seconds`` (median), ``machine``, ``precision``, ``matrix_gflops`` (the machine's rate of a 4096³
    product) and ``as_expected``: whether the mean lies in the range of the recipe's claim, None without one. Any other
    recipe has ``diverged`` (a sentence, or empty) and ``shortened``: the ``top1`` and ``seeds`` of shorter trainings by
    name.
    """
    return {name: _measured(name, results) for name in RECIPES}


def _measured(name: str, results: Results) -> dict[str, Any]:
    runs = results.runs(name)
    if not runs:
        shortened = [e.name for e in EXPERIMENTS.values() if e.recipe == name and results.runs(e.name)]
        return {
            "diverged": divergence(results, name),
            "shortened": {training: _accuracy(results.runs(training)) for training in shortened},
        }
    accuracy, expected = _accuracy(runs), RECIPES[name].claim.top1
    return {
        **accuracy,
        "seconds": round(statistics.median(run["seconds"] for run in runs), 1),
        "machine": hardware_name(runs[0]["hardware"]),
        "precision": runs[0]["hardware"]["precision"],
        "matrix_gflops": round(statistics.median(run["matrix_gflops"] for run in runs)),
        "as_expected": None if expected is None else expected[0] <= accuracy["top1"]["mean"] <= expected[1],
    }


def _accuracy(runs: Runs) -> dict[str, Any]:
    top1: Sequence[float] = [run["top1"] for run in runs]
    summary = {"mean": statistics.mean(top1), "lowest": min(top1), "highest": max(top1)}
    return {"top1": {name: round(share, 6) for name, share in summary.items()}, "seeds": len(runs)}
