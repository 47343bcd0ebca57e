"""Statements about single ingredients, each read off the trainings without it (see ``ablations.py``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.recipes import get_recipe
from alexnet_lab.claims.claim_result import ClaimResult, Results, at_this_scale, divergence, unmeasured
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.experiments.effects import effect

SIGNIFICANT = 0.05
INDICES = ("colour", "orientation")


def ablation(*names: str) -> tuple[str, ...]:
    """The trainings that a statement about these ablations reads."""
    return BASE, *names


def response_normalization(results: Results) -> ClaimResult:
    """C20: response normalization hardly matters in practice."""
    remark = (
        ". The base takes pixels of 0 … 255, so at its rate normalization is also what keeps the scale in bounds. "
        "On ImageNet the authors' logs have errors of 42.0 and 19.4 % without any (148), 40.7 and 18.2 % with (145), "
        "and, by another schedule, 40.5 and 18.1 % without the second layer's (167)"
    )
    return _effects(results, "ablate-normalization", "ablate-normalization-slower", remark=remark)


def augmentation(results: Results) -> ClaimResult:
    """C24: augmentation improves generalization."""
    return _effects(results, "ablate-crops-and-flips", "ablate-colour-noise")


def overlap_and_columns(results: Results) -> ClaimResult:
    """C25: overlapping pools gain 0.4 points, two columns 1.7 over a net of half the kernels."""
    remark = ". The paper's half net keeps conv5 and the hidden layers whole (145-half); here every layer is halved"
    return _effects(results, "ablate-overlap", "ablate-half", "ablate-columns", remark=remark)


def _effects(results: Results, *names: str, remark: str = "") -> ClaimResult:
    found = {name: value for name in names if (value := effect(results, name))}
    lost = {name: text for name in names if (text := divergence(results, name))}
    base = effect(results, BASE)
    lacking = [name for name in names if name not in found and name not in lost]
    if lacking or base is None:
        needed = dict.fromkeys([*lacking, *(ABLATIONS[name].base for name in lacking), BASE])
        return unmeasured(results, results.lacking(needed) or lacking)
    parts = [f"{ABLATIONS[name].what}: {found.get(name) or lost[name]}" for name in names]
    measured = (
        f"test accuracy {results.images(BASE)}, with 95 % intervals over {len(base.top1)} seeds of "
        f"{get_recipe(BASE).train.epochs} epochs; {'; '.join(parts)}"
    )
    seen = bool(lost) or any(value.seen for value in found.values())
    verdict = at_this_scale(("" if seen else "no effect to be seen: ") + "; ".join(parts))
    return ClaimResult(f"{measured}{remark}", verdict, results.evidence(*ablation(*names)))


def columns_specialise(results: Results) -> ClaimResult:
    """C19: one column sees orientation, the other colour.

    In each seed's first layer: do the columns' kernels differ by more than if they were dealt to columns at random?
    The control is the same network undivided, its kernels cut in two.
    """
    if lacking := [name for name in COLUMNS if not _kernels(results, name)]:
        return unmeasured(results, lacking)
    shown = COLUMNS | {name: what for name, what in LARGE_COLUMNS.items() if _kernels(results, name)}
    parts, words = [], []
    for name, what in shown.items():
        kernels = _kernels(results, name)
        counts = {index: sum(item[index]["p"] < SIGNIFICANT / len(INDICES) for item in kernels) for index in INDICES}
        parts += [f"{what}, {index} {_means(kernels, index)}" for index in INDICES]
        differ = " and ".join(f"{index} in {counts[index]}" for index in INDICES)
        words.append(f"{what} differ in {differ} of {len(kernels)} seeds")
    measured = f"{'; '.join(parts)}; {results.images(*shown)}"
    return ClaimResult(measured, at_this_scale("; ".join(words)), results.evidence(*shown))


def _kernels(results: Results, name: str) -> list[Mapping[str, Any]]:
    """What was measured of the first layer of each seed."""
    return [run["kernels"] for run in results.runs(name) if "kernels" in run]


COLUMNS = {BASE: "two columns", "ablate-columns": "halves of an undivided layer"}
LARGE_COLUMNS = {  # 96 kernels of 11 × 11, as the document speaks of
    "cuda-convnet-tiny-imagenet-12-epochs": "two columns of the authors' network",
    "one-tower-tiny-imagenet-12-epochs": "halves of the retelling's one tower",
}


def _means(kernels: Sequence[Mapping[str, Any]], index: str) -> str:
    """Both halves' mean index, over seeds, the larger one of each seed first."""
    pairs = [sorted((item[index]["first"], item[index]["second"]), reverse=True) for item in kernels]
    larger, smaller = (statistics.mean(pair[place] for pair in pairs) for place in (0, 1))
    return f"{larger:.2f} and {smaller:.2f}"
