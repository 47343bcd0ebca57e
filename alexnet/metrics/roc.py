"""ROC curves of one class against the others: AUC, an operating point, sensitivity and specificity, with intervals.

The AUC is the probability that a positive image has a higher score than a negative one, ties counted half (Hanley and
McNeil 1982). Where each unit is one image, its 95 % interval is that of DeLong, DeLong and Clarke-Pearson, "Comparing
the areas under two or more correlated receiver operating characteristic curves: a nonparametric approach", Biometrics
44 (1988), pp. 837-845, from midranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014), and those of sensitivity
and specificity are Wilson's (``intervals.py``). DeLong's variance of an AUC of 0 or 1 is 0, so there the interval is
Wilson's for as many images as the smaller of the two groups has.

Several images of one patient are not independent. Then all three intervals are percentiles of a bootstrap that draws
patients, not images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Rutter, Academic
Radiology 7, 2000, for clusters).

An operating point is a score from which on an image counts as positive. It must be chosen on other images than
those on which it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alexnet.core.randomness import derive_key, uniform
from alexnet.metrics.intervals import CONFIDENCE, accuracy_interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rule = Literal["youden", "sensitivity"]

RESAMPLES = 2000
TOGETHER = 50  # resamples whose random numbers are drawn at a time
CURVE_POINTS = 200  # of a curve that is kept; more are thinned out
RELIABILITY_BINS = 10


@dataclass(frozen=True)
class Interval:
    """A share, 0 … 1, with its 95 % interval; None for one that no image determines."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """As values for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def auc(scores: Floats, positive: Bools, weights: Floats | None = None) -> float:
    """The area under the ROC curve, 0 … 1, of ``scores`` ``(n,)``; ``positive`` ``(n,)``; ``weights`` ``(n,)`` ≥ 0.

    NaN without a positive or without a negative image.
    """
    _, place = np.unique(scores, return_inverse=True)
    return _weighted_auc(place, positive, np.ones(len(scores)) if weights is None else weights)


def _weighted_auc(place: NDArray[np.int64], positive: Bools, weights: Floats) -> float:
    """:func:`auc` from the rank of each score among the different ones."""
    ones = np.bincount(place, weights * positive)
    zeros = np.bincount(place, weights * ~positive)
    pairs = ones.sum() * zeros.sum()
    lower = np.cumsum(zeros) - zeros
    return float((ones * (lower + zeros / 2)).sum() / pairs) if pairs else np.nan


def delong(scores: Floats, positive: Bools) -> tuple[float, float]:
    """The AUC and DeLong's estimate of its variance, which is NaN with fewer than two images of either kind."""
    ones, zeros = scores[positive], scores[~positive]
    m, n = len(ones), len(zeros)
    joint, own_ones, own_zeros = _midranks(np.concatenate([ones, zeros])), _midranks(ones), _midranks(zeros)
    of_ones, of_zeros = (joint[:m] - own_ones) / n, 1 - (joint[m:] - own_zeros) / m
    if m < 2 or n < 2:
        return float(of_ones.mean()), np.nan
    return float(of_ones.mean()), float(of_ones.var(ddof=1) / m + of_zeros.var(ddof=1) / n)


def _midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values have the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], np.float64)


def curve(scores: Floats, positive: Bools) -> tuple[Floats, Floats, Floats]:
    """The ROC curve: false positive rate, sensitivity, and the threshold of each point, ``(k,)``, from (0, 0) on."""
    thresholds, place = np.unique(scores, return_inverse=True)
    ones, zeros = np.bincount(place, positive), np.bincount(place, ~positive)
    hits, alarms = np.cumsum(ones[::-1]), np.cumsum(zeros[::-1])
    return (
        np.append(0.0, alarms / max(alarms[-1], 1)), np.append(0.0, hits / max(hits[-1], 1)),
        np.append(np.inf, thresholds[::-1]),
    )  # fmt: skip


def choose_threshold(scores: Floats, positive: Bools, rule: Rule, target: float) -> float | None:
    """The operating point: the score from which on an image counts as positive. Of equally good ones, the highest.

    ``youden``: the largest sensitivity + specificity (Youden 1950). ``sensitivity``: the most specific one with a
    sensitivity of ``target`` or more. None without a positive or without a negative image.
    """
    if positive.all() or not positive.any():
        return None
    alarms, hits, thresholds = curve(scores, positive)
    if rule == "youden":
        return float(thresholds[1 + np.argmax((hits - alarms)[1:])])
    return float(thresholds[np.flatnonzero(hits >= target - 1e-12)[0]])


@dataclass(frozen=True)
class OperatingPoint:
    """``decided`` ``(n,)``: which images count as positive. ``threshold``: the score from which on they do."""

    threshold: float
    decided: Bools


