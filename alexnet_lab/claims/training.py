"""Statements about trainings: each reads the newest measured runs in ``results/`` and says what they show.

A mean over seeds is given with its lowest and highest. Nothing here trains; what is missing is said to be pending.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import f as f_distribution

from alexnet.models.registry import build, get_architecture
from alexnet.models.summary import summarize
from alexnet.runtime.device import hardware_name
from alexnet_lab.claims.claim_result import (
    CONFIRMED,
    CORRECTED,
    REFUTED,
    RUN_ALL,
    ClaimResult,
    Results,
    at_this_scale,
    out_of_reach,
    pending,
    unmeasured,
)
from alexnet_lab.experiments.effects import effect
from alexnet_lab.experiments.registry import (
    EXPERIMENTS,
    STEPS,
    STEPS_FIXED,
    STEPS_FP32,
    STEPS_NORMALIZED,
    WHOLE_NORMALIZED,
)

Run = Mapping[str, Any]
SIGNIFICANT = 0.05
FOUR_LAYERS = ("cuda-convnet-cifar10-13pct", "cuda-convnet-cifar10-11pct")
FOUR_LAYERS_BRIEFLY = tuple(f"{name}-30-epochs" for name in FOUR_LAYERS)
WHOLE = "torchvision-cifar10"
STALL = 0.02  # so near ln 10 a network has learned nothing
ENOUGH_SEEDS = 3  # of which a figure is compared with a claimed one


def shares(values: Sequence[float]) -> str:
    """Shares in words: "91.64% (91.60% – 91.71%, 3 seeds)"; the brackets only where there is more than one."""
    evenly_spaced = f" ({min(values):.2%} – {max(values):.2%}, {len(values)} seeds)" if len(values) > 1 else " (1 seed)"
    return f"{statistics.mean(values):.2%}{evenly_spaced}"


def textbook_alexnet(results: Results) -> ClaimResult:
    """C15: loss 0.33, training accuracy 88 %, test accuracy 89 % after ten epochs.

    Three seeds decide: confirmed within 0.03 of the loss, 2 points of the one and 1 of the other accuracy, corrected
    within 3 points of test accuracy. Of fewer the figures stand by themselves, beside how far the last epochs differ.
    """
    runs = results.runs("d2l-fashion-mnist")
    if not runs:
        return unmeasured(results, ["d2l-fashion-mnist"])
    ends = [run["epochs"][-1] for run in runs]
    loss, train = (statistics.mean(end[name] for end in ends) for name in ("train_loss", "train_top1"))
    test = [run["top1"] for run in runs]
    last = [line["test_top1"] for run in runs for line in run["epochs"][-4:] if "test_top1" in line]
    swing = f", in the last four epochs {min(last):.1%} to {max(last):.1%}" if last else ""
    measured = (
        f"training loss {loss:.3f}, training accuracy {train:.1%}, test {shares(test)}{swing}, in "
        f"{runs[0]['hardware']['precision']}"
    )
    distance = abs(statistics.mean(test) - 0.89)
    as_said = abs(loss - 0.33) <= 0.03 and abs(train - 0.88) <= 0.02 and distance <= 0.01
    verdict = CONFIRMED if as_said else CORRECTED if distance <= 0.03 else REFUTED
    if len(runs) < ENOUGH_SEEDS:
        verdict = at_this_scale(f"loss {loss:.2f}, {train:.1%} and {statistics.mean(test):.1%} with {_seeds(runs)}")
    return ClaimResult(measured, verdict, results.evidence("d2l-fashion-mnist"))


def _seeds(runs: Sequence[Run]) -> str:
    return f"{len(runs)} seed" + ("s" if len(runs) > 1 else "")


def lenet_and_alexnet(results: Results) -> ClaimResult:
    """C16: LeNet reaches 84 %, AlexNet is better."""
    lenet, alexnet = results.runs("lenet5-fashion-mnist"), results.runs("d2l-fashion-mnist")
    if not lenet:
        return unmeasured(results, ["lenet5-fashion-mnist"])
    measured = f"LeNet {shares([run['top1'] for run in lenet])}"
    evidence = results.evidence("lenet5-fashion-mnist", "d2l-fashion-mnist")
    if not alexnet:
        return ClaimResult(measured, pending("d2l-fashion-mnist not measured yet"), evidence)
    measured += f", AlexNet {shares([run['top1'] for run in alexnet])}"
    better = min(run["top1"] for run in alexnet) > max(run["top1"] for run in lenet)
    near = 0.82 <= statistics.mean(run["top1"] for run in lenet) <= 0.86
    verdict = REFUTED if not better else CONFIRMED if near else CORRECTED
    return ClaimResult(measured, verdict, evidence)


def adam_on_cifar10(results: Results) -> ClaimResult:
    """C26: Adam at 1e-3 trains torchvision's network on CIFAR-10 in five epochs.

    All five epochs decide; of more seeds 400 steps say whether they begin to learn. At the end of either, a loss that
    is not below ln 10 by ``STALL`` has learned nothing, and a seed that diverged has not either.
    """
    begun, whole = (results.runs(name) for name in (STEPS, WHOLE))
    if not begun and not whole:
        return unmeasured(results, [WHOLE])
    parts, verdict = [], CONFIRMED
    if begun:
        still, ended = _without_learning(results, STEPS)
        losses = ", ".join([f"{run['loss']:.2f}" for run in begun] + ["not a number"] * (ended - len(begun)))
        parts.append(f"after 400 steps {still} of {ended} seeds stand at ln 10 (test loss {losses})")
        verdict = CORRECTED if still else verdict
    if whole:
        still, ended = _without_learning(results, WHOLE)
        by_epoch = " ".join(f"{line['train_loss']:.2f}" for line in whole[0]["epochs"])
        test = shares([run["top1"] for run in whole])
        parts.append(
            f"after five epochs {still} of {ended} stand there, test {test}, training loss by epoch {by_epoch}"
        )
        verdict = REFUTED if still else verdict
    if exact := [run["loss"] for run in results.runs(STEPS_FP32)]:
        parts.append(f"in fp32 the test loss after 400 steps is {_spread(exact)}")
    if slower := [run["loss"] for run in results.runs(STEPS_FIXED)]:
        parts.append(f"at a tenth of the rate the test loss after 400 steps is {_spread(slower)}")
    parts.append(f"{results.images(STEPS, WHOLE)}, in {(whole or begun)[0]['hardware']['precision']}")
    return ClaimResult("; ".join(parts), verdict, results.evidence(STEPS, STEPS_FP32, WHOLE, STEPS_FIXED))


def _without_learning(results: Results, training: str) -> tuple[int, int]:
    """How many seeds of a training stand where guessing does, or diverged; and how many there are."""
    finished, lost = results.runs(training), len(results.diverged(training))
    return sum(_stalled(run, 10) for run in finished) + lost, len(finished) + lost


def _stalled(run: Run, classes: int) -> bool:
    return bool(run["loss"] > math.log(classes) - STALL)


def batch_norm_on_cifar10(results: Results) -> ClaimResult:
    """C22: batch normalization stabilises and speeds training: the tutorial's training with and without, 400 steps.

    Faster is a lower test loss after as many steps, in every seed; steadier is a smaller variance over the seeds that
    both have, where an F test can tell. Beside it the whole training, and the ablation, which puts it in response
    normalization's place on a small network.
    """
    names = (STEPS, STEPS_NORMALIZED)
    if lacking := results.lacking(names):
        return unmeasured(results, lacking)
    by_seed = [{run["seed"]: run["loss"] for run in results.runs(name)} for name in names]
    both = sorted(by_seed[0].keys() & by_seed[1].keys())
    plain, normalized = ([losses[seed] for seed in both] for losses in by_seed)
    measured = (
        f"test loss after 400 steps {_spread(plain)} without, {_spread(normalized)} with it before each ReLU (the "
        "document has it after)"
    )
    if whole := results.runs(WHOLE_NORMALIZED):
        without = shares([run["top1"] for run in results.runs(WHOLE)]) if results.runs(WHOLE) else "not measured"
        measured += f"; after five epochs {shares([run['top1'] for run in whole])} with it, {without} without"
    if found := effect(results, "with-batch-norm"):
        measured += f"; instead of response normalization in a small network: test accuracy {found}"
    faster, slower = max(normalized) < min(plain), min(normalized) > max(plain)
    speed = "faster" if faster else "slower" if slower else "neither faster nor slower beyond the seeds' spread"
    measured += f"; {results.images(*names)}"
    verdict = at_this_scale(f"after 400 steps {speed}; {_steadier(plain, normalized)}")
    return ClaimResult(measured, verdict, results.evidence(*names, WHOLE_NORMALIZED, "with-batch-norm"))


def _steadier(plain: Sequence[float], normalized: Sequence[float]) -> str:
    """Whether the second of two samples of as many seeds varies less, by a two-sided F test."""
    if len(plain) < 2:
        return "one seed says nothing of steadiness"
    before, after = statistics.stdev(plain), statistics.stdev(normalized)
    ratio = (max(before, after) / max(min(before, after), 1e-12)) ** 2
    p = 2 * float(f_distribution.sf(ratio, len(plain) - 1, len(plain) - 1))
    told = f"a standard deviation over {len(plain)} seeds of {after:.2f} instead of {before:.2f}"
    return (
        f"{told}, "
        + ("a difference" if p < SIGNIFICANT else "which so few cannot tell from chance")
        + f" (p = {p:.2f})"
    )


def samples_per_second(results: Results) -> ClaimResult:
    """C17: 3,900 samples a second on a V100; here ours beside the textbook's own loop, by turns on one machine."""
    found = results.comparison("d2l-fashion-mnist", "cuda") or results.comparison("d2l-fashion-mnist")
    no_v100 = out_of_reach("no V100 was at hand")
    if found is None:
        return ClaimResult("–", no_v100, "alexnet reproduce C17 --run")
    path, value = found
    ours, stock = (statistics.median(turn[name] for turn in value["rounds"]) for name in ("ours", "stock"))
    ratio = statistics.median(turn["ours"] / turn["stock"] for turn in value["rounds"])
    device_config = f"{hardware_name(value['hardware'])}, {value['hardware']['precision']}"
    measured = (
        f"{ours:,.0f} a second here, {stock:,.0f} by the textbook's own loop in fp32: {ratio:.1f} × ({device_config})"
    )
    return ClaimResult(measured, no_v100, f"results/{path.name}")


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{statistics.mean(values):.2f} ({min(values):.2f} – {max(values):.2f}, {len(values)} seeds)"


