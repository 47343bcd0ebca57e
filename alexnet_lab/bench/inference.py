"""Inference: our network, as a predictor holds it, against stock PyTorch's, on images that are ready in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from alexnet.kernels.accelerate import accelerate
from alexnet.models.summary import summarize
from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet_lab.bench.comparison import OURS, STOCK, Comparison
from alexnet_lab.bench.interleaved import Candidate, Work
from alexnet_lab.bench.stock import network_of, stock_network
from alexnet_lab.bench.training import STOCK_PYTORCH, ready_images


def inference_comparison(variant: str, batch: int, precision: str, device: str) -> Comparison:
    """Logits of a batch: ours in ``precision``, stock's in fp32."""
    stock = Candidate(stock_outputs, (variant, batch, device))
    return comparison_with(STOCK_PYTORCH, stock, variant, batch, precision, device)


def comparison_with(beside: str, other: Candidate, variant: str, batch: int, precision: str, device: str) -> Comparison:
    """Our logits of a batch against those of another program."""
    candidates = {OURS: Candidate(our_outputs, (variant, batch, precision, device)), STOCK: other}
    flop = 2.0 * summarize(network_of(variant)).multiply_adds
    return Comparison("inference", beside, variant, batch, precision, candidates, flop=flop)


def our_outputs(variant: str, batch: int, precision: str, device: str) -> tuple[DeviceConfig, Work]:
    """The network as ``Predictor`` holds it, on fp32 images, channels last."""
    device_config = resolve_device(device, precision)
    ours = network_of(variant)
    images = _images(ours.image_size, batch, ours.in_channels, device_config.device)
    return device_config, _outputs(
        accelerate(ours, device_config), device_config.to_memory_format(images), device_config
    )


def stock_outputs(variant: str, batch: int, device: str) -> tuple[DeviceConfig, Work]:
    """Torch's layers in evaluation mode, fp32, contiguous."""
    device_config = DeviceConfig(torch.device(device), bf16=False)
    ours = network_of(variant)
    images = _images(ours.image_size, batch, ours.in_channels, device_config.device)
    return device_config, _outputs(stock_network(ours.eval()).to(device_config.device), images, device_config)


def _images(side: int, batch: int, channels: int, device: torch.device) -> Tensor:
    return ready_images(batch, side, channels, 1, device)[0]


def _outputs(network: nn.Module, images: Tensor, device_config: DeviceConfig) -> Iterator[int]:
    while True:
        with torch.inference_mode(), device_config.autocast():
            network(images)
        yield len(images)
