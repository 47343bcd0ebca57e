"""A small network with the methods of 2012, trained on digits in seconds, for faults that only images show.

It has local response normalization with an α that matters for small activations, and dropout of 0.5 in fc6 and fc7
whose outputs are halved in evaluation, as in cuda-convnet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from alexnet.config import Preprocessing
from alexnet.models.bundle import save_model
from alexnet.models.classifier import Classifier, ModelInfo
from alexnet.models.registry import create_model

SIDE, TRAIN, TEST = 16, 1300, 400  # pixels, images
DIGITS_2012 = "2012 digits"
SETTINGS: Mapping[str, Any] = {
    "width": 0.25, "norm_layer": "lrn", "lrn_alpha": 2.0, "dropout": 0.5, "dropout_scaling": "test",
}  # fmt: skip


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits in the order of its file: pixels ``(1797, 8, 8, 1)`` uint8, labels ``(1797,)`` int64."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return torch.from_numpy(images), torch.from_numpy(labels)


def train_digits_2012(images: torch.Tensor, labels: torch.Tensor, epochs: int = 10, seed: int = 0) -> Classifier:
    """A network trained on ``images`` ``(N, 8, 8, 1)`` uint8 with ``labels`` ``(N,)``, in evaluation mode."""
    network = create_model("small", num_classes=10, in_channels=1, image_size=SIDE, seed=seed, **SETTINGS)
    pixels = images.float()
    mean, std = float(pixels.mean()), float(pixels.std())
    network.info = ModelInfo(
        "small", tuple("0123456789"), tuple("0123456789"), Preprocessing(1, 8, 8, SIDE, "channel", (mean,), (std,))
    )
    inputs = torch.nn.functional.interpolate(
        (pixels.permute(0, 3, 1, 2) - mean) / std, size=(SIDE, SIDE), mode="bilinear"
    )
    draws = torch.Generator().manual_seed(seed)
    batches = [part for _ in range(epochs) for part in torch.split(torch.randperm(len(inputs), generator=draws), 32)]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(batches))
    network.train()
    for batch in batches:
        masks = {
            site: torch.rand(len(batch), units, generator=draws) >= p
            for site, (units, p) in network.dropout_sites.items()
        }
        loss = cross_entropy(network(inputs[batch], masks=masks), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def write_digits_2012(folder: Path) -> tuple[Path, Path, str]:
    """Train two networks, of seeds 0 and 1, and write them to ``folder``, with images that they were not trained on.

    Returns the two model folders and the folder of the images.
    """
    images, labels = digits()
    models = folder / "model", folder / "donor"
    for seed, model in enumerate(models):
        save_model(train_digits_2012(images[:TRAIN], labels[:TRAIN], seed=seed), model)
    return *models, str(write_test_digits(folder / "images"))


def write_test_digits(folder: Path) -> Path:
    """Write the ``TEST`` digits after the first ``TRAIN`` as PNG files in class folders; returns ``folder``."""
    images, labels = digits()
    for number in range(TRAIN, TRAIN + TEST):
        place = folder / "test" / str(int(labels[number]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number, :, :, 0].numpy()).save(place / f"{number}.png")
    return folder