def enlarged_images(results: Results) -> ClaimResult:
    """C21: 28-pixel images fit the network badly and must be enlarged.

    All have the textbook's constant rate, so two are held against each other after as many epochs as both were trained.
    What another training reaches at 28 pixels decides whether images *must* be enlarged.
    """
    names = {28: "fashion-mnist-28-pixels", 65: "fashion-mnist-65-pixels", 224: "d2l-fashion-mnist"}
    if lacking := results.lacking(names.values()):
        return unmeasured(results, lacking)
    curves = {side: [_test_curve(run) for run in results.runs(name)] for side, name in names.items()}
    parts = []
    for side in (28, 65):
        after = min(len(curve) for some in (curves[side], curves[224]) for curve in some)
        early, large = (shares([curve[after - 1] for curve in curves[each]]) for each in (side, 224))
        parts.append(f"{side} pixels {early} and 224 pixels {large} after epoch {after}")
    measured = (
        f"its own network takes {smallest_image('d2l')} pixels or more; at 28 the variant small without normalization; "
        f"all by the textbook's training: {'; '.join(parts)}"
    )
    enlarged = statistics.mean(curve[-1] for curve in curves[224])
    quick = [run["top1"] for run in results.runs("small-fashion-mnist-quick")]
    if quick:
        measured += f". 28 pixels trained another way: {shares(quick)}"
    if quick and min(quick) > max(curve[-1] for curve in curves[224]):
        verdict = CORRECTED
    else:
        verdict = at_this_scale(f"{'; '.join(parts)}")
    measured += f"; 224 pixels in the end {enlarged:.2%}"
    return ClaimResult(measured, verdict, results.evidence(*names.values(), "small-fashion-mnist-quick"))


