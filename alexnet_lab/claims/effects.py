"""The effect of an ingredient on test accuracy: a training with and without it, seed by seed.

Two trainings of one seed share the order of the images, the random augmentations and the test images. So the
differences of pairs are used: their mean, and its 95 % confidence interval by Student's t.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t

from alexnet_lab.experiments.ablations import ABLATIONS, BASE
from alexnet_lab.results.reader import Results, divergence

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """``top1``: test accuracy of each seed, 0 … 1. ``train_top1``: mean accuracy on the training images, measured
    during the last epoch (augmented, with dropout). ``seconds``: median of the trainings. ``difference``: mean
    difference of test accuracy from the base; ``margin``: half the width of its 95 % interval.
    """

    top1: tuple[float, ...]
    train_top1: float
    seconds: float
    difference: float
    margin: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.difference) > self.margin

    def __str__(self) -> str:
        low, high = 100 * (self.difference - self.margin), 100 * (self.difference + self.margin)
        remark = "" if self.significant else ", not significant"
        return f"{100 * self.difference:+.1f} points ({low:+.1f} to {high:+.1f}){remark}"


def effect(results: Results, name: str, suffix: str = "") -> Effect | None:
    """How an ablation differs from its base in test accuracy; None unless two seeds of both were trained on one device.

    ``suffix``: appended to both names, ``LONGER`` for the longer trainings. Results of a GPU are preferred.
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
        train_top1=statistics.mean(runs[seed]["epochs"][-1]["train_top1"] for seed in seeds),
        seconds=statistics.median(runs[seed]["seconds"] for seed in seeds),
        difference=statistics.mean(differences),
        margin=float(t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * error,
    )


def views_effect(results: Results, training: str) -> str:
    """Accuracy with ten views and with one, means over the seeds of a training; empty if it was not measured."""
    pairs = [(run["one_view"]["top1"], run["top1"]) for run in results.runs(training) if "one_view" in run]
    if not pairs:
        return ""
    one, ten = (statistics.mean(column) for column in zip(*pairs, strict=True))
    return f"`{training}`: {ten:.2%} with ten views, {one:.2%} with one, {len(pairs)} seed(s)"


def ensemble_effect(results: Results, training: str) -> str:
    """Accuracy of the average of a training's seeds, and of one seed; empty if it was not measured."""
    if (averaged := results.ensemble(training)) is None:
        return ""
    single = [run["top1"] for run in results.runs(training)]
    return f"`{training}`: {averaged['top1']:.2%} by the average of {len(single)}, {statistics.mean(single):.2%} by one"


def ablation_rows(results: Results, suffix: str = "") -> list[tuple[str, ...]]:
    """Rows of a table: change, section, test accuracy with its range, difference from the base, train accuracy,
    seconds.

    The first row is the base. Ablations that were not measured are left out.
    """
    named = {BASE: ("nothing (the base)", "–"), **{name: (a.what, a.section) for name, a in ABLATIONS.items()}}
    rows: list[tuple[str, ...]] = []
    for name, (what, section) in named.items():
        lost = divergence(results, name + suffix)
        if (found := effect(results, name, suffix)) is None:
            rows += [(what, section, lost, "–", "–", "–")] if lost else []
            continue
        test = f"{statistics.mean(found.top1):.1%} ({min(found.top1):.1%} – {max(found.top1):.1%})"
        test += f"; {lost}" if lost else ""
        rows.append(
            (
                what,
                section,
                test,
                "–" if name == BASE else str(found),
                f"{found.train_top1:.1%}",
                f"{found.seconds:,.0f}",
            )
        )
    return rows
