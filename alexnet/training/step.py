"""One training step: forward pass, backward pass, update. A step whose loss or gradient is not finite changes nothing.

The check is done on the device, so that no step waits for the host. torch's fused optimizers skip the update if
``found_inf`` is 1 (it was made for gradient scaling: Micikevicius et al. 2018), and so does the update of 2012 on a
GPU. For other optimizers the result of the check is copied to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.models.classifier import Classifier
from alexnet.models.layers import Masks, at_least_fp32
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
from alexnet.training.criterion import Criterion


@dataclass(frozen=True)
class Outcome:
    """The result of one step, computed before the update; each field is a 0-d tensor on the device.

    ``loss``: the mean loss of the batch. ``right``: the number of correct predictions. ``finite``: whether the loss and
    all gradients are finite; if not, the step changed nothing. All are those of the whole batch, in every process.
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
    criterion: Criterion,
    device_config: DeviceConfig,
    share: float = 1.0,
    group: Group = ONE,
    parts: int = 1,
) -> Outcome:
    """One update of the weights, with the learning rates of the optimizer; the arguments are those of
    :func:`compute_gradients`.
    """
    outcome = compute_gradients(model, images, targets, masks, criterion, device_config, share, group, parts)
    update(optimizer, outcome.finite)
    return outcome


def compute_gradients(
    model: Classifier,
    images: Tensor,
    targets: Tensor,
    masks: Masks,
    criterion: Criterion,
    device_config: DeviceConfig,
    share: float = 1.0,
    group: Group = ONE,
    parts: int = 1,
    step: int = 0,
) -> Outcome:
    """Set the gradients of all parameters: everything of a step before the update.

    ``images``: ``(N, C, S, S)`` float32; ``targets``: ``(N,)`` int64, or what ``criterion`` takes, with N rows;
    ``masks``: dropout masks, layer → ``(N, units)`` bool. ``criterion``: the loss. ``group``: the processes that have
    the other images of the batch; ``share``: the factor of the loss, see ``Training.share``. N may be 0 in a group.
    ``parts``: the images are computed in so many parts, to need less memory. ``step``: of the training.
    """
    averages = running_averages(model)
    before = [average.clone() for average in averages]
    model.zero_grad(set_to_none=True)
    losses, rights = [], []
    for part in divide(len(images), parts):
        some, own = targets[part], {site: mask[part] if parts > 1 else mask for site, mask in masks.items()}
        with device_config.autocast():
            logits = at_least_fp32(model(device_config.to_memory_format(images[part]), own))
        # The sum over no image is 0, but connected to all parameters: their gradients are 0.
        loss, right = criterion.measure(logits, some, step) if len(some) else (logits.sum(), logits.new_zeros(()))
        loss = loss * (share * criterion.share(some, targets) if len(some) else 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        rights.append(right)
    group.add_gradients([*model.parameters()])
    loss, right = group.totals(*(each[0] if parts == 1 else torch.stack(each).sum() for each in (losses, rights)))
    finite = group.everywhere(all_finite(loss, [p.grad for p in model.parameters() if p.grad is not None]))
    for average, old in zip(averages, before, strict=True):
        average.copy_(torch.where(finite, average, old))
    return Outcome(loss, right, finite)


def divide(count: int, parts: int) -> list[slice]:
    """``count`` images in at most ``parts`` parts of about the same size; one part if there are no images."""
    parts = max(1, min(count, parts))
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def all_finite(loss: Tensor, gradients: list[Tensor]) -> Tensor:
    """Whether a loss and all gradients are finite: a 0-d bool tensor on their device.

    The sum of each gradient is checked: it is not finite if any of its elements is not finite. A sum is limited only by
    memory speed; computing a norm would take a fifth of a step.
    """
    return torch.stack([loss.float(), *(gradient.sum() for gradient in gradients)]).isfinite().all()


def update(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Do the optimizer's step if ``finite``, a 0-d bool tensor, is True."""
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()


def running_averages(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in training mode changes: running averages of batch norms and their counters."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [average for norm in norms for average in norm.buffers()]


def use_averages(network: nn.Module) -> None:
    """Let batch norms use their running averages in the next step, without changing them.

    This is for a last batch of one image (n images in batches of b, n mod b = 1). The statistics of one image are a bad
    estimate of those of the dataset, but would have a weight of a tenth in the running averages, with which the epoch
    is then evaluated. Also, torch raises an error for feature maps of one pixel ("Expected more than 1 value per
    channel when training").
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