def _test_curve(run: Run) -> list[float]:
    """Test accuracy after each epoch, which the textbook plots."""
    return [line["test_top1"] for line in run["epochs"]]


def smallest_image(variant: str) -> int:
    """The smallest side, in pixels, for which every layer of an AlexNet has an output."""
    architecture = get_architecture(variant)
    assert architecture is not None  # a baseline has none
    return architecture.smallest_image()


ACTIVE = ("d2l-fashion-mnist", WHOLE, "paper-tiny-imagenet", "cuda-convnet-tiny-imagenet", "small-cifar10-2012")


def active_units(results: Results) -> ClaimResult:
    """C13: about half of the ReLU units are active: of all units of a trained network.

    Confirmed where that is 40 to 60 % in each network and in each of its layers. A network whose loss is still where
    guessing has it is none.
    """
    parts: list[str] = []
    overall: dict[str, float] = {}
    every: list[float] = []
    for name in ACTIVE:
        runs = [run for run in results.runs(name) if "active_units" in run]
        learned = [run["active_units"] for run in runs if not _stalled(run, results.classes(name))]
        if runs and not learned:
            parts.append(f"{name} left out: its loss still stands where guessing has it")
        if not learned:
            continue
        layers = {layer: statistics.mean(active[layer] for active in learned) for layer in learned[0]}
        overall[name] = share_of_all_units(name, layers)
        every += layers.values()
        by_layer = ", ".join(f"{layer} {share:.0%}" for layer, share in layers.items())
        parts.append(f"{name}: {overall[name]:.0%} of all units; {by_layer}")
    if not overall:
        return ClaimResult("–", pending("no trained network was measured yet"), RUN_ALL)
    half = all(0.4 <= share <= 0.6 for share in [*overall.values(), *every])
    figures = ", ".join(f"{share:.0%} in {name}" for name, share in overall.items())
    found = at_this_scale(f"{figures}; in single layers {min(every):.0%} to {max(every):.0%}")
    return ClaimResult("; ".join(parts), CONFIRMED if half else found, results.evidence(*overall))


