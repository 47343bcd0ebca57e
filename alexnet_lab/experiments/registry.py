"""The trainings that claims and tables need: what ``alexnet reproduce --run`` goes through.

A training is known by its name; what ``results/`` holds of it decides whether it is still missing, so a queue that was
stopped goes on where it stopped, and within a training from its last checkpoint. A GPU is asked for more than a CPU:
more seeds, and the trainings that take a CPU days.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alexnet.config import Recipe, differences, override
from alexnet.core.errors import UserError
from alexnet.recipes import RECIPES, get_recipe
from alexnet.runtime.run import Run
from alexnet_lab.experiments.ablations import ABLATIONS, BASE

RUNS = Path("runs") / "reproduce"
Device = Literal["cpu", "cuda"]
STEPS = "torchvision-cifar10-400-steps"
STEPS_NORMALIZED = f"{STEPS}-batch-norm"
STEPS_FIXED = "torchvision-cifar10-fixed-400-steps"
STEPS_FP32 = f"{STEPS}-fp32"
WHOLE_NORMALIZED = "torchvision-cifar10-batch-norm"
TIMES_LONGER, LONGER = 5, "-longer"
FIRST_EPOCHS = 3  # of an ImageNet training
KERNEL_EPOCHS = 12  # until its first kernels have a form
NONE: tuple[int, ...] = ()
ONE, THREE, FIVE = (0,), (0, 1, 2), (0, 1, 2, 3, 4)
FIGURE_1_RATES = {  # until the best is not the largest
    "relu": ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2"),
    "tanh": ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1"),
}


@dataclass(frozen=True)
class Experiment:
    """A training to be measured. ``minutes``: what a seed costs on two CPU cores with bf16, about.

    ``seeds``: by kind of device; none where it is not asked for.
    """

    name: str
    minutes: float
    cpu_seeds: tuple[int, ...] = THREE
    cuda_seeds: tuple[int, ...] = THREE
    recipe: str = ""  # where the name is not the recipe's own
    changes: tuple[str, ...] = ()

    def build(self) -> Recipe:
        """The recipe, under this training's name."""
        return replace(override(get_recipe(self.recipe or self.name), self.changes), name=self.name)

    def seeds(self, device: Device) -> tuple[int, ...]:
        """The seeds asked for on a kind of device."""
        return self.cpu_seeds if device == "cpu" else self.cuda_seeds

    def cost(self, device: Device) -> float:
        """Minutes that all seeds asked for would take on two CPU cores, by which a queue is ordered on any device."""
        return self.minutes * len(self.seeds(device))


def _figure_1_choices() -> list[Experiment]:
    """The rates that figure 1's two units choose from, on held-out images."""
    return [
        Experiment(f"fig1-{unit}-rate-{lr}", 1, ONE, NONE, f"fig1-{unit}", (f"optim.lr={lr}", "train.epochs=6"))
        for unit, rates in FIGURE_1_RATES.items()
        for lr in rates
    ]


def _ablations() -> list[Experiment]:
    """The base and every ablation: for a GPU, five times as long too."""
    changes = {BASE: (), **{name: ablation.changes for name, ablation in ABLATIONS.items()}}
    short = [Experiment(name, 3, recipe=BASE, changes=change) for name, change in changes.items()]
    longer = f"train.epochs={TIMES_LONGER * get_recipe(BASE).train.epochs}"
    return [
        *short,
        *(Experiment(e.name + LONGER, TIMES_LONGER * 3, NONE, THREE, BASE, (*e.changes, longer)) for e in short),
    ]


def _shortened(percent: str, minutes: float) -> Experiment:
    """A four-layer net of §3.3 for 30 epochs instead of hundreds; its drops at the same shares."""
    name = f"cuda-convnet-cifar10-{percent}pct"
    recipe = get_recipe(name)
    milestones = ",".join(f"{30 * gamma / recipe.train.epochs:.4g}" for gamma in recipe.optim.milestones)
    return Experiment(
        f"{name}-30-epochs", minutes, ONE, NONE, name, ("train.epochs=30", f"optim.milestones={milestones}")
    )


def _on_tiny_imagenet(
    variant: str, minutes: float, cpu_seeds: tuple[int, ...] = ONE, epochs: int = FIRST_EPOCHS
) -> Experiment:
    """An ImageNet training begun on the largest set at hand: crops of 56 pixels, enlarged to what its layers need."""
    changes = ("data.source=tiny-imagenet", "data.image_size=64", "augment.crop=56", f"train.epochs={epochs}")
    longer = "" if epochs == FIRST_EPOCHS else f"-{epochs}-epochs"
    return Experiment(f"{variant}-tiny-imagenet{longer}", minutes, cpu_seeds, THREE, f"{variant}-imagenet", changes)


