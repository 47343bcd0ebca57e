"""Parameter groups and update rules, and optimizer state as named tensors.

2012's update keeps the rate inside the velocity (paper §5; ``src/weights.cu`` of the released code):
v ← m·v − ε·(g + λ·w), w ← w + v. torch's keeps it outside. At a constant rate they are the same; after a drop the old
velocity still carries the old rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.config import OptimSpec
from alexnet.core.errors import unknown


class SGD2012(torch.optim.Optimizer):
    """Stochastic gradient descent as 2012's code did it.

    Equal to ``torch.optim.SGD`` whose momentum is m·ε_prev/ε at a step where the rate changes from ε_prev to ε. A
    rate of 0 freezes a parameter: no update, no decay, and its velocity waits.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient and a rate above 0."""
        if closure is not None:
            raise ValueError("this update takes no closure")
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None and group["lr"] > 0]
            if not moving:
                continue
            velocities = [self.state[p]["momentum_buffer"] for p in moving]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, [p.grad for p in moving], alpha=-group["lr"])
            torch._foreach_add_(velocities, moving, alpha=-group["lr"] * group["weight_decay"])
            torch._foreach_add_(moving, velocities)


def build_optimizer(model: nn.Module, spec: OptimSpec, *, fused: bool = True) -> torch.optim.Optimizer:
    """Two groups, weights and biases (with normalizations' scales and shifts), and two for each layer with rules.

    ``fused``: torch's updates in one pass over memory each; 2012's has but one form. Raises ``UserError`` for a rule
    about a layer that the model does not have.
    """
    optimizer = _update_rule(_groups(model, {rule.layer for rule in spec.rules}), spec, fused)
    _start(optimizer, spec)
    set_lrs(optimizer, spec, spec.lr, spec.lr * spec.bias_lr_mult, epoch=0)
    return optimizer


def _update_rule(groups: list[dict[str, Any]], spec: OptimSpec, fused: bool) -> torch.optim.Optimizer:
    match spec.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, spec.lr, spec.momentum, nesterov=spec.nesterov, fused=fused)
        case "sgd-2012":
            return SGD2012(groups, spec.lr, spec.momentum)
        case "adam":
            return torch.optim.Adam(groups, spec.lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, spec.lr, fused=fused)


def _start(optimizer: torch.optim.Optimizer, spec: OptimSpec) -> None:
    """Make the state that torch would make in the first step, so that a first step that must change nothing leaves no
    half of it, and a checkpoint's state can be held against it.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if spec.optimizer in ("adam", "adamw"):
                on = parameter.device if group["fused"] else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=on)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            elif spec.momentum:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def _groups(model: nn.Module, ruled: set[str]) -> list[dict[str, Any]]:
    """Parameters by layer (None: all that no rule names) and by whether they are biases."""
    layers = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    if strange := ruled - layers:
        raise unknown("layer in optim.rules", min(strange), layers)
    sorted_out: dict[tuple[str | None, bool], list[Tensor]] = {(None, False): [], (None, True): []}
    for name, parameter in model.named_parameters():
        layer, _, part = name.rpartition(".")
        key = (layer if layer in ruled else None, parameter.ndim <= 1 or part == "bias")
        sorted_out.setdefault(key, []).append(parameter)
    return [{"params": params, "layer": layer, "bias": bias} for (layer, bias), params in sorted_out.items()]


def set_lrs(optimizer: torch.optim.Optimizer, spec: OptimSpec, weights: float, biases: float, epoch: float) -> None:
    """Give each group its rate and decay at ``epoch``: the two rates given, and what the rules say of its layer."""
    for group in optimizer.param_groups:
        rate, decay = biases if group["bias"] else weights, spec.weight_decay
        for rule in spec.rules:
            if rule.layer == group["layer"] and epoch >= rule.start:
                if rule.lr is not None:
                    rate = _bias_lr_of_rule(rule.lr, spec, biases) if group["bias"] else rule.lr
                decay = decay if rule.weight_decay is None else rule.weight_decay
        group["lr"], group["weight_decay"] = rate, 0.0 if group["bias"] and not spec.decay_biases else decay


def _bias_lr_of_rule(rate: float, spec: OptimSpec, biases: float) -> float:
    """The biases' rate in a layer whose weights go at ``rate``: biases on a schedule of their own only stop with it."""
    if spec.bias_milestones is not None and rate > 0:
        return biases
    return rate * spec.bias_lr_mult


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``<what>.<parameter name>`` → tensor, e.g. ``momentum_buffer.fc6.weight``."""
    return {
        f"{what}.{name}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave, each tensor in its parameter's own layout in memory.

    The layout matters: fused updates walk parameter, gradient and state side by side in memory order. Raises
    ``ValueError`` for a tensor that is missing, is none of this optimizer's or has another shape or type.
    """
    mine = optimizer_tensors(model, optimizer)
    if odd := mine.keys() ^ tensors.keys():
        raise ValueError(f"the optimizer's {min(odd)}")
    for key, value in tensors.items():
        if (value.shape, value.dtype) != (mine[key].shape, mine[key].dtype):
            raise ValueError(f"the optimizer's {key}: {value.dtype} {tuple(value.shape)}")
    for key, value in tensors.items():
        mine[key].copy_(value)
