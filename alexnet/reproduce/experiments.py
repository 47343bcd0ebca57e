"""The trainings that claims need, cheapest first, each complete: what ``alexnet reproduce --run`` goes through.

A training is known by its name; what ``results/`` holds of it decides whether it is still missing, so a queue that was
stopped goes on where it stopped, and within a training from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alexnet.config import Recipe, override
from alexnet.core.errors import UserError
from alexnet.recipes import get_recipe
from alexnet.reproduce.claims import STATEMENTS, get_statement
from alexnet.reproduce.finding import Results


@dataclass(frozen=True)
class Experiment:
    """A training to be measured. ``minutes``: what a seed costs on two CPU cores with bf16, about."""

    name: str
    minutes: float
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: str = ""  # where the name is not the recipe's own
    changes: tuple[str, ...] = ()

    def build(self) -> Recipe:
        """The recipe, under this training's name."""
        return replace(override(get_recipe(self.recipe or self.name), self.changes), name=self.name)


_EXPERIMENTS = (
    Experiment("small-digits", 0.2),
    Experiment("lenet5-fashion-mnist", 1),
    Experiment("small-fashion-mnist-quick", 1),
    Experiment("fig1-relu", 10),
    Experiment("fig1-tanh", 10),
    Experiment("torchvision-cifar10", 45, seeds=(0,)),
    Experiment("cuda-convnet-cifar10-18pct", 60, seeds=(0,)),
    Experiment("keras-cifar10", 80, seeds=(0,)),
    Experiment("d2l-fashion-mnist", 110, seeds=(0,)),
    Experiment("cuda-convnet-cifar10-13pct", 300, seeds=(0,)),
    Experiment("cuda-convnet-cifar10-11pct", 480, seeds=(0,)),
)

EXPERIMENTS = {experiment.name: experiment for experiment in sorted(_EXPERIMENTS, key=lambda item: item.minutes)}


def needed(claims: Sequence[str], results: Results, *, missing: bool) -> list[Experiment]:
    """The experiments that claims (none: all of them) read, cheapest first; with ``missing`` only the unmeasured.

    Raises ``UserError`` for a claim that does not exist or that no training answers.
    """
    names = set(EXPERIMENTS)
    if claims:
        names = {training for claim in claims for training in get_statement(claim).trainings} & names
        if not names:
            answered = [name for name, item in STATEMENTS.items() if set(item.trainings) & set(EXPERIMENTS)]
            raise UserError(f"no training answers {', '.join(claims)}: those that one does are {', '.join(answered)}")
    return [item for name, item in EXPERIMENTS.items() if name in names and not (missing and results.runs(name))]
