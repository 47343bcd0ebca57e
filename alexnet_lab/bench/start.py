"""A label from the shell: the whole command ``alexnet predict RUN IMAGE``, against a Python that only imports torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.config import Preprocessing
from alexnet.models.bundle import save_model
from alexnet.models.classifier import ModelInfo
from alexnet.runtime.device import DeviceConfig
from alexnet_lab.bench.comparison import OURS, STOCK, Comparison
from alexnet_lab.bench.interleaved import Candidate, Work
from alexnet_lab.bench.stock import network_of

STORED = 256


def start_comparison(variant: str, precision: str, device: str, folder: Path) -> Comparison:
    """The whole command for one image. ``folder``: the function writes a model of that variant and an image there."""
    model, image = folder / "model", folder / "photograph.jpg"
    network = network_of(variant)
    channels = network.in_channels
    side, mean = network.image_size, (127.0,) * channels
    preprocessing = Preprocessing(1 if channels == 1 else 3, STORED, side, side, "channel", mean, mean)
    names = tuple(f"class {number}" for number in range(network.num_classes))
    network.info = ModelInfo(variant, names, names, preprocessing)
    save_model(network, model)
    Image.fromarray(np.asarray(load_sample_images().images[0])).save(image)
    device_config = ["--device", device, "--precision", precision]
    ours = [sys.executable, "-m", "alexnet", "predict", str(model), str(image), *device_config]
    candidates = {
        OURS: Candidate(commands, (ours,)),
        STOCK: Candidate(commands, ([sys.executable, "-c", "import torch"],)),
    }
    return Comparison(
        "alexnet predict, the whole command", "python -c 'import torch'", variant, 1, precision, candidates
    )


def commands(words: Sequence[str]) -> tuple[DeviceConfig, Work]:
    """Each ``next`` runs a command to its end."""
    return DeviceConfig(torch.device("cpu"), bf16=False), _commands(words)


def _commands(words: Sequence[str]) -> Iterator[int]:
    while True:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        yield 1
