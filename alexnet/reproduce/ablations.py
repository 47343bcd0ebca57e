"""The paper's ingredients taken away one at a time, at one fixed budget, and what each was worth there.

All trainings are ``BASE`` with one field changed: same images, seeds, epochs and rate. So they say what an ingredient
does on small photographs within minutes, and nothing of what it does on 1.2 million large ones within a week; where
nothing shows at this scale, that is the result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet.reproduce.finding import Results

BASE = "small-cifar10-2012"


@dataclass(frozen=True)
class Ablation:
    """``what``: what is taken away or put in its place; ``section``: where the paper has it."""

    what: str
    section: str
    changes: tuple[str, ...]


ABLATIONS: Mapping[str, Ablation] = {
    "ablate-normalization": Ablation("no response normalization", "§3.3", ("model.normalization=none",)),
    "ablate-overlap": Ablation("pools that do not overlap (2 instead of 3)", "§3.4", ("model.pool_kernel=2",)),
    "ablate-columns": Ablation("one column, undivided", "§3.2", ("model.columns=1",)),
    "ablate-crops-and-flips": Ablation("neither shifts nor flips", "§4.1", ("augment.pad=0", "augment.flip=false")),
    "ablate-colour-noise": Ablation("no colour noise", "§4.1", ("augment.color_noise=none",)),
    "ablate-colour-noise-run": Ablation("colour noise as its text has it", "§4.1", ("augment.color_noise=paper",)),
    "ablate-dropout": Ablation("no dropout", "§4.2", ("model.dropout=0",)),
    "ablate-batch-norm": Ablation("batch normalization instead", "–", ("model.normalization=batch",)),
    "ablate-24-pixels": Ablation("shrunk to 24 pixels", "–", ("data.image_size=24",)),
    "ablate-48-pixels": Ablation("enlarged to 48 pixels", "–", ("data.image_size=48",)),
}


@dataclass(frozen=True)
class Effect:
    """Test accuracy over seeds, as shares, and how far its mean lies above the base's, with the standard error of that.

    ``fitted``: the mean accuracy on train in the last epoch, as it went.
    """

    top1: tuple[float, ...]
    fitted: float
    difference: float
    error: float

    @property
    def seen(self) -> bool:
        """Whether the difference is larger than twice its standard error."""
        return abs(self.difference) > 2 * self.error

    def __str__(self) -> str:
        words = "" if self.seen else ", within twice its standard error"
        return f"{100 * self.difference:+.1f} ± {100 * self.error:.1f} points{words}"


def effect(results: Results, name: str, base: str = BASE) -> Effect | None:
    """How a training differs from another one in test accuracy; None where either was not measured with two seeds."""
    runs, beside = results.runs(name), results.runs(base)
    if min(len(runs), len(beside)) < 2:
        return None
    top1, other = [run["top1"] for run in runs], [run["top1"] for run in beside]
    return Effect(
        tuple(top1),
        statistics.mean(run["epochs"][-1]["train_top1"] for run in runs),
        statistics.mean(top1) - statistics.mean(other),
        _standard_error(top1, other),
    )


def _standard_error(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the difference of two means, each of its own spread."""
    return math.sqrt(sum(statistics.variance(values) / len(values) for values in (one, other)))


def ablation_rows(results: Results) -> list[tuple[str, ...]]:
    """What was changed, section, test accuracy with its range, difference from the base, accuracy on train.

    The first row is the base; what was not measured is left out.
    """
    named = {BASE: ("everything (the base)", "–"), **{name: (a.what, a.section) for name, a in ABLATIONS.items()}}
    rows: list[tuple[str, ...]] = []
    for name, (what, section) in named.items():
        if (found := effect(results, name)) is None:
            continue
        test = f"{statistics.mean(found.top1):.1%} ({min(found.top1):.1%} – {max(found.top1):.1%})"
        rows.append((what, section, test, "–" if name == BASE else str(found), f"{found.fitted:.1%}"))
    return rows