def _half_on_tiny_imagenet() -> Experiment:
    """The paper's one-card net, which keeps conv5 and the hidden layers whole: §3.2's own comparison, for a GPU."""
    two_columns = _on_tiny_imagenet("paper", 6, NONE)
    changes = ("model.variant=paper-half", *two_columns.changes)
    return replace(two_columns, name="paper-half-tiny-imagenet", changes=changes)


def _wider(recipe: str, width: float, epochs: int) -> Experiment:
    """One of the best networks with more filters and more epochs, for a GPU; its settings were tried nowhere."""
    changes = (f"model.width={width}", f"train.epochs={epochs}")
    return Experiment(f"{recipe}-wide", 600, NONE, THREE, recipe, changes)


_EXPERIMENTS = (
    Experiment("small-digits", 0.2),
    Experiment("lenet5-fashion-mnist", 0.7),
    Experiment("small-fashion-mnist-fast", 0.6),
    Experiment("small-fashion-mnist-quick", 1.2),
    *_figure_1_choices(),
    *_ablations(),
    Experiment(STEPS, 4, FIVE, FIVE, "torchvision-cifar10", ("train.steps=400",)),
    Experiment(STEPS_FP32, 9, ONE, NONE, "torchvision-cifar10", ("train.steps=400", "train.precision=fp32")),
    Experiment(
        STEPS_NORMALIZED, 5, THREE, FIVE, "torchvision-cifar10",
        ("train.steps=400", "model.norm_layer=batch"),
    ),
    Experiment(
        STEPS_FIXED, 4, NONE, THREE, "torchvision-cifar10-fixed", ("train.steps=400",)
    ),
    Experiment(
        "fashion-mnist-28-pixels", 10, ONE, THREE, "d2l-fashion-mnist",
        ("model.variant=small", "model.norm_layer=absent", "data.image_size=28"),
    ),
    Experiment(  # its rate is constant: two epochs are the first two of ten, and are held against those
        "fashion-mnist-65-pixels", 3, ONE, THREE, "d2l-fashion-mnist", ("data.image_size=65", "train.epochs=2")
    ),
    Experiment("small-fashion-mnist-best", 6),
    Experiment("fig1-relu", 7),
    Experiment("fig1-tanh", 7),
    Experiment("small-cifar10-best", 13, ONE),
    _shortened("13", 10),
    _shortened("11", 13),
    Experiment("small-tiny-imagenet-best", 16, ONE),
    _on_tiny_imagenet("paper", 10),
    _on_tiny_imagenet("cuda-convnet", 3),
    _half_on_tiny_imagenet(),
    _on_tiny_imagenet("one-tower", 2),
    _on_tiny_imagenet("cuda-convnet", 10, epochs=KERNEL_EPOCHS),
    _on_tiny_imagenet("one-tower", 8, epochs=KERNEL_EPOCHS),
    Experiment(
        "keras-cifar10-64-pixels", 4, ONE, NONE, "keras-cifar10", ("data.image_size=64", "train.epochs=1")
    ),
    _wider("small-fashion-mnist-best", 3, 40),
    _wider("small-cifar10-best", 4, 100),
    _wider("small-tiny-imagenet-best", 4, 60),
    Experiment("torchvision-cifar10", 37, ONE, FIVE),
    Experiment(WHOLE_NORMALIZED, 45, NONE, THREE, "torchvision-cifar10", ("model.norm_layer=batch",)),
    Experiment("torchvision-cifar10-fixed", 37, NONE),
    Experiment("cuda-convnet-cifar10-18pct", 60, NONE),
    Experiment("keras-cifar10", 80, NONE),
    Experiment("d2l-fashion-mnist", 90, ONE),
    Experiment("cuda-convnet-cifar10-13pct", 300, NONE),
    Experiment("cuda-convnet-cifar10-11pct", 480, NONE),
)  # fmt: skip

EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def recipe_named(name: str) -> Recipe | None:
    """Today's recipe of a name: a recipe's own, or an experiment's; None for any other name."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name].build()
    return RECIPES.get(name)


def run_folder(recipe: Recipe, device: Device, seed: int, *, again: bool) -> Path:
    """Where a seed is trained: where it was begun, or where it was finished unless it is wanted ``again``, else anew.

    A run by other settings than the recipe has today stays as it is.
    """
    for number in range(1, 1000):
        folder = RUNS / device / (f"{recipe.name}-{seed}" + (f"-{number}" if number > 1 else ""))
        run = Run(folder)
        if not (folder / "run.json").exists():
            return folder
        if not differences(recipe, run.recipe) and not (run.finished and again):
            return folder
    raise UserError(f"{RUNS / device} holds a thousand runs of {recipe.name}: remove some")
