"""The trainings that claims and tables need. ``alexnet reproduce --run`` runs them.

A training is missing if ``alexnet_lab/results/`` has no results under its name. So a stopped queue continues with the
next training, and a stopped training from its last checkpoint. A GPU runs more than a CPU: more seeds, and the
trainings that take days on a CPU.
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
FIRST_EPOCHS = 3  # of an ImageNet recipe
KERNEL_EPOCHS = 12  # by then the kernels of conv1 show patterns
NONE: tuple[int, ...] = ()
ONE, THREE, FIVE = (0,), (0, 1, 2), (0, 1, 2, 3, 4)
FIGURE_1_RATES = {  # extended until the best is not the largest
    "relu": ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2"),
    "tanh": ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1"),
}


@dataclass(frozen=True)
class Experiment:
    """A training to be measured. ``minutes``: approximate time of one seed on two CPU cores with bf16.

    ``cpu_seeds``, ``cuda_seeds``: seeds to train on a kind of device; empty: not on it. ``recipe``: name of the recipe,
    if it differs from ``name``. ``changes``: to the recipe, as ``section.field=value``.
    """

    name: str
    minutes: float
    cpu_seeds: tuple[int, ...] = THREE
    cuda_seeds: tuple[int, ...] = THREE
    recipe: str = ""
    changes: tuple[str, ...] = ()

    def build(self) -> Recipe:
        """The recipe, under this training's name."""
        return replace(override(get_recipe(self.recipe or self.name), self.changes), name=self.name)

    def seeds(self, device: Device) -> tuple[int, ...]:
        """The seeds to train on a kind of device."""
        return self.cpu_seeds if device == "cpu" else self.cuda_seeds

    def cost(self, device: Device) -> float:
        """Minutes that all seeds would take on two CPU cores. A queue is sorted by it, on any device."""
        return self.minutes * len(self.seeds(device))


def _figure_1_choices() -> list[Experiment]:
    """The learning rates of figure 1, from which each activation's is chosen by accuracy on held-out images."""
    return [
        Experiment(f"fig1-{unit}-rate-{lr}", 1, ONE, NONE, f"fig1-{unit}", (f"optim.lr={lr}", "train.epochs=6"))
        for unit, rates in FIGURE_1_RATES.items()
        for lr in rates
    ]


def _ablations() -> list[Experiment]:
    """The base and every ablation; on a GPU also five times as long."""
    changes = {BASE: (), **{name: ablation.changes for name, ablation in ABLATIONS.items()}}
    short = [Experiment(name, 3, recipe=BASE, changes=change) for name, change in changes.items()]
    longer = f"train.epochs={TIMES_LONGER * get_recipe(BASE).train.epochs}"
    return [
        *short,
        *(Experiment(e.name + LONGER, TIMES_LONGER * 3, NONE, THREE, BASE, (*e.changes, longer)) for e in short),
    ]


def _shortened(percent: str, minutes: float) -> Experiment:
    """A four-layer network of §3.3 for 30 epochs instead of hundreds, with milestones at the same fractions."""
    name = f"cuda-convnet-cifar10-{percent}pct"
    recipe = get_recipe(name)
    milestones = ",".join(f"{30 * epoch / recipe.train.epochs:.4g}" for epoch in recipe.optim.milestones)
    return Experiment(
        f"{name}-30-epochs", minutes, ONE, NONE, name, ("train.epochs=30", f"optim.milestones={milestones}")
    )


def _on_tiny_imagenet(
    variant: str, minutes: float, cpu_seeds: tuple[int, ...] = ONE, epochs: int = FIRST_EPOCHS
) -> Experiment:
    """The first epochs of an ImageNet recipe, on Tiny ImageNet: crops of 56 pixels, enlarged to 64 for its layers."""
    changes = ("data.source=tiny-imagenet", "data.image_size=64", "augment.crop=56", f"train.epochs={epochs}")
    longer = "" if epochs == FIRST_EPOCHS else f"-{epochs}-epochs"
    return Experiment(f"{variant}-tiny-imagenet{longer}", minutes, cpu_seeds, THREE, f"{variant}-imagenet", changes)


def _half_on_tiny_imagenet() -> Experiment:
    """The paper's one-card network, with conv5 and the hidden layers at full width (§3.2), on a GPU."""
    two_columns = _on_tiny_imagenet("paper", 6, NONE)
    changes = ("model.variant=paper-half", *two_columns.changes)
    return replace(two_columns, name="paper-half-tiny-imagenet", changes=changes)


def _wider(recipe: str, width: float, epochs: int) -> Experiment:
    """One of the best networks with more filters and more epochs, on a GPU; not tried yet."""
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
        ("model.variant=small", "model.norm_layer=none", "data.image_size=28"),
    ),
    Experiment(  # its learning rate is constant, so two epochs compare with the first two of ten
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
    """The recipe of an experiment or of a named recipe; None for any other name."""
    if name in EXPERIMENTS:
        return EXPERIMENTS[name].build()
    return RECIPES.get(name)


def run_folder(recipe: Recipe, device: Device, seed: int, *, again: bool) -> Path:
    """The run folder of a seed: an existing run of this recipe, or a new folder.

    ``again``: a finished run does not count, so that the seed is trained once more. A run with other settings stays
    as it is. Raises ``UserError`` if there are a thousand runs.
    """
    for number in range(1, 1000):
        folder = RUNS / device / (f"{recipe.name}-{seed}" + (f"-{number}" if number > 1 else ""))
        run = Run(folder)
        if not (folder / "run.json").exists():
            return folder
        if not differences(recipe, run.recipe) and not (run.finished and again):
            return folder
    raise UserError(f"{RUNS / device} contains a thousand runs of {recipe.name}: remove some")
