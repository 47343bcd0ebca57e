"""Statements about trainings. Each check reads the newest measured runs; nothing is trained here.

A mean over seeds is given with its lowest and highest value. A claim whose runs are missing is pending.
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
    CORRECTED,
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    ClaimResult,
    Verdict,
    pending,
    unmeasured,
)
from alexnet_lab.claims.effects import effect
from alexnet_lab.experiments.registry import (
    EXPERIMENTS,
    STEPS,
    STEPS_FIXED,
    STEPS_FP32,
    STEPS_NORMALIZED,
    WHOLE_NORMALIZED,
)
from alexnet_lab.results.reader import TRANSFER, Results, file_name

Run = Mapping[str, Any]
SIGNIFICANT = 0.05
FOUR_LAYERS = ("cuda-convnet-cifar10-13pct", "cuda-convnet-cifar10-11pct")
FOUR_LAYERS_SHORT = tuple(f"{name}-30-epochs" for name in FOUR_LAYERS)
WHOLE = "torchvision-cifar10"
D2L, LENET = "d2l-fashion-mnist", "lenet5-fashion-mnist"
PIXELS_28, PIXELS_65, OTHER_28 = "fashion-mnist-28-pixels", "fashion-mnist-65-pixels", "small-fashion-mnist-quick"
STALL = 0.02  # a loss this close to ln 10 is that of a network that has learned nothing
ENOUGH_SEEDS = 3  # with fewer a verdict is inconclusive
TARGET_ERROR = 0.25  # of figure 1, on the training images
OTHER_ERRORS = (0.5, 0.45, 0.4, 0.35, 0.3)


def shares(values: Sequence[float]) -> str:
    """Shares in words: "91.64% (91.60% – 91.71%, 3 seeds)", or "87.98% (1 seed)"."""
    spread = f"{min(values):.2%} – {max(values):.2%}, {len(values)} seeds" if len(values) > 1 else "1 seed"
    return f"{statistics.mean(values):.2%} ({spread})"


def textbook_alexnet(results: Results) -> ClaimResult:
    """C15: loss 0.33, training accuracy 88 %, test accuracy 89 % after ten epochs.

    Needs three seeds. Supported: the loss within 0.03, training accuracy within 2 points, test accuracy within 1 point.
    Corrected: test accuracy within 3 points.
    """
    runs = results.runs(D2L)
    if not runs:
        return unmeasured(results, [D2L])
    ends = [run["epochs"][-1] for run in runs]
    loss, train = (statistics.mean(end[name] for end in ends) for name in ("train_loss", "train_top1"))
    test = [run["top1"] for run in runs]
    last = [line["test_top1"] for run in runs for line in run["epochs"][-4:] if "test_top1" in line]
    swing = f", in the last four epochs {min(last):.1%} to {max(last):.1%}" if last else ""
    measured = (
        f"training loss {loss:.3f}, training accuracy {train:.1%}, test {shares(test)}{swing}, in "
        f"{runs[0]['hardware']['precision']}"
    )
    figure = f"loss {loss:.2f}, training accuracy {train:.1%}, test accuracy {shares(test)}"
    distance = abs(statistics.mean(test) - 0.89)
    close = abs(loss - 0.33) <= 0.03 and abs(train - 0.88) <= 0.02 and distance <= 0.01
    verdict = SUPPORTED if close else CORRECTED if distance <= 0.03 else NOT_SUPPORTED
    return _by_seeds(verdict, measured, results.evidence(D2L), figure, {"AlexNet": len(runs)})


def _by_seeds(verdict: Verdict, measured: str, evidence: str, figure: str, seeds: Mapping[str, int]) -> ClaimResult:
    """The verdict if every training has enough seeds, else *inconclusive*. ``seeds``: by what was trained."""
    few = [f"{what} with {count}" for what, count in seeds.items() if count < ENOUGH_SEEDS]
    if not few:
        return ClaimResult(verdict, measured, evidence, figure)
    reason = (
        f"Fewer than {ENOUGH_SEEDS} seeds were trained ({', '.join(few)}), so the spread between seeds is not known."
    )
    return ClaimResult(INCONCLUSIVE, measured, evidence, figure, reason)


def lenet_and_alexnet(results: Results) -> ClaimResult:
    """C16: LeNet reaches 84 %, AlexNet is better. Needs three seeds of both."""
    lenet, alexnet = results.runs(LENET), results.runs(D2L)
    if not lenet:
        return unmeasured(results, [LENET])
    measured = f"LeNet {shares([run['top1'] for run in lenet])}"
    evidence = results.evidence(LENET, D2L)
    if not alexnet:
        return pending(f"Not measured yet: {D2L}.", measured, evidence)
    measured += f", AlexNet {shares([run['top1'] for run in alexnet])}"
    better = min(run["top1"] for run in alexnet) > max(run["top1"] for run in lenet)
    near = 0.82 <= statistics.mean(run["top1"] for run in lenet) <= 0.86
    verdict = NOT_SUPPORTED if not better else SUPPORTED if near else CORRECTED
    return _by_seeds(verdict, measured, evidence, measured, {"LeNet": len(lenet), "AlexNet": len(alexnet)})


def adam_on_cifar10(results: Results) -> ClaimResult:
    """C26: Adam at 1e-3 trains torchvision's network on CIFAR-10 in five epochs.

    The verdict depends on the five epochs. More seeds were trained for 400 steps, to show whether they start to learn.
    A seed whose loss is not below ln 10 by ``STALL`` has learned nothing, and neither has a seed that diverged.
    """
    short, whole = (results.runs(name) for name in (STEPS, WHOLE))
    if not short and not whole:
        return unmeasured(results, [WHOLE])
    parts, verdict, figure = [], SUPPORTED, ""
    if short:
        still, count = _without_learning(results, STEPS)
        losses = ", ".join([f"{run['loss']:.2f}" for run in short] + ["not a number"] * (count - len(short)))
        parts.append(f"after 400 steps {still} of {count} seeds are still at ln 10 (test loss {losses})")
        verdict = CORRECTED if still else verdict
        figure = f"after 400 steps {count - still} of {count} seeds learn"
    if whole:
        still, count = _without_learning(results, WHOLE)
        by_epoch = " ".join(f"{line['train_loss']:.2f}" for line in whole[0]["epochs"])
        test = shares([run["top1"] for run in whole])
        parts.append(
            f"after five epochs {still} of {count} seeds are still at ln 10, test accuracy {test}, training loss by "
            f"epoch {by_epoch}"
        )
        verdict = NOT_SUPPORTED if still else verdict
        figure = "; ".join([f"test accuracy {test}", *([figure] if figure else [])])
    if exact := [run["loss"] for run in results.runs(STEPS_FP32)]:
        parts.append(f"in fp32 the test loss after 400 steps is {_spread(exact)}")
    if slower := [run["loss"] for run in results.runs(STEPS_FIXED)]:
        parts.append(f"at a tenth of the learning rate the test loss after 400 steps is {_spread(slower)}")
    parts.append(f"{results.images(STEPS, WHOLE)}, in {(whole or short)[0]['hardware']['precision']}")
    return ClaimResult(verdict, "; ".join(parts), results.evidence(STEPS, STEPS_FP32, WHOLE, STEPS_FIXED), figure)


def _without_learning(results: Results, training: str) -> tuple[int, int]:
    """How many seeds of a training have learned nothing or diverged; and how many seeds there are."""
    finished, lost = results.runs(training), len(results.diverged(training))
    return sum(_stalled(run, 10) for run in finished) + lost, len(finished) + lost


def _stalled(run: Run, classes: int) -> bool:
    return bool(run["loss"] > math.log(classes) - STALL)


def batch_norm_on_cifar10(results: Results) -> ClaimResult:
    """C22: batch normalization stabilizes and speeds up training: the tutorial's training with and without, 400 steps.

    Faster: a lower test loss after the same number of steps, for every seed. Stabler: a smaller variance over the seeds
    that both have, by an F test. A second comparison is an ablation: batch normalization instead of LRN in a small
    network.
    """
    names = (STEPS, STEPS_NORMALIZED)
    if lacking := results.missing(names):
        return unmeasured(results, lacking)
    by_seed = [{run["seed"]: run["loss"] for run in results.runs(name)} for name in names]
    both = sorted(by_seed[0].keys() & by_seed[1].keys())
    without, normalized = ([losses[seed] for seed in both] for losses in by_seed)
    measured = (
        f"test loss after 400 steps {_spread(without)} without and {_spread(normalized)} with batch normalization "
        "before each ReLU (in the source it follows ReLU)"
    )
    if whole := results.runs(WHOLE_NORMALIZED):
        whole_without = shares([run["top1"] for run in results.runs(WHOLE)]) if results.runs(WHOLE) else "not measured"
        measured += f"; after five epochs {shares([run['top1'] for run in whole])} with it, {whole_without} without"
    faster, slower = max(normalized) < min(without), min(normalized) > max(without)
    loss = "lower" if faster else "higher" if slower else "neither clearly lower nor higher"
    figure = f"after 400 steps the test loss is {loss} with it"
    ablation = effect(results, "with-batch-norm")
    if ablation:
        measured += f"; instead of LRN in a small network: test accuracy {ablation}"
        figure += f"; in a small network the accuracy changes by {ablation}"
    measured += f"; {_stabler(without, normalized)}; {results.images(*names)}"
    contrary = slower and ablation is not None and ablation.significant and ablation.difference > 0
    reason = (
        "Two measurements contradict each other: after 400 steps the tutorial's network has a higher loss with batch "
        "normalization, and after six epochs a small network has a higher accuracy with it. "
        if contrary
        else "400 steps are the beginning of a training. "
    ) + "Both networks normalize before ReLU; the source normalizes after it."
    return ClaimResult(
        INCONCLUSIVE, measured, results.evidence(*names, WHOLE_NORMALIZED, "with-batch-norm"), figure, reason
    )


def _stabler(without: Sequence[float], normalized: Sequence[float]) -> str:
    """Whether the second of two samples of the same size varies less, by a two-sided F test."""
    if len(without) < 2:
        return "the spread of one seed is not known"
    before, after = statistics.stdev(without), statistics.stdev(normalized)
    ratio = (max(before, after) / max(min(before, after), 1e-12)) ** 2
    p = 2 * float(f_distribution.sf(ratio, len(without) - 1, len(without) - 1))
    return (
        f"the standard deviation over {len(without)} seeds is {after:.2f} instead of {before:.2f}, "
        + ("a significant difference" if p < SIGNIFICANT else "not a significant difference")
        + f" (p = {p:.2f})"
    )


def samples_per_second(results: Results) -> ClaimResult:
    """C17: 3,900 samples a second on a V100. Measured here: our loop and the textbook's own, on one machine."""
    reason = "No V100 was available, so the figure itself was not measured."
    found = results.bench(D2L, "cuda") or results.bench(D2L)
    if found is None:
        return pending(reason, evidence="alexnet reproduce C17 --run")
    path, value = found
    ours, stock = (statistics.median(turn[name] for turn in value["rounds"]) for name in ("ours", "stock"))
    ratio = statistics.median(turn["ours"] / turn["stock"] for turn in value["rounds"])
    machine = f"{hardware_name(value['hardware'])}, {value['hardware']['precision']}"
    speeds = f"{ours:,.0f} images a second here, {stock:,.0f} with the textbook's own loop in fp32"
    measured = f"{speeds}: {ratio:.1f} × ({machine})"
    return pending(reason, measured, file_name(path))


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{statistics.mean(values):.2f} ({min(values):.2f} – {max(values):.2f}, {len(values)} seeds)"


