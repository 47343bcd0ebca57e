"""The learning rate as a function of the step and of the validation errors so far, with no state of its own.

So resuming needs a step number and a list. Constant, step and plateau are the ways of 2012 (the last is what the paper
says, §5: "divide the learning rate by 10 when the validation error rate stopped improving"); cosine is Loshchilov and
Hutter's (2016), one-cycle Smith and Topin's (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet.config import OptimSpec

DROP = 10.0
MOST_DROPS = 3  # the paper's rate "was reduced three times prior to termination"
FLOOR = 1e-4  # where one-cycle ends, as a share of its peak
START = 0.04  # where one-cycle begins: 1/25 of its peak, Smith's and torch's choice


def learning_rate(spec: OptimSpec, step: int, total_steps: int, steps_per_epoch: int, errors: Sequence[float]) -> float:
    """The rate of step ``step`` (from 0) of ``total_steps``.

    ``errors``: the validation error after each evaluation so far, oldest first; only ``plateau`` reads it.
    """
    match spec.schedule:
        case "constant":
            return spec.rate
        case "step":
            return spec.rate / DROP ** sum(step >= drop * steps_per_epoch for drop in spec.drops)
        case "plateau":
            return spec.rate / DROP ** min(plateaus(errors, spec.patience), MOST_DROPS)
        case "one-cycle":
            return spec.rate * one_cycle(step, total_steps, spec.warmup)
        case "cosine":
            return spec.rate * warm_cosine(step, total_steps, spec.warmup)


def plateaus(errors: Sequence[float], patience: int) -> int:
    """How often the error went ``patience`` evaluations without a new minimum; each time the count starts again."""
    count, waited, best = 0, 0, math.inf
    for error in errors:
        if error < best:
            best, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            count, waited = count + 1, 0
    return count


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Half a cosine from ``START`` up to 1 over the share ``warmup``, half a cosine down to ``START · FLOOR`` after."""
    peak = warmup * total - 1
    if step < peak:
        return START + (1 - START) * _half_cosine(step / peak)
    low = START * FLOOR
    return low + (1 - low) * (1 - _half_cosine((step - peak) / max(1.0, total - 1 - peak)))


def warm_cosine(step: int, total: int, warmup: float) -> float:
    """A straight line up over the share ``warmup``, then half a cosine to 0 at ``total``."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / max(1.0, rise + 1)
    return 1 - _half_cosine((step - rise) / (total - rise))


def _half_cosine(share: float) -> float:
    """0 → 1 as ``share`` goes 0 → 1."""
    return (1 - math.cos(math.pi * min(share, 1.0))) / 2
