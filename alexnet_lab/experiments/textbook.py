"""The textbook's AlexNet trained by the textbook's own loop, beside ours: images per second, by turns in one run.

The loop is that of *Dive into Deep Learning* §8.1 and its trainer: torch's layers, images enlarged by Pillow in the
workers of a ``DataLoader``, fp32, plain SGD. Each loop has a process of its own, see ``alexnet_lab/bench/interleaved.py``.
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

from alexnet.config import Recipe
from alexnet.data.prepared import PreparedDataset, open_prepared
from alexnet.recipes import get_recipe
from alexnet.runtime.device import DeviceConfig, matrix_rate, resolve_device
from alexnet.runtime.log import NullReporter
from alexnet.runtime.run import start_or_continue
from alexnet.training.loop import Training
from alexnet_lab.bench.interleaved import Candidate, Work, time_interleaved
from alexnet_lab.results.records import circumstances

RECIPE = "d2l-fashion-mnist"
WORKERS = 4  # d2l.get_dataloader_workers; fewer where there are fewer processors, or it would be slowed by its own
MINUTES = 4.0  # for all turns
ROUNDS, SECONDS = 5, 20.0  # a turn is so long that what workers have prepared before it hardly counts


class Pictures(Dataset[tuple[Tensor, int]]):
    """The store's training images as the textbook has them: a Pillow image enlarged and turned into a tensor."""

    def __init__(self, dataset: PreparedDataset, side: int) -> None:
        self.images, self.targets, self.index = dataset.images, dataset.targets, dataset.subset("train")
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        place = self.index[number]
        picture = Image.fromarray(np.asarray(self.images[place, :, :, 0]))
        return self.transform(picture), int(self.targets[place])


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


def textbook_steps(recipe: Recipe, dataset: Path, device: str, workers: int) -> tuple[DeviceConfig, Work]:
    """Its training on the store there, a step each time the next is asked for."""
    device_config = resolve_device(device, "fp32", reference=True)
    return device_config, _textbook_steps(
        recipe, open_prepared(dataset), device_config, min(workers, torch.get_num_threads())
    )


def _textbook_steps(recipe: Recipe, dataset: PreparedDataset, device_config: DeviceConfig, workers: int) -> Work:
    network = textbook_network().to(device_config.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.optim.lr)
    loss_of = nn.CrossEntropyLoss()
    pictures = Pictures(dataset, recipe.data.image_size or 224)
    loader = DataLoader(pictures, recipe.train.batch_size, shuffle=True, num_workers=workers)
    for _ in itertools.count():
        for images, targets in loader:
            loss = loss_of(network(images.to(device_config.device)), targets.to(device_config.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(images)


def our_steps(recipe: Recipe, dataset: Path, device: str, folder: Path) -> tuple[DeviceConfig, Work]:
    """Our training on the store there, a step each time the next is asked for; its run lies in ``folder``."""
    device_config = resolve_device(device, recipe.train.precision)
    return device_config, _our_steps(recipe, open_prepared(dataset), device_config, folder)


def _our_steps(recipe: Recipe, dataset: PreparedDataset, device_config: DeviceConfig, folder: Path) -> Work:
    run = start_or_continue(folder / "run", recipe, 0, dataset.name, dataset.digest)
    training = Training(recipe, dataset, run, 0, device_config, NullReporter())
    with training.loader() as batches:
        for batch in batches:
            training.step(batch)
            yield len(batch.index)


def compare(
    dataset: Path,
    device_config: DeviceConfig,
    *,
    recipe: Recipe | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    workers: int = WORKERS,
) -> dict[str, Any]:
    """Both loops by turns, ``rounds`` times ``seconds`` each, after a first turn that is not counted.

    ``dataset``: where Fashion-MNIST is prepared; ``recipe``: the textbook's by default; ``workers``: processes that
    enlarge its pictures, at most. In the answer ``rounds`` holds a dict each with ``ours`` and ``stock``, images per
    second; beside them stand the machine, its own rate and the commit.
    """
    recipe, device = recipe or get_recipe(RECIPE), device_config.device.type
    gflops = matrix_rate(device_config)
    with tempfile.TemporaryDirectory() as folder:
        candidates = {
            "ours": Candidate(our_steps, (recipe, dataset, device, Path(folder))),
            "stock": Candidate(textbook_steps, (recipe, dataset, device, workers)),
        }
        timed = time_interleaved(candidates, rounds, seconds)
    by_round = zip(*(timed[name].rates for name in candidates), strict=True)
    return {
        "what": f"training {RECIPE}, images per second beside the textbook's own loop",
        "recipe": RECIPE,
        "matrix_gflops": gflops,
        **circumstances(device_config),
        "rounds": [dict(zip(candidates, rates, strict=True)) for rates in by_round],
    }