def enlarged_images(results: Results) -> ClaimResult:
    """C21: the network fits images of 28 pixels badly, so they must be enlarged.

    All trainings have the textbook's constant learning rate, so two trainings are compared after the epochs that both
    have. Another training at 28 pixels shows whether images *must* be enlarged. Needs three seeds of each.
    """
    names = {28: PIXELS_28, 65: PIXELS_65, 224: D2L}
    if lacking := results.missing(names.values()):
        return unmeasured(results, lacking)
    curves = {side: [_test_curve(run) for run in results.runs(name)] for side, name in names.items()}
    parts = []
    for side in (28, 65):
        after = min(len(curve) for some in (curves[side], curves[224]) for curve in some)
        early, large = (shares([curve[after - 1] for curve in curves[each]]) for each in (side, 224))
        parts.append(f"{side} pixels {early} and 224 pixels {large} after epoch {after}")
    measured = (
        f"the source's network needs {smallest_image('d2l')} pixels or more, so the variant small without "
        f"normalization was used at 28 pixels; all with the textbook's training: {'; '.join(parts)}"
    )
    quick = [run["top1"] for run in results.runs(OTHER_28)]
    if quick:
        measured += f". 28 pixels with another training: {shares(quick)}"
    measured += f"; 224 pixels at the end {statistics.mean(curve[-1] for curve in curves[224]):.2%}"
    verdict: Verdict = INCONCLUSIVE
    if quick and min(quick) > max(curve[-1] for curve in curves[224]):
        verdict = CORRECTED
    seeds = {f"{side} pixels": len(curve) for side, curve in curves.items()}
    few = [f"{what} with {count}" for what, count in seeds.items() if count < ENOUGH_SEEDS]
    reason = ""
    if few:
        verdict = INCONCLUSIVE
        reason = f"Fewer than {ENOUGH_SEEDS} seeds were trained: {', '.join(few)}. "
    if verdict == INCONCLUSIVE:
        reason += "So a difference between image sizes cannot be distinguished from a difference between seeds."
    evidence = results.evidence(*names.values(), OTHER_28)
    return ClaimResult(verdict, measured, evidence, "; ".join(parts), reason)


