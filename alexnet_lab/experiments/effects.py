"""What an ingredient is worth: a training with and without it, seed by seed.

Two trainings of one seed share the order of the images, their draws and the test images, so the differences of pairs
are looked at (Student's t): their mean and the interval that holds the true one with 95 % confidence.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t

from alexnet_lab.claims.claim_result import Results, divergence
from alexnet_lab.experiments.ablations import ABLATIONS, BASE

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """``top1``: test accuracy of each seed, a share; ``first_difference``: how far it lies above the base's in the mean,
    ``reach`` either way with 95 % confidence; ``fitted``: the mean accuracy on train in the last epoch, as it went
    (augmented, with dropout); ``seconds``: of a training, the median.
    """

    top1: tuple[float, ...]
    fitted: float
    seconds: float
    first_difference: float
    reach: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves out no difference at all."""
        return abs(self.first_difference) > self.reach

    def __str__(self) -> str:
        low, high = 100 * (self.first_difference - self.reach), 100 * (self.first_difference + self.reach)
        return f"{100 * self.first_difference:+.1f} points ({low:+.1f} to {high:+.1f})" + (
            "" if self.seen else ", unclear"
        )


def effect(results: Results, name: str, suffix: str = "") -> Effect | None:
    """How an ablation differs from its base in test accuracy; None unless one kind of device trained two seeds by both.

    ``suffix``: behind the names of both, ``LONGER`` for the longer trainings. Of two kinds that did, the GPU.
    """
    base = ABLATIONS[name].base if name in ABLATIONS else BASE
    for device in ("cuda", "cpu"):
        runs, others = ({run["seed"]: run for run in results.runs(each + suffix, device)} for each in (name, base))
        if len(seeds := sorted(runs.keys() & others.keys())) >= 2:
            break
    else:
        return None
    differences = [runs[seed]["top1"] - others[seed]["top1"] for seed in seeds]
    error = statistics.stdev(differences) / math.sqrt(len(seeds))
    return Effect(
        top1=tuple(runs[seed]["top1"] for seed in seeds),
        fitted=statistics.mean(runs[seed]["epochs"][-1]["train_top1"] for seed in seeds),
        seconds=statistics.median(runs[seed]["seconds"] for seed in seeds),
        first_difference=statistics.mean(differences),
        reach=float(t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * error,
    )


def views_effect(results: Results, training: str) -> str:
    """What ten views are worth to a training: accuracies in points, a mean over seeds; empty if it was not counted."""
    pairs = [(run["one_view"]["top1"], run["top1"]) for run in results.runs(training) if "one_view" in run]
    if not pairs:
        return ""
    one, ten = (statistics.mean(column) for column in zip(*pairs, strict=True))
    return f"`{training}`: {ten:.2%} with ten views, {one:.2%} with one, {len(pairs)} seed(s)"


def ensemble_effect(results: Results, training: str) -> str:
    """What averaging a training's seeds is worth; empty if it was not counted."""
    if (together := results.ensemble(training)) is None:
        return ""
    exclusive_lock = [run["top1"] for run in results.runs(training)]
    return f"`{training}`: {together['top1']:.2%} by the average of {len(exclusive_lock)}, {statistics.mean(exclusive_lock):.2%} by one"


def ablation_rows(results: Results, suffix: str = "") -> list[tuple[str, ...]]:
    """What was changed, section, test accuracy with its range, difference from the base, accuracy on train, seconds.

    The first row is the base; what was not measured is left out.
    """
    named = {BASE: ("everything (the base)", "–"), **{name: (a.what, a.section) for name, a in ABLATIONS.items()}}
    rows: list[tuple[str, ...]] = []
    for name, (what, section) in named.items():
        lost = divergence(results, name + suffix)
        if (found := effect(results, name, suffix)) is None:
            rows += [(what, section, lost, "–", "–", "–")] if lost else []
            continue
        test = f"{statistics.mean(found.top1):.1%} ({min(found.top1):.1%} – {max(found.top1):.1%})"
        test += f"; {lost}" if lost else ""
        rows.append(
            (what, section, test, "–" if name == BASE else str(found), f"{found.fitted:.1%}", f"{found.seconds:,.0f}")
        )
    return rows
