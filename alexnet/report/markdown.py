"""What a training did, in words and figures, for someone who opens its folder a year later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alexnet.config import Recipe, assignments
from alexnet.core.schema import spell
from alexnet.metrics.intervals import accuracy_interval
from alexnet.recipes import differences_from_named, get_recipe
from alexnet.report.text import commonest_class, describe_measure
from alexnet.runtime.device import hardware_name

WORST = 10


def write_report(recipe: Recipe, result: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """The text of ``report.md``; ``remarks`` are lines on what was refused or is worth knowing of the images."""
    return "\n".join([*_outcome(recipe, result), *_data(result, remarks), *_classes(result), *_recipe(recipe), ""])


def _outcome(recipe: Recipe, result: Mapping[str, Any]) -> list[str]:
    lines = [f"# {recipe.name}", ""]
    split = result["split"]
    if split is None:
        lines += ["This set has neither test nor validation images, so nothing was measured.", ""]
    else:
        lines += [f"**{describe_measure(result)}**, seed {result['seed']}.", ""]
    for reading in readings(recipe, result):
        lines += [reading, ""]
    if expects := expected(recipe):
        lines += [f"Expected: {expects}.", ""]
    if changed := described_differences(recipe, result["source"]):
        lines += [f"But this training departs from the recipe of that name: {'; '.join(changed)}.", ""]
    return [*lines, "![loss, accuracy and rate](curves.png)", ""]


def readings(recipe: Recipe, result: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """How the measure is to be read, a sentence each: whose weights were counted, and whether that beats one answer.

    ``names``: what people call classes, where that is known.
    """
    if result["split"] is None:
        return []
    said = []
    if recipe.train.keep == "best-on-val" and result["split"] == "val":
        said.append("There are no test images: the figure is from the validation images that also chose the weights.")
    elif recipe.train.keep == "best-on-val":
        epoch, of = result["kept_epoch"], recipe.train.epochs
        said.append(f"The weights are those of epoch {epoch} of {of}, the best on validation.")
    name, share = commonest_class(result)
    lowest, _ = accuracy_interval(round(result["top1"] * result["images"]), result["images"])
    if len(result["per_class"]) > 1 and lowest <= share:
        said.append(
            f"That is not clearly better than always answering {names.get(name, name)}, which is right for {share:.2%}."
        )
    return said


def expected(recipe: Recipe) -> str:
    """What the recipe's source leads one to expect; empty for a training that has another name than its recipe."""
    named = differences_from_named(recipe) is not None
    return f"{recipe.claim.expects} ({recipe.claim.source})" if named and recipe.claim.expects else ""


def described_differences(recipe: Recipe, source: str) -> list[str]:
    """How a training differs from the recipe of its name, each as "train.epochs 20 → 2"; empty if it does not.

    ``source``: the name of the images it was trained on.
    """
    changed = differences_from_named(recipe)
    if changed is None:
        return []
    changes = [f"{path} {spell(value)} → {spell(now)}" for path, value, now in changed]
    asked = get_recipe(recipe.name).data.source
    return [*changes, *([f"images {asked} → {source}"] if asked and asked != source else [])]


def facts(result: Mapping[str, Any]) -> list[str]:
    """What was trained on, how long, on what machine and with what, a line each."""
    splits = ", ".join(f"{count:,} {name}" for name, count in result["splits"].items())
    speed = f"{result['images_per_second']:,.0f} images/s over {result['seconds']:,.0f} s"
    hardware = result["hardware"]
    steps = "1 step" if result["steps"] == 1 else f"{result['steps']:,} steps"
    return [
        f"images: {result['source']} ({splits})",
        f"{steps} at {speed} on {hardware_name(hardware)}, {hardware['precision']}, "
        f"beside {result['matrix_gflops']:,.0f} GFLOP/s of the machine's own matrix product",
        f"torch {hardware['torch']}, Python {hardware['python']}",
    ]


def _data(result: Mapping[str, Any], remarks: Sequence[str]) -> list[str]:
    images, *others = (f"- {fact}" for fact in facts(result))
    said = [f"- {remark}" if remark == remark.lstrip() else f"  - {remark.strip()}" for remark in remarks]
    return ["## What it was", "", images, *said, *others, ""]


def _classes(result: Mapping[str, Any]) -> list[str]:
    if result["split"] is None:
        return []
    counted = [(name, c["top1"], c["images"]) for name, c in result["per_class"].items() if c["images"]]
    worst = sorted(counted, key=lambda item: item[1])[:WORST]
    title = "By class" if len(counted) <= WORST else f"The {WORST} hardest of {len(counted)} classes"
    rows = [f"| {name.replace('|', '/')} | {top1:.1%} | {images:,} |" for name, top1, images in worst]
    return [f"## {title}", "", "| class | top-1 | images |", "|---|---|---|", *rows, ""]


def _recipe(recipe: Recipe) -> list[str]:
    return ["## The recipe", "", "Each field as `--set` takes it.", "", "```", *assignments(recipe), "```"]
