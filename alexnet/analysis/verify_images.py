"""Findings from images: which preprocessing fits the weights. ``preprocessing_trials.py`` measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from alexnet.analysis.preprocessing_trials import FEWEST_IMAGES, STATED, USUAL_TEMPERATURES, Setting, Trial, Trials
from alexnet.analysis.verify_report import Fault, Finding, VerifyReport, summarize_report

MOST_SILENT = 0.9  # of the units of a layer; a healthy network had 29 % silent units in fc6


def with_trials(report: VerifyReport, trials: Trials) -> VerifyReport:
    """The report with the accuracies under several preprocessings, and what they decide."""
    best, stated, findings = trials.best, trials.stated, []
    if trials.refused:
        findings.append(Finding("unknown", f"{trials.refused} images could not be read"))
    if not trials.fits and best.images < FEWEST_IMAGES:
        line = f"which preprocessing fits: {best.images} images are too few to tell, use {FEWEST_IMAGES} or more"
        return _with(report, [*findings, Finding("unknown", line)], trials)
    if not trials.fits:
        line = (
            f"no preprocessing gives more than guessing ({100 * trials.chance:.1f} %) on {best.images} images: "
            f"the best has {_percent(best)}; the weights, the order of the classes or the labels are wrong"
        )
        findings.append(Finding("wrong", line, "preprocessing"))
        return _with(report, findings, trials)
    figures = {"accuracy": best.accuracy, "stated": stated.accuracy, "behind": stated.behind, "error": stated.error}
    beside = f"{describe_trial(best)}: {_percent(best)}; {describe_trial(stated)}: {_percent(stated)}"
    if trials.stated_is_wrong:
        wrong = trials.wrong_settings
        fault, what = WRONG_SETTING[wrong[0]] if len(wrong) == 1 else SEVERAL_WRONG
        line = f"{what}: {beside}; the difference is {100 * stated.behind:.1f} ± {100 * stated.error:.1f} points"
        findings.append(Finding("wrong", line, fault, figures=figures))
    elif trials.alpha is not None:
        findings.append(_alpha_finding(*trials.alpha))
    elif trials.dropout is not None and trials.dropout_is_wrong:
        findings.append(_dropout_finding(*trials.dropout))
    elif stated.tie:
        findings.append(
            Finding(
                "right", f"the stated preprocessing fits: {describe_trial(stated)}: {_percent(stated)}", figures=figures
            )
        )
    else:
        line = (
            f"another preprocessing may fit better: {beside}; the difference is {100 * stated.behind:.1f} ± "
            f"{100 * stated.error:.1f} points"
        )
        findings.append(Finding("unknown", line, figures=figures))
    if trials.dropout is not None and not any(finding.fault for finding in findings):
        findings.append(_dropout_remark(*trials.dropout))
    if ties := [describe_trial(trial) for trial in trials.trials if trial.tie and trial != best]:
        line = f"a tie with {describe_trial(best)} on {best.images} images: {'; '.join(ties)}"
        findings.append(Finding("unknown", line))
    for layer, (silent, units) in trials.never_active.items():
        if silent:
            line = f"{layer}: {silent} of {units} units are never active on {best.images} images"
            dead: Fault | None = "dead-units" if silent > MOST_SILENT * units else None
            findings.append(Finding("wrong" if dead else "unknown", line, dead, (layer,), {"units": silent}))
    return _with(report, findings, trials)


WRONG_SETTING: Mapping[Setting, tuple[Fault, str]] = {
    "channels": ("channel-order", "the channels of conv1 are exchanged"),
    "pixels": ("pixel-normalization", "the stated mean and scale of the pixels are not those of these weights"),
    "resize": ("resize", "the stated way to make images square is not that of these weights"),
    "dropout": ("dropout-scaling", "the outputs of fc6 and fc7 have another scale than these weights need"),
    "alpha": ("lrn-alpha", "α of LRN multiplies another term than the settings state (the sum or the mean of squares)"),
}
"""A setting → the fault if it alone is wrong, and the fault in words."""
SEVERAL_WRONG: tuple[Fault, str] = ("preprocessing", "the stated preprocessing is not the one of these weights")


def _dropout_finding(stated: Trial, scaled: Trial) -> Finding:
    """The fault if the size of the logits shows that the outputs of fc6 and fc7 have the wrong scale."""
    line = (
        "the outputs of fc6 and fc7 have another scale than these weights need, as where dropout is scaled twice or "
        f"not at all: the loss is lowest with logits divided by {stated.temperature:.2g}, and with {scaled.dropout} by "
        f"{scaled.temperature:.2g} (about 1 if right); the mean loss is {stated.loss:.2f}, and {scaled.loss:.2f} with "
        f"{scaled.dropout}"
    )
    figures = {"temperature": stated.temperature, "scaled": scaled.temperature}
    return Finding("wrong", line, "dropout-scaling", figures=figures)


def _dropout_remark(stated: Trial, scaled: Trial) -> Finding:
    """What the size of the logits says of the scaling of dropout if it shows no fault."""
    low, high = USUAL_TEMPERATURES
    figures = {"temperature": stated.temperature, "scaled": scaled.temperature}
    size = f"the loss is lowest with logits divided by {stated.temperature:.2g}"
    if low < stated.temperature < high:
        return Finding("right", f"dropout is scaled as stated: {size} (about 1 if right)", figures=figures)
    line = f"whether dropout is scaled as stated cannot be known: {size}; regularization changes their size too"
    return Finding("unknown", line, figures=figures)


def _alpha_finding(stated: Trial, other: Trial) -> Finding:
    """The fault if the other convention for α explains the labels better."""
    line = (
        f"{WRONG_SETTING['alpha'][1]}: with the other convention {_percent(other)}, mean loss {other.loss:.2f}, "
        f"as stated {_percent(stated)} and {stated.loss:.2f}; after a division of the logits by the temperature "
        "of each, the loss with the other convention is lower by more than 3 standard errors"
    )
    return Finding("wrong", line, "lrn-alpha", figures={"loss": stated.loss, "other": other.loss})


def _with(report: VerifyReport, findings: Sequence[Finding], trials: Trials) -> VerifyReport:
    changed = replace(report, findings=(*report.findings, *findings), trials=trials)
    return replace(changed, summary=summarize_report(changed))


def describe_trial(trial: Trial) -> str:
    """The preprocessing of a trial in words."""
    others = [trial.dropout] if trial.dropout != STATED else []
    others += [f"α with {trial.alpha}"] if trial.alpha != STATED else []
    return ", ".join([trial.channels, f"pixels {trial.pixels}", trial.resize, *others])


def _percent(trial: Trial) -> str:
    return f"{100 * trial.accuracy:.1f} % ({100 * trial.low:.1f} to {100 * trial.high:.1f})"
