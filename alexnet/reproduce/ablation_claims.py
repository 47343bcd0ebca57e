"""Statements about single ingredients, each read off the trainings without it (see ``ablations.py``)."""

from __future__ import annotations

from alexnet.reproduce.ablations import ABLATIONS, BASE, effect
from alexnet.reproduce.finding import RUN_ALL, Finding, Results, at_this_scale, pending

SIGNIFICANT = 0.05


def ablation(*names: str) -> tuple[str, ...]:
    """The trainings that a statement about these ablations reads."""
    return BASE, *names


def response_normalization(results: Results) -> Finding:
    """C20: response normalization hardly matters in practice."""
    return _effects(results, "ablate-normalization")


def augmentation(results: Results) -> Finding:
    """C24: augmentation improves generalization."""
    return _effects(results, "ablate-crops-and-flips", "ablate-colour-noise", "ablate-colour-noise-run")


def overlap_and_columns(results: Results) -> Finding:
    """C25: overlapping pools gain 0.4 points, two columns 1.7 over a net of half the size.

    The paper's second comparison is with half the kernels on one card (``paper-half``); here the kernels stay and only
    the division goes, which is another question.
    """
    return _effects(results, "ablate-overlap", "ablate-columns")


def _effects(results: Results, *names: str) -> Finding:
    found = {name: effect(results, name) for name in names}
    if lacking := [name for name, value in found.items() if value is None]:
        return Finding("–", pending(f"{' and '.join(lacking)} not measured yet"), RUN_ALL)
    parts = [f"{ABLATIONS[name].what}: {value}" for name, value in found.items()]
    fitted = [f"{100 * value.fitted:.1f} %" for value in found.values() if value]
    seen = [ABLATIONS[name].what for name, value in found.items() if value and value.seen]
    verdict = at_this_scale("; ".join(parts) if seen else "no effect to be seen")
    measured = f"on test, {'; '.join(parts)} (train {', '.join(fitted)})"
    return Finding(measured, verdict, results.evidence(*ablation(*names)))


def columns_specialise(results: Results) -> Finding:
    """C19: one column sees orientation, the other colour: how many seeds' columns differ more than chance would."""
    parts = []
    for what, name in (("two columns", BASE), ("one column, cut in two", "ablate-columns")):
        kernels = [run["kernels"] for run in results.runs(name) if "kernels" in run]
        if not kernels:
            return Finding("–", pending(f"{name} not measured yet"), RUN_ALL)
        for index in ("colour", "orientation"):
            differ = sum(item[index]["p"] < SIGNIFICANT for item in kernels)
            means = ", ".join(f"{item[index]['first']:.2f} and {item[index]['second']:.2f}" for item in kernels)
            parts.append(f"{what}, {index}: {means} (p < {SIGNIFICANT} in {differ} of {len(kernels)} seeds)")
    runs = [run["kernels"] for run in results.runs(BASE)]
    differ = sum(any(item[index]["p"] < SIGNIFICANT for index in ("colour", "orientation")) for item in runs)
    verdict = at_this_scale(f"the columns differ in {differ} of {len(runs)} seeds")
    return Finding("; ".join(parts), verdict, results.evidence(*ablation("ablate-columns")))
