"""Statements about single ingredients, each read off the trainings without it (see ``ablations.py``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.reproduce.ablations import ABLATIONS, BASE
from alexnet.reproduce.effects import divergence, effect
from alexnet.reproduce.finding import Finding, Results, at_this_scale, unmeasured

SIGNIFICANT = 0.05
INDICES = ("colour", "orientation")


def ablation(*names: str) -> tuple[str, ...]:
    """The trainings that a statement about these ablations reads."""
    return BASE, *names


def response_normalization(results: Results) -> Finding:
    """C20: response normalization hardly matters in practice."""
    return _effects(results, "ablate-normalization", "ablate-normalization-slower")


def augmentation(results: Results) -> Finding:
    """C24: augmentation improves generalization."""
    return _effects(results, "ablate-crops-and-flips", "ablate-colour-noise")


def overlap_and_columns(results: Results) -> Finding:
    """C25: overlapping pools gain 0.4 points, two columns 1.7 over a net of half the kernels.

    The paper's half net keeps conv5 and the hidden layers whole; here everything is halved.
    """
    return _effects(results, "ablate-overlap", "ablate-half", "ablate-columns")


def _effects(results: Results, *names: str) -> Finding:
    found = {name: value for name in names if (value := effect(results, name))}
    lost = {name: text for name in names if (text := divergence(results, name))}
    base = effect(results, BASE)
    lacking = [name for name in names if name not in found and name not in lost]
    if lacking or base is None:
        return unmeasured(lacking or [BASE])
    parts = [f"{ABLATIONS[name].what}: {found.get(name) or lost[name]}" for name in names]
    fitted = ", ".join(f"{value.fitted:.1%}" for value in found.values())
    measured = (
        f"test accuracy, with 95 % intervals over {len(base.top1)} seeds; {'; '.join(parts)}; accuracy on train "
        f"{base.fitted:.1%} with everything, {fitted}"
    )
    seen = bool(lost) or any(value.seen for value in found.values())
    verdict = at_this_scale("; ".join(parts) if seen else "no effect to be seen")
    return Finding(measured, verdict, results.evidence(*ablation(*names)))


def columns_specialise(results: Results) -> Finding:
    """C19: one column sees orientation, the other colour.

    In each seed's first layer: do the columns' kernels differ by more than if they were dealt to columns at random?
    The control is the same network undivided, its kernels cut in two.
    """
    kernels = {name: [run["kernels"] for run in results.runs(name) if "kernels" in run] for name in COLUMNS}
    if lacking := [name for name, some in kernels.items() if not some]:
        return unmeasured(lacking)
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
    return Finding("; ".join(parts), at_this_scale("; ".join(words)), results.evidence(*COLUMNS))


COLUMNS = {BASE: "two columns", "ablate-columns": "halves of an undivided layer"}


def _means(kernels: Sequence[Mapping[str, Any]], index: str) -> str:
    """Both halves' mean index, over seeds, the larger one of each seed first."""
    pairs = [sorted((item[index]["first"], item[index]["second"]), reverse=True) for item in kernels]
    larger, smaller = (statistics.mean(pair[place] for pair in pairs) for place in (0, 1))
    return f"{larger:.2f} and {smaller:.2f}"
