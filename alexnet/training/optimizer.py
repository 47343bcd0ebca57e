"""Optimizers, their parameter groups, and the optimizer state as named tensors.

In SGD of 2012 the learning rate ε is inside the velocity (paper §5; ``src/weights.cu`` of the released code):
v ← m·v − ε·(g + λ·w), w ← w + v. In torch's SGD it is outside. With a constant learning rate both are the same. After
the learning rate is lowered, the velocity of 2012 still contains the old learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from alexnet.config import OptimSpec
from alexnet.core.errors import unknown


class _WithVelocity(torch.optim.Optimizer):
    """An optimizer with one velocity for each parameter, which is 0 at first. A subclass has the update rule."""

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        super().__init__(params, settings)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure")
        for group in self.param_groups:
            if moving := [p for p in group["params"] if p.grad is not None]:
                self.update(group, moving, [self.state[p]["momentum_buffer"] for p in moving])

    def update(self, group: dict[str, Any], moving: list[Any], velocities: list[Tensor]) -> None:
        """Update the parameters ``moving`` of a group, and their velocities, in place."""
        raise NotImplementedError


class SGD2012(_WithVelocity):
    """Stochastic gradient descent as in the code of 2012.

    It equals ``torch.optim.SGD`` with momentum m·ε_prev/ε at a step where the learning rate changes from ε_prev to ε. A
    learning rate of 0 freezes a parameter: no update, no weight decay, and its velocity does not change.

    ``fused``: use the kernel of torch's fused SGD. It reads and writes each number once, and does nothing if the 0-d
    tensor ``found_inf`` is 1, which no host waits for. Its rule is v ← m·v + (1 − d)·(g + λ·w), w ← w − lr·v, which is
    that of 2012 for d = 1 + ε and lr = −1, but for the last bits. It needs a momentum.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused and momentum > 0)

    def update(self, group: dict[str, Any], moving: list[Any], velocities: list[Tensor]) -> None:
        """Update the parameters of a group, unless its learning rate is 0."""
        if group["lr"] <= 0:
            return
        if group["fused"]:
            gradients, buffers = [p.grad for p in moving], list[Tensor | None](velocities)
            sgd(
                moving, gradients, buffers, fused=True, found_inf=self.found_inf, lr=-1.0, dampening=1 + group["lr"],
                momentum=group["momentum"], weight_decay=group["weight_decay"], nesterov=False, maximize=False,
            )  # fmt: skip
            return
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, [p.grad for p in moving], alpha=-group["lr"])
        torch._foreach_add_(velocities, moving, alpha=-group["lr"] * group["weight_decay"])
        torch._foreach_add_(moving, velocities)


