"""The learning rate as a function of the step and of the validation errors so far, with no state of its own.

So resuming needs a step number and a list. Constant, step and plateau are the ways of 2012 (the last is what the paper
says, §5: "divide the learning rate by 10 when the validation error rate stopped improving"); cosine is Loshchilov and
Hutter's (2016), one-cycle Smith and Topin's (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexnet.config import OptimSpec

BIAS_DROP = 10.0
MOST_DROPS = 3  # the paper's rate "was reduced three times prior to termination"
START = 1 / 25  # where one-cycle begins, as a share of its peak: torch's div_factor
FLOOR = START / 1e4  # where it ends: torch's final_div_factor


def learning_rate(spec: OptimSpec, step: int, total_steps: int, steps_per_epoch: int, errors: Sequence[float]) -> float:
    """The rate of step ``step``, from 0 to ``total_steps`` − 1.

    ``errors``: the validation error after each evaluation so far, oldest first; only ``plateau`` reads it.
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


def bias_learning_rate(spec: OptimSpec, rate: float, epoch: float) -> float:
    """The rate of the biases beside the weights' ``rate``, at ``epoch`` (1.5 is the middle of the second)."""
    if spec.bias_milestones is None:
        return rate * spec.bias_lr_mult
    return spec.lr * spec.bias_lr_mult / BIAS_DROP ** sum(epoch >= drop for drop in spec.bias_milestones)


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
    """Half a cosine from ``START`` up to 1 over the share ``warmup``, half a cosine down to ``FLOOR`` at the last step.

    To the letter ``torch.optim.lr_scheduler.OneCycleLR`` with ``pct_start=warmup``, whose peak is one step early.
    """
    if total == 1:
        return 1.0  # one step has no way up or down
    peak = warmup * total - 1
    if step < peak:
        return _half_cosine(START, 1.0, step / peak)
    return _half_cosine(1.0, FLOOR, (step - peak) / (total - 1 - peak))


def warm_cosine(step: int, total: int, warmup: float) -> float:
    """A straight line up over the share ``warmup``, then half a cosine to 0 at ``total``."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return _half_cosine(1.0, 0.0, (step - rise) / (total - rise))


def _half_cosine(start: float, end: float, share: float) -> float:
    """From ``start`` to ``end`` as ``share`` goes 0 → 1."""
    return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)
