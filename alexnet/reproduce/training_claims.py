"""Statements about trainings: each reads the newest measured runs in ``results/`` and says what they show.

A mean over seeds is given with its lowest and highest. Nothing here trains; what is missing is said to be pending.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet.reproduce.finding import CONFIRMED, REFUTED, Finding, Results, at_this_scale, out_of_reach, pending

Run = Mapping[str, Any]


def shares(values: Sequence[float]) -> str:
    """Shares in words: "91.64% (91.60% – 91.71%, 3 seeds)"; the brackets only where there is more than one."""
    spread = f" ({min(values):.2%} – {max(values):.2%}, {len(values)} seeds)" if len(values) > 1 else " (1 seed)"
    return f"{statistics.mean(values):.2%}{spread}"


def _missing(*trainings: str) -> Finding:
    names = " and ".join(trainings)
    return Finding("–", pending(f"{names} not measured yet"), "alexnet train " + trainings[0])


def textbook_alexnet(results: Results) -> Finding:
    """C15: loss 0.33, training accuracy 88 %, test accuracy 89 % after ten epochs."""
    runs = results.runs("d2l-fashion-mnist")
    if not runs:
        return _missing("d2l-fashion-mnist")
    ends = [run["epochs"][-1] for run in runs]
    loss, train = (statistics.mean(end[name] for end in ends) for name in ("train_loss", "train_top1"))
    test = [run["top1"] for run in runs]
    measured = f"training loss {loss:.3f}, training accuracy {train:.1%}, test {shares(test)}"
    right = 0.88 <= statistics.mean(test) <= 0.90
    return Finding(measured, CONFIRMED if right else REFUTED, results.evidence("d2l-fashion-mnist"))


def lenet_and_alexnet(results: Results) -> Finding:
    """C16: LeNet reaches 84 %, AlexNet is better."""
    lenet, alexnet = results.runs("lenet5-fashion-mnist"), results.runs("d2l-fashion-mnist")
    if not lenet:
        return _missing("lenet5-fashion-mnist")
    measured = f"LeNet {shares([run['top1'] for run in lenet])}"
    evidence = results.evidence("lenet5-fashion-mnist", "d2l-fashion-mnist")
    if not alexnet:
        return Finding(measured, pending("d2l-fashion-mnist not measured yet"), evidence)
    measured += f", AlexNet {shares([run['top1'] for run in alexnet])}"
    better = min(run["top1"] for run in alexnet) > max(run["top1"] for run in lenet)
    near = 0.82 <= statistics.mean(run["top1"] for run in lenet) <= 0.86
    return Finding(measured, CONFIRMED if better and near else REFUTED, evidence)


def adam_on_cifar10(results: Results) -> Finding:
    """C26: Adam at 1e-3 trains torchvision's network on CIFAR-10."""
    runs = results.runs("torchvision-cifar10")
    if not runs:
        return _missing("torchvision-cifar10")
    losses = " ".join(f"{line['train_loss']:.2f}" for line in runs[0]["epochs"])
    measured = f"training loss by epoch {losses}; test {shares([run['top1'] for run in runs])}"
    trained = sum(run["epochs"][-1]["train_loss"] < 2.0 for run in runs)
    verdict = CONFIRMED if trained == len(runs) else REFUTED
    return Finding(f"{trained} of {len(runs)} trained: {measured}", verdict, results.evidence("torchvision-cifar10"))


def epochs_to(run: Run, error: float) -> float | None:
    """The first epoch whose training error is at most ``error``; None if there is none."""
    return next((line["epoch"] for line in run["epochs"] if 1 - line["train_top1"] <= error), None)


def relu_and_tanh(results: Results) -> Finding:
    """C12: ReLU reaches 25 % training error six times sooner than tanh."""
    names = ("fig1-relu", "fig1-tanh")
    if not all(results.runs(name) for name in names):
        return _missing(*names)
    reached = {name: [epochs_to(run, 0.25) for run in results.runs(name)] for name in names}
    evidence = results.evidence(*names)
    relu = [epoch for epoch in reached["fig1-relu"] if epoch]
    tanh = [epoch for epoch in reached["fig1-tanh"] if epoch]
    if not relu or not tanh:
        slow = ", ".join(name for name in names if not any(reached[name]))
        return Finding(f"not reached in 40 epochs: {slow}", at_this_scale("25 % error was not reached"), evidence)
    ratio = statistics.mean(tanh) / statistics.mean(relu)
    measured = f"epochs to 25 % training error: ReLU {statistics.mean(relu):.1f}, tanh {statistics.mean(tanh):.1f}"
    return Finding(measured, at_this_scale(f"{ratio:.1f} ×"), evidence)


def four_layer_nets(results: Results) -> Finding:
    """C14: 13 % without and 11 % with normalization."""
    names = ("cuda-convnet-cifar10-13pct", "cuda-convnet-cifar10-11pct")
    if not all(results.runs(name) for name in names):
        return _missing(*names)
    errors = [shares([1 - run["top1"] for run in results.runs(name)]) for name in names]
    return Finding(f"{errors[0]} and {errors[1]}", at_this_scale(" and ".join(errors)), results.evidence(*names))


def not_measured(what: str) -> Finding:
    """A statement whose training or measure has no command yet."""
    return Finding("–", pending(what), "–")


def at_imagenet_s_scale(results: Results) -> Finding:
    """C25: gains of a point or less, on ILSVRC."""
    return Finding(
        "–", out_of_reach("gains of 0.4 and 1.7 points were measured on 1.2 million images"), "paper, §3.2 and §3.4"
    )
