"""Inference: our network as a predictor holds it beside stock PyTorch's, on images that are ready in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from alexnet.bench.contest import OURS, STOCK, Contest
from alexnet.bench.stock import network_of, stock_network
from alexnet.bench.training import STOCK_PYTORCH, ready_images
from alexnet.bench.turns import Contestant, Work
from alexnet.model.summary import summarise
from alexnet.runtime.device import Machine, choose_machine


def inference_contest(variant: str, batch: int, precision: str, device: str) -> Contest:
    """Logits of a batch: ours in ``precision``, stock's in fp32."""
    stock = Contestant(stock_outputs, (variant, batch, device))
    return contest_beside(STOCK_PYTORCH, stock, variant, batch, precision, device)


def contest_beside(beside: str, other: Contestant, variant: str, batch: int, precision: str, device: str) -> Contest:
    """Our logits of a batch beside any other's."""
    contestants = {OURS: Contestant(our_outputs, (variant, batch, precision, device)), STOCK: other}
    flop = 2.0 * summarise(network_of(variant)).multiply_adds
    return Contest("inference", beside, variant, batch, precision, contestants, flop=flop)


def our_outputs(variant: str, batch: int, precision: str, device: str) -> tuple[Machine, Work]:
    """The network as ``Predictor`` holds it, on fp32 images, channels last."""
    machine = choose_machine(device, precision)
    ours = network_of(variant)
    images = _images(ours.image_size, batch, ours.in_channels, machine.device)
    return machine, _outputs(machine.freeze(ours), machine.arrange(images), machine)


def stock_outputs(variant: str, batch: int, device: str) -> tuple[Machine, Work]:
    """Torch's layers in evaluation mode, fp32, contiguous."""
    machine = Machine(torch.device(device), bf16=False)
    ours = network_of(variant)
    images = _images(ours.image_size, batch, ours.in_channels, machine.device)
    return machine, _outputs(stock_network(ours.eval()).to(machine.device), images, machine)


def _images(side: int, batch: int, channels: int, device: torch.device) -> Tensor:
    return ready_images(batch, side, channels, 1, device)[0]


def _outputs(network: nn.Module, images: Tensor, machine: Machine) -> Iterator[int]:
    while True:
        with torch.inference_mode(), machine.autocast():
            network(images)
        yield len(images)
