"""Images per second of the textbook's own training loop and of ours, by interleaved timing.

The loop is that of *Dive into Deep Learning* §8.1 and its trainer: torch's layers, images enlarged by Pillow in the
workers of a ``DataLoader``, fp32, SGD without momentum. Each loop runs in its own process
(``alexnet_lab/bench/interleaved.py``).
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
WORKERS = 4  # as in d2l.get_dataloader_workers; not more than there are processors, which would slow it down
MINUTES = 4.0  # of the whole comparison
ROUNDS, SECONDS = 5, 20.0  # long, so that batches prefetched before a turn hardly count


class TextbookImages(Dataset[tuple[Tensor, int]]):
    """The training images as the textbook prepares them: a Pillow image, enlarged and converted to a tensor."""

    def __init__(self, dataset: PreparedDataset, side: int) -> None:
        self.images, self.targets, self.index = dataset.images, dataset.targets, dataset.subset("train")
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        place = self.index[number]
        image = Image.fromarray(np.asarray(self.images[place, :, :, 0]))
        return self.transform(image), int(self.targets[place])


def textbook_network() -> nn.Sequential:
    """The textbook's network: one channel, 224 pixels, ten classes."""
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
    """The textbook's training on a prepared dataset; each ``next`` does one step."""
    device_config = resolve_device(device, "fp32", reference=True)
    return device_config, _textbook_steps(
        recipe, open_prepared(dataset), device_config, min(workers, torch.get_num_threads())
    )


def _textbook_steps(recipe: Recipe, dataset: PreparedDataset, device_config: DeviceConfig, workers: int) -> Work:
    network = textbook_network().to(device_config.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.optim.lr)
    loss_of = nn.CrossEntropyLoss()
    textbook_images = TextbookImages(dataset, recipe.data.image_size or 224)
    loader = DataLoader(textbook_images, recipe.train.batch_size, shuffle=True, num_workers=workers)
    for _ in itertools.count():
        for images, targets in loader:
            loss = loss_of(network(images.to(device_config.device)), targets.to(device_config.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(images)


def our_steps(recipe: Recipe, dataset: Path, device: str, folder: Path) -> tuple[DeviceConfig, Work]:
    """Our training on a prepared dataset, with its run in ``folder``; each ``next`` does one step."""
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
    """Both loops alternately: ``rounds`` times ``seconds`` each, after a warm-up.

    ``dataset``: path of the prepared Fashion-MNIST. ``recipe``: None for the textbook's. ``workers``: the largest
    number of processes that enlarge the textbook's images. Returns a JSON value; its ``rounds`` holds a dict for each
    round with ``ours`` and ``stock``, images per second.
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
        "what": f"training {RECIPE}, images per second, and with the textbook's own loop",
        "recipe": RECIPE,
        "matrix_gflops": gflops,
        **circumstances(device_config),
        "rounds": [dict(zip(candidates, rates, strict=True)) for rates in by_round],
    }
