"""Statements about single ingredients, each read off the trainings without it (see ``ablations.py``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.reproduce.ablations import ABLATIONS, BASE
from alexnet.reproduce.effects import effect
from alexnet.reproduce.finding import Finding, Results, at_this_scale, divergence, unmeasured

SIGNIFICANT = 0.05
INDICES = ("colour", "orientation")


def ablation(*names: str) -> tuple[str, ...]:
    """The trainings that a statement about these ablations reads."""
    return BASE, *names


def response_normalization(results: Results) -> Finding:
    """C20: response normalization hardly matters in practice."""
    remark = (
        ". The base takes pixels of 0 … 255, so at its rate normalization is also what keeps the scale in bounds. "
        "On ImageNet the authors' logs have errors of 42.0 and 19.4 % without any (148), 40.7 and 18.2 % with (145), "
        "and 40.5 and 18.1 % without the second layer's (167)"
    )
    return _effects(results, "ablate-normalization", "ablate-normalization-slower", remark=remark)


def augmentation(results: Results) -> Finding:
    """C24: augmentation improves generalization."""
    return _effects(results, "ablate-crops-and-flips", "ablate-colour-noise")


def overlap_and_columns(results: Results) -> Finding:
    """C25: overlapping pools gain 0.4 points, two columns 1.7 over a net of half the kernels."""
    remark = ". The paper's half net keeps conv5 and the hidden layers whole (145-half); here every layer is halved"
    return _effects(results, "ablate-overlap", "ablate-half", "ablate-columns", remark=remark)


def _effects(results: Results, *names: str, remark: str = "") -> Finding:
    found = {name: value for name in names if (value := effect(results, name))}
    lost = {name: text for name in names if (text := divergence(results, name))}
    base = effect(results, BASE)
    lacking = [name for name in names if name not in found and name not in lost]
    if lacking or base is None:
        needed = dict.fromkeys([*lacking, *(ABLATIONS[name].base for name in lacking), BASE])
        return unmeasured(results, results.lacking(needed) or lacking)
    parts = [f"{ABLATIONS[name].what}: {found.get(name) or lost[name]}" for name in names]
    fitted = ", ".join(f"{value.fitted:.1%}" for value in found.values())
    measured = (
        f"test accuracy {results.images(BASE)}, with 95 % intervals over {len(base.top1)} seeds; {'; '.join(parts)}; "
        f"accuracy on train {base.fitted:.1%} with everything, {fitted}"
    )
    if base.fitted < statistics.mean(base.top1):
        measured += ", so nothing overfits within this budget, and what an ingredient does against it cannot show"
    seen = bool(lost) or any(value.seen for value in found.values())
    verdict = at_this_scale(("" if seen else "no effect to be seen: ") + "; ".join(parts))
    return Finding(f"{measured}{remark}", verdict, results.evidence(*ablation(*names)))


def columns_specialise(results: Results) -> Finding:
    """C19: one column sees orientation, the other colour.

    In each seed's first layer: do the columns' kernels differ by more than if they were dealt to columns at random?
    The control is the same network undivided, its kernels cut in two.
    """
    kernels = {name: [run["kernels"] for run in results.runs(name) if "kernels" in run] for name in COLUMNS}
    if lacking := [name for name, some in kernels.items() if not some]:
        return unmeasured(results, lacking)
    parts, counts = [], {}
    for name, what in COLUMNS.items():
        for index in INDICES:
            counts[name, index] = sum(item[index]["p"] < SIGNIFICANT / len(INDICES) for item in kernels[name])
            parts.append(f"{what}, {index} {_means(kernels[name], index)}")
    seeds = {name: len(some) for name, some in kernels.items()}
    words = []
    for name, what in COLUMNS.items():
        differ = " and ".join(f"{index} in {counts[name, index]}" for index in INDICES)
        words.append(f"{what} differ in {differ} of {seeds[name]} seeds")
    measured = f"{'; '.join(parts)}; {results.images(*COLUMNS)}"
    return Finding(measured, at_this_scale("; ".join(words)), results.evidence(*COLUMNS))


COLUMNS = {BASE: "two columns", "ablate-columns": "halves of an undivided layer"}


def _means(kernels: Sequence[Mapping[str, Any]], index: str) -> str:
    """Both halves' mean index, over seeds, the larger one of each seed first."""
    pairs = [sorted((item[index]["first"], item[index]["second"]), reverse=True) for item in kernels]
    larger, smaller = (statistics.mean(pair[place] for pair in pairs) for place in (0, 1))
    return f"{larger:.2f} and {smaller:.2f}"
