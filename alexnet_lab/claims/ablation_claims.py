"""Statements about single ingredients. Their checks read the ablations (``alexnet_lab/experiments/ablations.py``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.recipes import get_recipe
from alexnet_lab.claims.claim_result import INCONCLUSIVE, ClaimResult, unmeasured
from alexnet_lab.claims.effects import effect
from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.results.reader import Results, divergence

SIGNIFICANT = 0.05
INDICES = ("colour", "orientation")
DROPOUT = "ablate-dropout"
RANDOM_COLOUR = 2 / 3  # the mean colour index of random kernels: of three independent directions, two are colour


def with_base(*names: str) -> tuple[str, ...]:
    """The trainings that a statement about these ablations reads."""
    return BASE, DROPOUT, *names


def response_normalization(results: Results) -> ClaimResult:
    """C20: local response normalization hardly matters in practice."""
    remark = (
        ". The base has pixels on the scale 0 … 255, so at its learning rate LRN also keeps activations bounded. On "
        "ImageNet the authors' logs have errors of 42.0 and 19.4 % without LRN (log 148), 40.7 and 18.2 % with it (log "
        "145), and, with another schedule, 40.5 and 18.1 % without LRN in the second layer (log 167)"
    )
    return _effects(results, "ablate-normalization", "ablate-normalization-slower", remark=remark)


def augmentation(results: Results) -> ClaimResult:
    """C24: augmentation improves generalization."""
    return _effects(results, "ablate-crops-and-flips", "ablate-colour-noise")


def overlap_and_columns(results: Results) -> ClaimResult:
    """C25: overlapping pools gain 0.4 points, two columns 1.7 points over a network with half the kernels."""
    remark = (
        ". The paper's half-size network keeps conv5 and the hidden layers at full width (log 145-half); here every "
        "layer has half the width"
    )
    return _effects(results, "ablate-overlap", "ablate-half", "ablate-columns", remark=remark)


def _effects(results: Results, *names: str, remark: str = "") -> ClaimResult:
    found = {name: value for name in names if (value := effect(results, name))}
    lost = {name: text for name in names if (text := divergence(results, name))}
    base = effect(results, BASE)
    lacking = [name for name in names if name not in found and name not in lost]
    if lacking or base is None:
        needed = dict.fromkeys([*lacking, *(ABLATIONS[name].base for name in lacking), BASE])
        return unmeasured(results, results.missing(needed) or lacking)
    figure = "; ".join(f"{ABLATIONS[name].what}: {found.get(name) or lost[name]}" for name in names)
    epochs = get_recipe(BASE).train.epochs
    measured = (
        f"test accuracy {results.images(BASE)}, with 95 % intervals over {len(base.top1)} seeds of {epochs} epochs; "
        f"{figure}{remark}"
    )
    reason = (
        f"The base network still underfits after {epochs} epochs: its accuracy on the training images is "
        f"{base.train_top1:.0%}{_gain_without_dropout(results)}. So an ingredient that reduces overfitting, or that "
        "helps a fully trained network, may have no visible effect here."
    )
    return ClaimResult(INCONCLUSIVE, measured, results.evidence(*with_base(*names)), figure, reason)


def _gain_without_dropout(results: Results) -> str:
    found = effect(results, DROPOUT)
    return "" if found is None else f", and it gains {100 * found.difference:.1f} points on test without dropout"


def columns_specialise(results: Results) -> ClaimResult:
    """C19: one column's kernels specialise in orientation, the other's in colour.

    For the first layer of each seed: do the columns' kernels differ by more than random halves of the same kernels? The
    control is a network with one column, whose kernels are split in two.
    """
    if lacking := [name for name in COLUMNS if not _kernels(results, name)]:
        return unmeasured(results, lacking)
    shown = COLUMNS | {name: what for name, what in LARGE_COLUMNS.items() if _kernels(results, name)}
    parts, counted = [], []
    for name, what in shown.items():
        kernels = _kernels(results, name)
        counts = {index: sum(item[index]["p"] < SIGNIFICANT / len(INDICES) for item in kernels) for index in INDICES}
        parts += [f"{what}, {index} {_means(kernels, index)}" for index in INDICES]
        differ = " and ".join(f"{index} in {counts[index]}" for index in INDICES)
        counted.append(f"{what} differ in {differ} of {len(kernels)} seed{'s' if len(kernels) > 1 else ''}")
    colours = [share for name in COLUMNS for item in _kernels(results, name) for share in _halves(item, "colour")]
    reason = (
        f"The kernels of the small network on CIFAR-10 have a colour index of {min(colours):.2f} to "
        f"{max(colours):.2f}, and random kernels have {RANDOM_COLOUR:.2f}, so they cannot be distinguished from "
        "random initial values. The networks with larger kernels were trained with one seed each."
    )
    measured = f"{'; '.join(parts)}; {results.images(*shown)}"
    return ClaimResult(INCONCLUSIVE, measured, results.evidence(*shown), "; ".join(counted), reason)


def _kernels(results: Results, name: str) -> list[Mapping[str, Any]]:
    """What was measured about the first layer of each seed."""
    return [run["kernels"] for run in results.runs(name) if "kernels" in run]


COLUMNS = {BASE: "two columns", "ablate-columns": "halves of an undivided layer"}
LARGE_COLUMNS = {  # 96 kernels of 11 × 11, which the claim is about
    "cuda-convnet-tiny-imagenet-12-epochs": "two columns of the authors' network",
    "one-tower-tiny-imagenet-12-epochs": "halves of the one-column network",
}


def _halves(item: Mapping[str, Any], index: str) -> tuple[float, float]:
    return item[index]["first"], item[index]["second"]


def _means(kernels: Sequence[Mapping[str, Any]], index: str) -> str:
    """The mean index of both halves over seeds, the larger one of each seed first."""
    pairs = [sorted(_halves(item, index), reverse=True) for item in kernels]
    larger, smaller = (statistics.mean(pair[place] for pair in pairs) for place in (0, 1))
    return f"{larger:.2f} and {smaller:.2f}"
