"""Training steps: ours against stock PyTorch's, and local response normalization alone.

Our step starts from ``uint8`` pixels and includes the augmentation. The stock step starts from finished tensors, so the
comparison favours stock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.config import AugmentSpec, OptimSpec, Preprocessing
from alexnet.data.augment import augment, draw
from alexnet.data.loader import Batch
from alexnet.kernels.accelerate import accelerate
from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.models.classifier import Classifier
from alexnet.models.layers import draw_masks
from alexnet.models.summary import summarize
from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet.training.criterion import ClassificationLoss
from alexnet.training.optimizer import build_optimizer
from alexnet.training.step import train_step
from alexnet_lab.bench.comparison import OURS, STOCK, Comparison
from alexnet_lab.bench.interleaved import Candidate, Work
from alexnet_lab.bench.stock import network_of, stock_network

OPTIM = OptimSpec(optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4)
SMALLER = 8 / 7  # stored side / cropped side: 256 / 224
NORM_MAPS = (96, 55, 55)  # conv1's in the paper's network
NORM_PASSES = 5  # tensors read or written at least once: x, y; x, the gradient of y, the gradient of x
BYTES = {"fp32": 4, "bf16": 2}
STOCK_PYTORCH = "stock PyTorch, fp32"


def step_comparison(variant: str, batch: int, precision: str, device: str) -> Comparison:
    """A training step of a variant at its authors' size, ours in ``precision`` and stock's in fp32."""
    candidates = {
        OURS: Candidate(our_steps, (variant, batch, precision, device)),
        STOCK: Candidate(stock_steps, (variant, batch, device)),
    }
    return Comparison("training step", STOCK_PYTORCH, variant, batch, precision, candidates, flop=step_flop(variant))


def norm_comparison(batch: int, precision: str, device: str) -> Comparison:
    """The normalization of the paper's first layer, forward and backward, ours and ``nn.LocalResponseNorm``."""
    candidates = {
        OURS: Candidate(our_norm, (batch, precision, device)),
        STOCK: Candidate(stock_norm, (batch, device)),
    }
    moved = NORM_PASSES * BYTES[precision] * float(np.prod(NORM_MAPS))
    return Comparison("LRN, forward and backward", STOCK_PYTORCH, "paper", batch, precision, candidates, moved=moved)


def step_flop(variant: str) -> float:
    """Floating-point operations of a training step for each image."""
    return summarize(network_of(variant)).training_flops


def our_steps(variant: str, batch: int, precision: str, device: str) -> tuple[DeviceConfig, Work]:
    """Steps as ``alexnet train`` does them, on one batch of pixels that stays on the device."""
    device_config = resolve_device(device, precision)
    network = network_of(variant)
    side = stored_side(network)
    pixels, targets = some_pixels(batch, side, network.in_channels, network.num_classes, device_config.device)
    index = np.arange(batch)
    same = (Batch(step, 0, index, slice(None), index, pixels, targets) for step in itertools.count())
    return device_config, deterministic_steps(network, same, side, device_config)


def stored_side(network: Classifier) -> int:
    """The side of the stored images from which a network's input is cropped: 256 for 224."""
    return round(network.image_size * SMALLER)


def deterministic_steps(
    network: Classifier, batches: Iterable[Batch], resize_size: int, device_config: DeviceConfig
) -> Iterator[int]:
    """:func:`steps_on` with the deterministic algorithms that trainings use."""
    with device_config.deterministic():
        yield from steps_on(network, batches, resize_size, device_config)


def steps_on(
    network: Classifier, batches: Iterable[Batch], resize_size: int, device_config: DeviceConfig
) -> Iterator[int]:
    """Training steps on batches of pixels: crop, flip, forward, backward, update. Yields the images of each step."""
    network = accelerate(device_config.to_device(network), device_config, training=True).train()
    optimizer = build_optimizer(network, OPTIM)
    side, channels = network.image_size, network.in_channels
    spec = AugmentSpec(crop=side, flip=True)
    mean, std = (127.0,) * channels, (64.0,) * channels
    preprocessing = Preprocessing(1 if channels == 1 else 3, resize_size, side, side, "channel", mean, std)
    for batch in batches:
        draws = draw(spec, resize_size, 0, batch.epoch, batch.index, batch.position, None)
        images = augment(batch.pixels, draws, spec, preprocessing, None)
        masks = draw_masks(network.dropout_sites, len(images), 0, batch.step, device_config.device)
        train_step(network, optimizer, images, batch.targets, masks, ClassificationLoss(), device_config)
        yield len(images)


def stock_steps(variant: str, batch: int, device: str) -> tuple[DeviceConfig, Work]:
    """Steps of the loop that tutorials print, in fp32, on tensors that are ready."""
    device_config = DeviceConfig(torch.device(device), bf16=False)
    return device_config, _stock_steps(variant, batch, device_config.device)


def _stock_steps(variant: str, batch: int, device: torch.device) -> Iterator[int]:
    ours = network_of(variant)
    ready = ready_images(batch, ours.image_size, ours.in_channels, ours.num_classes, device)
    yield from stock_steps_on(ours, itertools.repeat(ready), device)


def stock_steps_on(ours: Classifier, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[int]:
    """That loop on batches of images and labels, with the stock form of our network. Yields the images of each step."""
    network = stock_network(ours).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=OPTIM.lr, momentum=0.9, weight_decay=5e-4)
    loss_of = nn.CrossEntropyLoss()
    for images, targets in batches:
        loss = loss_of(network(images.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(images)


def our_norm(batch: int, precision: str, device: str) -> tuple[DeviceConfig, Work]:
    """Forward and backward pass of our normalization, channels last, in ``precision``."""
    device_config = resolve_device(device, precision)
    dtype = torch.bfloat16 if device_config.bf16 else torch.float32
    x = _maps(batch, device_config).to(dtype).to(memory_format=torch.channels_last)
    return device_config, _both_passes(FastLocalResponseNorm(5, 1e-4, 0.75, 2.0, "sum", groups=1), x)


def stock_norm(batch: int, device: str) -> tuple[DeviceConfig, Work]:
    """Forward and backward pass of torch's normalization, in fp32."""
    device_config = DeviceConfig(torch.device(device), bf16=False)
    return device_config, _both_passes(nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0), _maps(batch, device_config))


def _maps(batch: int, device_config: DeviceConfig) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(batch, *NORM_MAPS, generator=draws).relu().to(device_config.device)


def _both_passes(norm: nn.Module, x: Tensor) -> Iterator[int]:
    x = x.requires_grad_()
    arriving = torch.ones_like(x)
    while True:
        x.grad = None
        norm(x).backward(arriving)
        yield len(x)


def some_pixels(batch: int, side: int, channels: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels ``(batch, side, side, channels)`` uint8 and labels, the same at each call."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, side, side, channels), dtype=torch.uint8, generator=draws)
    return pixels.to(device), torch.randint(0, classes, (batch,), generator=draws).to(device)


def ready_images(batch: int, side: int, channels: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images ``(batch, channels, side, side)`` fp32, contiguous, as a tutorial's transforms leave them, and labels."""
    pixels, targets = some_pixels(batch, side, channels, classes, device)
    return (pixels.permute(0, 3, 1, 2).float() / 64 - 2).contiguous(), targets
