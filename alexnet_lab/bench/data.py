"""Benchmarks of images: photographs → prepared dataset, and prepared dataset → training steps.

The photographs are those of a given source, or crops of scikit-learn's two sample photographs, saved as JPEG files with
the average size of ImageNet's photographs.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional

from alexnet.core.errors import UserError
from alexnet.core.randomness import integers, uniform
from alexnet.data.loader import Loader, pixels_of
from alexnet.data.prepared import open_prepared
from alexnet.data.sampler import Sampler
from alexnet.data.sources import Record, Source
from alexnet.data.writer import decode_record, file_bytes
from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet_lab.bench.comparison import OURS, STOCK, Comparison
from alexnet_lab.bench.interleaved import Candidate, Work
from alexnet_lab.bench.stock import network_of
from alexnet_lab.bench.training import SMALLER, deterministic_steps, our_steps, step_flop, stock_steps_on

PHOTOGRAPHS, CLASSES = 256, 8
FOREVER = 10**9  # steps
WIDTH, HEIGHT, QUALITY = 475, 400, 90  # the average size of ImageNet's photographs
SIDE = 256


def dataset_comparison(variant: str, batch: int, precision: str, device: str, dataset: Path) -> Comparison:
    """Training steps from a prepared dataset, against the same steps on one batch that stays on the device."""
    candidates = {
        OURS: Candidate(steps_from_dataset, (variant, batch, precision, device, dataset)),
        STOCK: Candidate(our_steps, (variant, batch, precision, device)),
    }
    return Comparison(
        "training step from a prepared dataset",
        "one batch in memory",
        variant,
        batch,
        precision,
        candidates,
        flop=step_flop(variant),
    )


def loader_comparison(
    variant: str, batch: int, precision: str, device: str, dataset: Path, photographs: Path
) -> Comparison:
    """Training steps from a prepared dataset, against stock steps with a ``DataLoader`` on the same files."""
    candidates = {
        OURS: Candidate(steps_from_dataset, (variant, batch, precision, device, dataset)),
        STOCK: Candidate(steps_from_files, (variant, batch, device, photographs)),
    }
    what, beside = "training step from photographs", "DataLoader with Pillow, stock PyTorch, fp32"
    return Comparison(what, beside, variant, batch, precision, candidates, flop=step_flop(variant))


def prepare_comparison(source: Source) -> Comparison:
    """Decoding, checking, resizing and cropping of photographs by ``alexnet prepare``, on one core, against Pillow and
    torchvision. Raises ``UserError`` for a source without encoded images.
    """
    files = encoded_images(source)
    candidates = {OURS: Candidate(prepared, (files,)), STOCK: Candidate(decoded_by_pillow, (files,))}
    return Comparison("preparing photographs on one core", "Pillow, then torchvision", "", 1, "", candidates)


def make_photographs(folder: Path, count: int = PHOTOGRAPHS) -> None:
    """Write JPEG files into class folders: random crops of two photographs, some flipped; the same files each time."""
    photographs = load_sample_images().images
    height, width, _ = photographs[0].shape
    draws = uniform(0, 0, np.arange(count), 2)
    tops, lefts = integers(draws[0], height - HEIGHT + 1), integers(draws[1], width - WIDTH + 1)
    for number, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        window = photographs[number % 2][top : top + HEIGHT, left : left + WIDTH]
        path = folder / f"class-{number // 2 % CLASSES}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(window[:, ::-1] if number % 4 > 1 else window).save(path, quality=QUALITY)


def encoded_images(source: Source, count: int = PHOTOGRAPHS) -> list[bytes]:
    """The first ``count`` files of a source. Raises ``UserError`` if its images are not encoded."""
    records = list(itertools.islice(source.records(), count))
    if not records or isinstance(records[0].payload, np.ndarray):
        raise UserError(f"{source.name} has no image files to decode: give a folder of photographs with --data")
    return [file_bytes(record) for record in records]


def prepared(files: Sequence[bytes]) -> tuple[DeviceConfig, Work]:
    """Decoding as ``alexnet prepare`` does it."""
    torch.set_num_threads(1)
    records = [Record(None, 0, f"{number}.jpg", file) for number, file in enumerate(files)]
    return DeviceConfig(torch.device("cpu"), bf16=False), _prepared(records)


def _prepared(records: Sequence[Record]) -> Iterator[int]:
    for record in itertools.cycle(records):
        decode_record(record, SIDE, 3)
        yield 1


def decoded_by_pillow(files: Sequence[bytes]) -> tuple[DeviceConfig, Work]:
    """Decoding as an ``ImageFolder`` with torchvision's ``Resize`` and ``CenterCrop`` does it."""
    torch.set_num_threads(1)
    return DeviceConfig(torch.device("cpu"), bf16=False), _decoded_by_pillow(files)


def _decoded_by_pillow(files: Sequence[bytes]) -> Iterator[int]:
    for file in itertools.cycle(files):
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        np.asarray(functional.center_crop(functional.resize(picture, [SIDE]), [SIDE]))
        yield 1


def steps_from_dataset(variant: str, batch: int, precision: str, device: str, path: Path) -> tuple[DeviceConfig, Work]:
    """Training steps as ``alexnet train`` does them, with pixels of a prepared dataset."""
    device_config = resolve_device(device, precision)
    return device_config, _steps_from_dataset(variant, batch, device_config, path)


def _steps_from_dataset(variant: str, batch: int, device_config: DeviceConfig, path: Path) -> Iterator[int]:
    network, dataset = network_of(variant), open_prepared(path)
    order = Sampler(dataset.subset("train"), batch, seed=0)
    read = pixels_of(dataset.pixels, device_config.device, FOREVER)
    with Loader(read, dataset.targets, order, device_config.device, 0, FOREVER) as batches:
        yield from deterministic_steps(network, batches, dataset.side, device_config)


def steps_from_files(variant: str, batch: int, device: str, photographs: Path) -> tuple[DeviceConfig, Work]:
    """Training steps as in tutorials: files decoded and augmented by Pillow in the workers of a ``DataLoader``."""
    device_config = DeviceConfig(torch.device(device), bf16=False)
    return device_config, stock_steps_on(
        network_of(variant), _file_batches(variant, batch, photographs), device_config.device
    )


def _file_batches(variant: str, batch: int, photographs: Path) -> Iterator[tuple[Tensor, Tensor]]:
    side = network_of(variant).image_size
    steps = [
        transforms.Resize(round(side * SMALLER)), transforms.RandomCrop(side), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3),
    ]  # fmt: skip
    folder = ImageFolder(photographs, transforms.Compose(steps))
    workers = torch.get_num_threads()
    loader = DataLoader(folder, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        yield from loader