def _test_curve(run: Run) -> list[float]:
    """Test accuracy after each epoch, which the textbook plots."""
    return [line["test_top1"] for line in run["epochs"]]


def smallest_image(variant: str) -> int:
    """The smallest side, in pixels, for which every layer of an AlexNet has an output."""
    architecture = get_architecture(variant)
    assert architecture is not None  # a baseline has none
    return architecture.smallest_image()


ACTIVE = (D2L, WHOLE, "paper-tiny-imagenet", "cuda-convnet-tiny-imagenet", "small-cifar10-2012")


def active_units(results: Results) -> ClaimResult:
    """C13: about half of the ReLU units are active: the share over all units of a trained network, and by layer.

    A network whose loss is still that of random guessing is left out.
    """
    parts: list[str] = []
    overall: dict[str, float] = {}
    every: list[float] = []
    for name in ACTIVE:
        runs = [run for run in results.runs(name) if "active_units" in run]
        learned = [run["active_units"] for run in runs if not _stalled(run, results.classes(name))]
        if runs and not learned:
            parts.append(f"{name} is left out: its loss is still that of random guessing")
        if not learned:
            continue
        layers = {layer: statistics.mean(active[layer] for active in learned) for layer in learned[0]}
        overall[name] = share_of_all_units(name, layers)
        every += layers.values()
        by_layer = ", ".join(f"{layer} {share:.0%}" for layer, share in layers.items())
        parts.append(f"{name}: {overall[name]:.0%} of all units; {by_layer}")
    if not overall:
        return pending("No trained network was measured yet.")
    figure = ", ".join(f"{share:.0%} in {name}" for name, share in overall.items())
    figure += f"; {min(every):.0%} to {max(every):.0%} in single layers"
    reason = (
        "No untrained network was measured as a control. Where weights are drawn symmetrically around zero and biases "
        "are zero, about half of the units are active without any training."
    )
    return ClaimResult(INCONCLUSIVE, "; ".join(parts), results.evidence(*overall), figure, reason)