def measure(
    scores: Floats, positive: Bools, units: NDArray[Any], point: OperatingPoint | None, seed: int
) -> dict[str, Any]:
    """AUC, sensitivity and specificity with their intervals, the curve and the calibration, as values for JSON.

    ``scores`` ``(n,)``: probabilities of the positive class; ``positive`` ``(n,)``; ``units`` ``(n,)``: equal for
    images of one patient; ``point``: None if none could be chosen; ``seed``: of the bootstrap.
    """
    decided = np.zeros(len(scores), np.bool_) if point is None else point.decided
    names, number = np.unique(units, return_inverse=True)
    by_patient = len(names) < len(scores)
    shares = (
        _resampled(scores, positive, decided, number, seed) if by_patient else _independent(scores, positive, decided)
    )
    alarms, hits, _ = curve(scores, positive)
    some = np.unique(np.linspace(0, len(hits) - 1, min(CURVE_POINTS, len(hits))).round().astype(np.int64))
    return {
        "positives": int(positive.sum()), "negatives": int((~positive).sum()), "auc": shares[0].to_json(),
        "threshold": None if point is None else point.threshold,
        "sensitivity": None if point is None else shares[1].to_json(),
        "specificity": None if point is None else shares[2].to_json(),
        "curve": {"false_positive_rate": alarms[some].tolist(), "sensitivity": hits[some].tolist()},
        "reliability": _reliability(scores, positive),
        "bootstrap": by_patient, "units": len(names),
    }  # fmt: skip


def _independent(scores: Floats, positive: Bools, decided: Bools) -> tuple[Interval, Interval, Interval]:
    """AUC, sensitivity and specificity of independent images."""
    hit, passed = int(decided[positive].sum()), int((~decided[~positive]).sum())
    return (
        _delong_interval(scores, positive),
        _share(hit, int(positive.sum())),
        _share(passed, int((~positive).sum())),
    )


def _delong_interval(scores: Floats, positive: Bools) -> Interval:
    from scipy.stats import norm  # here, as in intervals.py

    smaller = min(int(positive.sum()), int((~positive).sum()))
    if not smaller:
        return Interval(None, None, None)
    value, variance = delong(scores, positive)
    if value in (0.0, 1.0):
        return Interval(value, *accuracy_interval(smaller * int(value), smaller))
    if np.isnan(variance):
        return Interval(value, None, None)
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _share(right: int, images: int) -> Interval:
    return Interval(right / images, *accuracy_interval(right, images)) if images else Interval(None, None, None)


def _resampled(
    scores: Floats, positive: Bools, decided: Bools, number: NDArray[np.int64], seed: int
) -> tuple[Interval, Interval, Interval]:
    """AUC, sensitivity and specificity, with percentiles over ``RESAMPLES`` draws of the patients ``number`` ``(n,)``.

    Draws without a positive or without a negative image do not count.
    """
    count = int(number.max()) + 1
    _, place = np.unique(scores, return_inverse=True)

    def shares(weights: Floats) -> tuple[float, float, float]:
        ones, zeros = weights * positive, weights * ~positive
        if not (ones.sum() and zeros.sum()):
            return np.nan, np.nan, np.nan
        return _weighted_auc(place, positive, weights), float(ones @ decided / ones.sum()), float(
            zeros @ ~decided / zeros.sum()
        )  # fmt: skip

    key, rows = derive_key(seed, "roc bootstrap"), []
    for block in range(RESAMPLES // TOGETHER):
        (chosen,) = uniform(key, block, np.arange(TOGETHER * count), 1)
        drawn = (chosen * count).astype(np.int64).reshape(TOGETHER, count)
        rows += [shares(np.bincount(each, minlength=count)[number].astype(np.float64)) for each in drawn]
    found = np.array(rows)
    tail = 50 * (1 - CONFIDENCE)
    whole, counted = shares(np.ones(len(scores))), found[~np.isnan(found[:, 0])]
    if np.isnan(whole[0]) or not len(counted):
        return (Interval(None, None, None),) * 3
    low, high = np.percentile(counted, (tail, 100 - tail), axis=0)
    first, second, third = (Interval(*map(float, each)) for each in zip(whole, low, high, strict=True))
    return first, second, third


def _reliability(scores: Floats, positive: Bools) -> dict[str, list[float]]:
    """Images, mean score and share of positives in bins of equal width, for those with images."""
    place = np.clip((scores * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
    images = np.bincount(place, minlength=RELIABILITY_BINS)
    filled = images > 0
    sums = (np.bincount(place, each, RELIABILITY_BINS)[filled] / images[filled] for each in (scores, positive))
    means, shares = sums
    return {"images": images[filled].tolist(), "score": means.tolist(), "positives": shares.tolist()}