class LARS(_WithVelocity):
    """Layer-wise adaptive rate scaling, for large batches (You, Gitman and Ginsburg, arXiv:1708.03888, 2017).

    The gradient of each weight tensor, with its weight decay λ, is multiplied by η ‖w‖ / (‖g‖ + λ ‖w‖) before a step of
    SGD with momentum. Tensors without weight decay, such as biases, are not scaled. With ``trust_clip`` (LARC), the
    learning rate of a tensor is min(η ‖w‖ / (‖g‖ + λ ‖w‖), lr). The updates are those of timm's ``Lars``.
    """

    EPS = 1e-8

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coeff: float = 0.001,
        trust_clip: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coeff=trust_coeff, trust_clip=trust_clip
        )

    def update(self, group: dict[str, Any], moving: list[Any], velocities: list[Tensor]) -> None:
        """Update the parameters of a group. The gradients are changed."""
        gradients = [p.grad for p in moving]
        if group["weight_decay"]:
            factors = [self._factor(p, group) for p in moving]
            torch._foreach_add_(gradients, moving, alpha=group["weight_decay"])
            torch._foreach_mul_(gradients, factors)
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(moving, velocities, alpha=-group["lr"])

    def _factor(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        weight, gradient = parameter.norm(), parameter.grad.norm()
        decayed = gradient + group["weight_decay"] * weight + self.EPS
        trust = group["trust_coeff"] * weight / decayed
        trust = torch.where((weight > 0) & (gradient > 0), trust, torch.ones_like(trust))
        return (trust / group["lr"]).clamp(max=1.0) if group["trust_clip"] and group["lr"] else trust


def build_optimizer(model: nn.Module, spec: OptimSpec, *, fused: bool = True) -> torch.optim.Optimizer:
    """The optimizer of a recipe, with its parameter groups and its initial state.

    There are two groups, weights and biases (with the scales and shifts of normalizations), and two more for each layer
    with rules. ``fused``: use fused optimizers; ``sgd-2012`` has a fused form on GPUs only (its results differ in the
    last bits), and ``lars`` has none. Raises ``UserError`` for a rule about a layer that the model does not have.
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
            on_gpu = any(parameter.is_cuda for group in groups for parameter in group["params"])
            return SGD2012(groups, spec.lr, spec.momentum, fused=fused and on_gpu)
        case "lars":
            return LARS(
                groups, spec.lr, spec.momentum, trust_coeff=spec.trust_coeff, trust_clip=spec.trust_clip
            )  # fmt: skip
        case "adam":
            return torch.optim.Adam(groups, spec.lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, spec.lr, fused=fused)


def _start(optimizer: torch.optim.Optimizer, spec: OptimSpec) -> None:
    """Create the state that torch would create in the first step.

    So the state is complete even if the first step updates nothing, and the state of a checkpoint can be compared with
    it.
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
    """Parameter groups by layer (None: all layers without rules) and by whether they are biases."""
    layers = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    if missing := ruled - layers:
        raise unknown("layer in optim.rules", min(missing), layers)
    sorted_out: dict[tuple[str | None, bool], list[Tensor]] = {(None, False): [], (None, True): []}
    for name, parameter in model.named_parameters():
        layer, _, part = name.rpartition(".")
        key = (layer if layer in ruled else None, parameter.ndim <= 1 or part == "bias")
        sorted_out.setdefault(key, []).append(parameter)
    return [{"params": params, "layer": layer, "bias": bias} for (layer, bias), params in sorted_out.items()]


def set_lrs(optimizer: torch.optim.Optimizer, spec: OptimSpec, weights: float, biases: float, epoch: float) -> None:
    """Set the learning rate and weight decay of each group at ``epoch``.

    ``weights``, ``biases``: the learning rates of layers without a rule. Rules for the layer of a group are applied
    afterwards.
    """
    for group in optimizer.param_groups:
        lr, decay = biases if group["bias"] else weights, spec.weight_decay
        for rule in spec.rules:
            if rule.layer == group["layer"] and epoch >= rule.start:
                if rule.lr is not None:
                    lr = _bias_lr_of_rule(rule.lr, spec, biases) if group["bias"] else rule.lr
                if rule.lr_mult is not None:
                    lr *= rule.lr_mult
                decay = decay if rule.weight_decay is None else rule.weight_decay
        group["lr"], group["weight_decay"] = lr, 0.0 if group["bias"] and not spec.decay_biases else decay


def _bias_lr_of_rule(lr: float, spec: OptimSpec, biases: float) -> float:
    """The learning rate of the biases in a layer whose weights have ``lr`` by a rule.

    Biases with a schedule of their own keep its learning rate ``biases``, unless ``lr`` is 0, which freezes the layer.
    """
    if spec.bias_milestones is not None and lr > 0:
        return biases
    return lr * spec.bias_lr_mult


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``<what>.<parameter name>`` → tensor, e.g. ``momentum_buffer.fc6.weight``."""
    return {
        f"{what}.{name}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of :func:`optimizer_tensors` into the optimizer's state; their memory format stays the same.

    The memory format matters, because fused optimizers read parameter, gradient and state in the order in memory.
    Raises ``ValueError`` for a tensor that is missing or unexpected, or has another shape or dtype.
    """
    state = optimizer_tensors(model, optimizer)
    if differing := state.keys() ^ tensors.keys():
        raise ValueError(f"the optimizer's {min(differing)}")
    for key, value in tensors.items():
        if (value.shape, value.dtype) != (state[key].shape, state[key].dtype):
            raise ValueError(f"the optimizer's {key}: {value.dtype} {tuple(value.shape)}")
    for key, value in tensors.items():
        state[key].copy_(value)