def share_of_all_units(training: str, layers: Mapping[str, float]) -> float:
    """The share of active units of a whole network; each layer counts with its number of units."""
    recipe = EXPERIMENTS[training].build()
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    network = build(recipe.model.variant, architecture, 10, 3, recipe.data.image_size, device="meta")
    units = {layer.name: math.prod(layer.shape) for layer in summarize(network).layers}
    return sum(share * units[name] for name, share in layers.items()) / sum(units[name] for name in layers)


def epochs_to(run: Run, error: float) -> float | None:
    """The first epoch whose training error is at most ``error``; None if there is none."""
    return next((line["epoch"] for line in run["epochs"] if 1 - line["train_top1"] <= error), None)


def relu_and_tanh(results: Results) -> ClaimResult:
    """C12: ReLU reaches 25 % training error in a sixth of the epochs of tanh.

    If tanh does not reach it in all epochs, the ratio is a lower bound. The ratio at
    other errors shows how much it depends on that choice.
    """
    names = ("fig1-relu", "fig1-tanh")
    if lacking := results.missing(names):
        return unmeasured(results, lacking)
    relu, tanh = ([epochs_to(run, TARGET_ERROR) for run in results.runs(name)] for name in names)
    most = max(run["epochs"][-1]["epoch"] for run in results.runs("fig1-tanh"))
    others = {error: _ratio(results, error) for error in OTHER_ERRORS}
    at_others = ", ".join(f"{ratio:.1f} × at {error:.0%}" for error, ratio in others.items() if ratio is not None)
    measured = (
        f"epochs to {TARGET_ERROR:.0%} training error: ReLU {_epochs(relu, most)}, tanh {_epochs(tanh, most)}; "
        f"{f'ratio at other errors: {at_others}; ' if at_others else ''}"
        f"{results.images(*names)}, training error measured during each epoch; the learning rate of each is the best "
        "on held-out images after six epochs"
    )
    choices = [name for name in EXPERIMENTS if name.startswith(tuple(f"{name}-rate-" for name in names))]
    evidence = results.evidence(*names, *choices)
    reason = (
        "The learning rates were chosen by accuracy on held-out images after six epochs, but the claim is about "
        "training error. The ratio also depends on the chosen error"
        f"{f': {at_others}' if at_others else ''}."
    )
    reached = [epoch for epoch in relu if epoch is not None]
    if len(reached) < len(relu):
        figure = f"ReLU did not reach {TARGET_ERROR:.0%} in every seed"
    else:
        ratio = statistics.mean(most if epoch is None else epoch for epoch in tanh) / statistics.mean(reached)
        figure = f"{ratio:.1f} × or more" if None in tanh else f"{ratio:.1f} ×"
    return ClaimResult(INCONCLUSIVE, measured, evidence, figure, reason)


