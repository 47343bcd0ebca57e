"""Learning rate schedules: the learning rate as a function of the step and of the validation errors so far.

A schedule has no state, so resuming needs only the step number and the list of errors. Constant, step and plateau were
used in 2012; plateau is described in the paper (§5: "divide the learning rate by 10 when the validation error rate
stopped improving"). Cosine is from Loshchilov and Hutter (2016), one-cycle from Smith and Topin (2017). Poly, with the
power 2 and after a linear warm-up, is that of trainings with large batches (You, Gitman and Ginsburg,
arXiv:1708.03888, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet.config import OptimSpec

BIAS_DROP = 10.0
MOST_DROPS = 3  # the paper's learning rate "was reduced three times prior to termination"
START = 1 / 25  # first learning rate of one-cycle, as a share of its peak: torch's div_factor
POWER = 2  # of poly
FLOOR = START / 1e4  # its last learning rate: torch's final_div_factor


def learning_rate(spec: OptimSpec, step: int, total_steps: int, steps_per_epoch: int, errors: Sequence[float]) -> float:
    """The learning rate of step ``step``, 0 … ``total_steps`` − 1.

    ``errors``: the validation error, 0 … 1, after each evaluation so far, oldest first; only ``plateau`` uses it.
    """
    match spec.schedule:
        case "constant":
            return spec.lr
        case "step":
            return spec.lr / (1 / spec.gamma) ** sum(step >= epoch * steps_per_epoch for epoch in spec.milestones)
        case "plateau":
            return spec.lr / (1 / spec.gamma) ** min(plateaus(errors, spec.patience), MOST_DROPS)
        case "one-cycle":
            return spec.lr * one_cycle(step, total_steps, spec.warmup)
        case "cosine":
            return spec.lr * warm_cosine(step, total_steps, spec.warmup)
        case "poly":
            return spec.lr * warm_poly(step, total_steps, spec.warmup)


def bias_learning_rate(spec: OptimSpec, lr: float, epoch: float) -> float:
    """The learning rate of the biases at ``epoch`` (1.5 is the middle of the second); ``lr``: that of the weights."""
    if spec.bias_milestones is None:
        return lr * spec.bias_lr_mult
    return spec.lr * spec.bias_lr_mult / BIAS_DROP ** sum(epoch >= drop for drop in spec.bias_milestones)


def plateaus(errors: Sequence[float], patience: int) -> int:
    """How many times the error had no new minimum for ``patience`` evaluations; after each time, counting restarts."""
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
    """The one-cycle learning rate as a share of its peak.

    It rises as half a cosine from ``START`` to 1 over the share ``warmup`` of the steps, and falls as half a cosine to
    ``FLOOR`` at the last step. It equals ``torch.optim.lr_scheduler.OneCycleLR`` with ``pct_start=warmup``, including
    the peak one step early.
    """
    if total == 1:
        return 1.0
    peak = warmup * total - 1
    if step < peak:
        return _half_cosine(START, 1.0, step / peak)
    return _half_cosine(1.0, FLOOR, (step - peak) / (total - 1 - peak))


def warm_cosine(step: int, total: int, warmup: float) -> float:
    """The cosine learning rate as a share of its peak.

    It rises linearly over the share ``warmup`` of the steps, then falls as half a cosine to 0 at step ``total``.
    """
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return _half_cosine(1.0, 0.0, (step - rise) / (total - rise))


def warm_poly(step: int, total: int, warmup: float) -> float:
    """The polynomial learning rate as a share of its peak.

    It rises linearly over the share ``warmup`` of the steps, then falls as (1 − t)² to 0 at step ``total``.
    """
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return float((1 - (step - rise) / (total - rise)) ** POWER)


def _half_cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` at ``share`` 0 to ``end`` at ``share`` 1."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)