def share_of_all_units(training: str, layers: Mapping[str, float]) -> float:
    """The share of active units over whole layers together, each counted with as many units as it has."""
    recipe = EXPERIMENTS[training].build()
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    network = build(recipe.model.variant, architecture, 10, 3, recipe.data.image_size, device="meta")
    units = {layer.name: math.prod(layer.shape) for layer in summarize(network).layers}
    return sum(share * units[name] for name, share in layers.items()) / sum(units[name] for name in layers)


def epochs_to(run: Run, error: float) -> float | None:
    """The first epoch whose training error is at most ``error``; None if there is none."""
    return next((line["epoch"] for line in run["epochs"] if 1 - line["train_top1"] <= error), None)


def relu_and_tanh(results: Results) -> ClaimResult:
    """C12: ReLU reaches 25 % training error six times sooner than tanh.

    A tanh that has not reached it at the end needs more than all epochs; then the ratio is a lower bound.
    """
    names = ("fig1-relu", "fig1-tanh")
    if lacking := results.lacking(names):
        return unmeasured(results, lacking)
    relu, tanh = ([epochs_to(run, 0.25) for run in results.runs(name)] for name in names)
    most = max(run["epochs"][-1]["epoch"] for run in results.runs("fig1-tanh"))
    measured = (
        f"epochs to 25 % training error: ReLU {_epochs(relu, most)}, tanh {_epochs(tanh, most)}; "
        f"{results.images(*names)}, training error as it went in each epoch; the rate of each its best on held-out "
        "images after six epochs"
    )
    choices = [name for name in EXPERIMENTS if name.startswith(tuple(f"{name}-rate-" for name in names))]
    evidence = results.evidence(*names, *choices)
    sooner = [epoch for epoch in relu if epoch is not None]
    if len(sooner) < len(relu):
        return ClaimResult(measured, at_this_scale("ReLU did not reach it in every seed"), evidence)
    ratio = statistics.mean(most if epoch is None else epoch for epoch in tanh) / statistics.mean(sooner)
    bound = "more than " if None in tanh else ""
    return ClaimResult(measured, at_this_scale(f"{bound}{ratio:.1f} ×"), evidence)


def _epochs(reached: Sequence[float | None], most: float) -> str:
    return ", ".join(f"not in {most:.0f}" if epoch is None else f"{epoch:.0f}" for epoch in reached)


def four_layer_nets(results: Results) -> ClaimResult:
    """C14: 13 % without and 11 % with normalization."""
    whole, short = FOUR_LAYERS, FOUR_LAYERS_BRIEFLY
    names, note = (short, " after 30 epochs instead of 520") if results.lacking(whole) else (whole, "")
    if lacking := results.lacking(names):
        return unmeasured(results, lacking)
    without, with_norm = (shares([1 - run["top1"] for run in results.runs(name)]) for name in names)
    measured = f"test error {without} without, {with_norm} with normalization and a wider layer{note}"
    measured += f"; {results.images(*names)}"
    return ClaimResult(measured, at_this_scale(f"{without} and {with_norm}{note}"), results.evidence(*names))


def not_measured(what: str) -> ClaimResult:
    """A statement whose training or measure has no command yet."""
    return ClaimResult("–", pending(what), "–")
