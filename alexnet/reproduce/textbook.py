"""The textbook's AlexNet trained by the textbook's own loop, beside ours: images per second, by turns in one run.

The loop is that of *Dive into Deep Learning* §8.1 and its trainer: torch's layers, images enlarged by Pillow in the
workers of a ``DataLoader``, fp32, plain SGD. Each loop has a process of its own, see ``bench/turns.py``.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from alexnet.bench.turns import Contestant, Work, take_turns
from alexnet.config import Recipe
from alexnet.data.store import Store, open_store
from alexnet.recipes import get_recipe
from alexnet.reproduce.results import circumstances
from alexnet.runtime.device import Machine, choose_machine, matrix_rate
from alexnet.runtime.log import Silent
from alexnet.runtime.run import start_or_continue
from alexnet.training.train import Training

RECIPE = "d2l-fashion-mnist"
WORKERS = 4  # d2l.get_dataloader_workers; fewer where there are fewer processors, or it would be slowed by its own
MINUTES = 4.0  # for all turns
ROUNDS, SECONDS = 5, 20.0  # a turn is so long that what workers have prepared before it hardly counts


class Pictures(Dataset[tuple[Tensor, int]]):
    """The store's training images as the textbook has them: a Pillow image enlarged and turned into a tensor."""

    def __init__(self, store: Store, side: int) -> None:
        self.images, self.labels, self.index = store.images, store.labels, store.subset("train")
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        place = self.index[number]
        picture = Image.fromarray(np.asarray(self.images[place, :, :, 0]))
        return self.transform(picture), int(self.labels[place])


def textbook_network() -> nn.Sequential:
    """Its network, layer for layer, for one channel of 224 pixels and ten classes."""
    pool = nn.MaxPool2d(kernel_size=3, stride=2)
    return nn.Sequential(
        *(nn.Conv2d(1, 96, kernel_size=11, stride=4, padding=1), nn.ReLU(), pool),
        *(nn.Conv2d(96, 256, kernel_size=5, padding=2), nn.ReLU(), pool),
        *(nn.Conv2d(256, 384, kernel_size=3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, kernel_size=3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(), pool, nn.Flatten()),
        *(nn.Linear(6400, 4096), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 10)),
    )


def textbook_steps(recipe: Recipe, store: Path, device: str, workers: int) -> tuple[Machine, Work]:
    """Its training on the store there, a step each time the next is asked for."""
    machine = choose_machine(device, "fp32", plain=True)
    return machine, _textbook_steps(recipe, open_store(store), machine, min(workers, torch.get_num_threads()))


def _textbook_steps(recipe: Recipe, store: Store, machine: Machine, workers: int) -> Work:
    network = textbook_network().to(machine.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.optim.rate)
    loss_of = nn.CrossEntropyLoss()
    pictures = Pictures(store, recipe.data.image_size or 224)
    loader = DataLoader(pictures, recipe.train.batch_size, shuffle=True, num_workers=workers)
    for _ in itertools.count():
        for images, labels in loader:
            loss = loss_of(network(images.to(machine.device)), labels.to(machine.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(images)


def our_steps(recipe: Recipe, store: Path, device: str, folder: Path) -> tuple[Machine, Work]:
    """Our training on the store there, a step each time the next is asked for; its run lies in ``folder``."""
    machine = choose_machine(device, recipe.train.precision)
    return machine, _our_steps(recipe, open_store(store), machine, folder)


def _our_steps(recipe: Recipe, store: Store, machine: Machine, folder: Path) -> Work:
    run = start_or_continue(folder / "run", recipe, 0, store.name, store.digest)
    training = Training(recipe, store, run, 0, machine, Silent())
    with training.loader() as batches:
        for batch in batches:
            training.step(batch)
            yield len(batch.index)


def compare(
    store: Path,
    machine: Machine,
    *,
    recipe: Recipe | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    workers: int = WORKERS,
) -> dict[str, Any]:
    """Both loops by turns, ``rounds`` times ``seconds`` each, after a first turn that is not counted.

    ``store``: where Fashion-MNIST is prepared; ``recipe``: the textbook's by default; ``workers``: processes that
    enlarge its pictures, at most. In the answer ``rounds`` holds a dict each with ``ours`` and ``stock``, images per
    second; beside them stand the machine, its own rate and the commit.
    """
    recipe, device = recipe or get_recipe(RECIPE), machine.device.type
    gflops = matrix_rate(machine)
    with tempfile.TemporaryDirectory() as folder:
        contestants = {
            "ours": Contestant(our_steps, (recipe, store, device, Path(folder))),
            "stock": Contestant(textbook_steps, (recipe, store, device, workers)),
        }
        timed = take_turns(contestants, rounds, seconds)
    by_round = zip(*(timed[name].rates for name in contestants), strict=True)
    return {
        "what": f"training {RECIPE}, images per second beside the textbook's own loop",
        "recipe": RECIPE,
        "matrix_gflops": gflops,
        **circumstances(machine),
        "rounds": [dict(zip(contestants, rates, strict=True)) for rates in by_round],
    }
