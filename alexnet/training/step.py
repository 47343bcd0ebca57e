"""One step: forward, backward, update; or nothing at all, where the loss or a gradient is not a finite number.

Whether it is finite is decided on the device, so that no step waits for the host: torch's fused updates leave
everything as it was where they are told so (``found_inf``, made for gradient scaling: Micikevicius et al. 2018). The
others ask the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.models.classifier import Classifier
from alexnet.models.layers import Masks
from alexnet.runtime.device import DeviceConfig


@dataclass(frozen=True)
class Outcome:
    """Of one batch, before its update, each 0-d on the device: the mean ``loss``, the number of ``right`` answers, and
    whether the loss and all gradients were ``finite``; if not, the step changed nothing.
    """

    loss: Tensor
    right: Tensor
    finite: Tensor


def train_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    masks: Masks,
    label_smoothing: float,
    device_config: DeviceConfig,
) -> Outcome:
    """One update of the weights, at the optimizer's rates. ``images`` ``(N, C, S, S)``, ``targets`` ``(N,)``."""
    averages = running_averages(model)
    before = [average.clone() for average in averages]
    with device_config.autocast():
        logits = model(device_config.to_memory_format(images), masks)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    finite = all_finite(loss.detach(), [p.grad for p in model.parameters() if p.grad is not None])
    update(optimizer, finite)
    for average, old in zip(averages, before, strict=True):
        average.copy_(torch.where(finite, average, old))
    return Outcome(loss.detach(), (logits.argmax(dim=1) == targets).sum(), finite)


def all_finite(loss: Tensor, gradients: list[Tensor]) -> Tensor:
    """Whether a loss and all gradients are finite: 0-d, on their device.

    Told by their sums, which hand on what is not: a pass at the speed of memory, where a norm takes a fifth of a step.
    """
    return torch.stack([loss, *(gradient.sum() for gradient in gradients)]).isfinite().all()


def update(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """The optimizer's step, where ``finite``."""
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()


def running_averages(model: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes: the running averages of batch norms, and how many went into them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [average for norm in norms for average in norm.buffers()]


def use_averages(network: nn.Module) -> None:
    """Have batch norms use their running averages for the coming step, and leave them as they are.

    For a last batch of one image (n images in batches of b, n mod b = 1): the statistics of one image are no estimate
    of the set's, they would be a tenth of the averages that the epoch is then measured with, and torch refuses them on
    a map of one pixel ("Expected more than 1 value per channel when training").
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