def _ratio(results: Results, error: float) -> float | None:
    """Epochs of tanh to a training error over those of ReLU, means over seeds; None if a seed does not reach it."""
    relu, tanh = ([epochs_to(run, error) for run in results.runs(name)] for name in ("fig1-relu", "fig1-tanh"))
    of_relu, of_tanh = ([epoch for epoch in each if epoch is not None] for each in (relu, tanh))
    if len(of_relu) < len(relu) or len(of_tanh) < len(tanh):
        return None
    return statistics.mean(of_tanh) / statistics.mean(of_relu)


def _epochs(reached: Sequence[float | None], most: float) -> str:
    return ", ".join(f"not in {most:.0f}" if epoch is None else f"{epoch:.0f}" for epoch in reached)


def four_layer_networks(results: Results) -> ClaimResult:
    """C14: 13 % test error without and 11 % with normalization."""
    whole, short = FOUR_LAYERS, FOUR_LAYERS_SHORT
    shortened = bool(results.missing(whole))
    names = short if shortened else whole
    if lacking := results.missing(names):
        return unmeasured(results, lacking)
    without, with_norm = (shares([1 - run["top1"] for run in results.runs(name)]) for name in names)
    note = " after 30 epochs instead of 520" if shortened else ""
    figure = f"{without} without and {with_norm} with normalization{note}"
    measured = f"test error {without} without, {with_norm} with normalization and a wider layer{note}"
    measured += f"; {results.images(*names)}"
    reason = "Normalization is not the only difference: the network with normalization is also wider."
    if shortened:
        reason += " Both were trained for 30 epochs instead of 520."
    return ClaimResult(INCONCLUSIVE, measured, results.evidence(*names), figure, reason)


def transfer_learning(results: Results) -> ClaimResult:
    """C23: transfer learning is faster and overfits less than training from random weights.

    Both are trained on the same draws of images. Overfitting is the difference between the accuracies on training and
    on test images. The claim is supported if both hold for every draw, and not supported if one holds for none.
    """
    found = results.bench(TRANSFER)
    rows = [] if found is None else found[1]["trainings"]
    given, random = (
        {(row["draw"], row["seed"]): row for row in rows if row["method"] == method}
        for method in ("default", "random weights")
    )
    pairs = [(given[key], random[key]) for key in sorted(given.keys() & random.keys())]
    if found is None or not pairs:
        return pending("`python -m alexnet_lab.transfer` has not been run yet.", evidence="–")
    gaps = [tuple(row["train_top1"] - row["top1"] for row in pair) for pair in pairs]
    faster = sum(one["seconds"] < other["seconds"] for one, other in pairs)
    closer = sum(one < other for one, other in gaps)
    better = statistics.mean(one["top1"] - other["top1"] for one, other in pairs)
    ratio = statistics.median(other["seconds"] / one["seconds"] for one, other in pairs)
    mean_gaps = [100 * statistics.mean(each) for each in zip(*gaps, strict=True)]
    figure = f"faster in {faster} and less overfitting in {closer} of {len(pairs)} pairs of trainings"
    measured = (
        f"{figure}; {ratio:.1f} × as fast (median); train − test accuracy {mean_gaps[0]:.1f} points, from random "
        f"weights {mean_gaps[1]:.1f}; test accuracy {100 * better:+.1f} points"
    )
    all_hold = faster == closer == len(pairs)
    verdict = SUPPORTED if all_hold else INCONCLUSIVE if faster and closer else NOT_SUPPORTED
    reason = "" if verdict != INCONCLUSIVE else "It holds for some draws of images, not for all."
    return ClaimResult(verdict, measured, f"`{file_name(found[0])}`", figure, reason)
