"""``report.md``: the report of a training as text: result, data, classes and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alexnet.config import Recipe, assignments
from alexnet.core.names import markdown
from alexnet.core.schema import spell
from alexnet.metrics.intervals import accuracy_interval
from alexnet.recipes import differences_from_named, get_recipe
from alexnet.recipes.photos import is_for_own_images
from alexnet.report.text import class_rows, commonest_class, describe_measure, describe_roc
from alexnet.runtime.device import hardware_name
from alexnet.training.transfer import started_from

MOST_MISTAKES = 100  # in the report; predictions.csv has all
WORST = 10
GAP = 0.1  # between the accuracies on training and on other images: with a larger gap, more images help most
ALMOST_ALL = 0.95  # accuracy on the training images: above it, a longer training helps little


def write_report(recipe: Recipe, result: Mapping[str, Any], remarks: Sequence[str], side: int | None = None) -> str:
    """The text of ``report.md``.

    ``remarks``: lines on refused files and other properties of the images; ``side``: of the prepared images, in pixels.
    """
    return "\n".join(
        [
            *_outcome(recipe, result, side),
            *_data(result, remarks),
            *_classes(result),
            *_mistakes(result),
            *_recipe(recipe),
            "",
        ]
    )


def _outcome(recipe: Recipe, result: Mapping[str, Any], side: int | None) -> list[str]:
    lines = [f"# {markdown(recipe.name)}", ""]
    split = result["split"]
    if split is None:
        lines += ["The dataset has neither test nor validation images, so the network was not evaluated.", ""]
    else:
        lines += [f"**{describe_measure(result)}**, seed {result['seed']}.", ""]
    for reading in readings(recipe, result):
        lines += [markdown(reading), ""]
    if init := result.get("init"):
        started = started_from(init["model"], init["copied"], init["new"], init["frozen"])
        lines += [f"Layers {markdown(started)}.", ""]
    if expects := expected(recipe):
        lines += [f"Expected: {markdown(expects)}.", ""]
    if changed := described_differences(recipe, result["source"], side):
        differences = markdown("; ".join(changed))
        lines += [f"This training differs from the recipe of that name: {differences}.", ""]
    return [*lines, *(["![loss, accuracy and learning rate](curves.png)", ""] if result["steps"] else [])]


def _predicts_one_class(result: Mapping[str, Any]) -> bool:
    """Whether no pixel of another class than the first one, the background, is right."""
    return not any(counted["iou"] for counted in list(result["per_class"].values())[1:])


def readings(recipe: Recipe, result: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Sentences on the result: which weights were evaluated, and whether it is better than predicting one class always.

    ``names``: class → its label for people.
    """
    if result["split"] is None:
        return []
    sentences = []
    if found := result.get("cross_validation"):
        sentences.append(
            f"The model is a linear probe on {found['layer']} (C = {found['regularization']:g}), fitted on "
            f"{found['images']:,} images. In {found['folds']} folds, {found['top1']:.1%} of these images are right: "
            "for each fold, the probe was chosen and fitted without the images of the fold and without copies of them."
        )
    elif recipe.train.keep == "best-on-val" and result["split"] == "val":
        sentences.append(
            "There are no test images: the result is on the validation images, which were also used to choose the "
            "weights."
        )
    elif recipe.train.keep == "best-on-val":
        epoch, of = result["kept_epoch"], result.get("epochs", recipe.train.epochs)
        sentences.append(
            f"The weights are those of epoch {epoch} of {of}, the best on the validation images."
            if epoch
            else f"The weights are those before the first of {of} epochs: no epoch was better on the validation images."
        )
    if result.get("task") == "segmentation" and _predicts_one_class(result):
        only = next(iter(result["per_class"]))
        sentences.append(
            f"The model predicts only {names.get(only, only)}: the training was too short, or there are too few images."
        )
    if result.get("task", "classification") != "classification":
        return sentences
    name, share = commonest_class(result)
    lowest, _ = accuracy_interval(round(result["top1"] * result["images"]), result["images"])
    if len(result["per_class"]) > 1 and lowest <= share:
        sentences.append(
            f"That is not clearly better than always predicting {names.get(name, name)} (accuracy {share:.2%})."
        )
    if is_for_own_images(recipe):
        sentences += advice(result)
    return sentences + describe_roc(result, names)


def advice(result: Mapping[str, Any]) -> list[str]:
    """What would help most, for a training on the user's own images: more images, or a longer training.

    It compares the accuracy on the training images in the last epoch, with augmentation, with that on other images.
    """
    last = result.get("last_epoch") or {}
    if result.get("cross_validation"):
        per_class = result["cross_validation"]["images"] / len(result["per_class"])
        return [f"More photographs would help most: there are about {per_class:,.0f} of each class."]
    if "train_top1" not in last:
        return []
    train, other = last["train_top1"], result["top1"]
    per_class = result["splits"]["train"] / len(result["per_class"])
    found = f"It reaches {train:.0%} on its training images and {other:.0%} on other images"
    if train >= other + GAP:
        return [f"{found}: more photographs would help most (it has {per_class:,.0f} of each class to train on)."]
    if train < ALMOST_ALL and result.get("kept_epoch", 1):
        steps = 2 * result["steps"]
        return [f"{found}: a longer training would help, e.g. --set train.min_steps={steps} and another --out."]
    return [f"{found}."]


def expected(recipe: Recipe) -> str:
    """What the source of the recipe reports; empty for a recipe that is not in the table."""
    named = differences_from_named(recipe) is not None
    return f"{recipe.claim.expects} ({recipe.claim.source})" if named and recipe.claim.expects else ""


def described_differences(recipe: Recipe, source: str, side: int | None = None) -> list[str]:
    """The differences between a training and the recipe of its name, as "train.epochs 20 → 2"; empty if there are none.

    ``source``: the name of the images that it was trained on; ``side``: of the prepared images, in pixels.
    """
    changed = differences_from_named(recipe, side)
    if changed is None:
        return []
    changes = [f"{path} {spell(value)} → {spell(now)}" for path, value, now in changed]
    original = get_recipe(recipe.name).data.source
    return [*changes, *([f"images {original} → {source}"] if original and original != source else [])]


def facts(result: Mapping[str, Any]) -> list[str]:
    """Lines on the data, the duration, the hardware and the software of a training."""
    splits = ", ".join(f"{count:,} {name}" for name, count in result["splits"].items())
    seconds = f"{result['seconds']:,.0f} s"
    steps = "1 step" if result["steps"] == 1 else f"{result['steps']:,} steps"
    speed = f"{steps} at {result['images_per_second']:,.0f} images/s over {seconds}"
    hardware = result["hardware"]
    return [
        f"images: {result['source']} ({splits})",
        f"{speed if result['steps'] else f'{seconds}, without a training step,'} on {hardware_name(hardware)}, "
        f"{hardware['precision']}, "
        f"where a matrix product ran at {result['matrix_gflops']:,.0f} GFLOP/s",
        f"torch {hardware['torch']}, Python {hardware['python']}",
    ]


def _data(result: Mapping[str, Any], remarks: Sequence[str]) -> list[str]:
    images, *others = (f"- {markdown(fact)}" for fact in facts(result))
    lines = [f"{'' if remark == remark.lstrip() else '  '}- {markdown(remark.strip())}" for remark in remarks]
    return ["## Data and hardware", "", images, *lines, *others, ""]


def _classes(result: Mapping[str, Any]) -> list[str]:
    if result["split"] is None:
        return []
    found = class_rows(result)
    several = f"The {WORST} classes of {len(found.rows)} with the lowest {found.measure}"
    title = found.title if len(found.rows) <= WORST else several
    rows = [f"| {markdown(name)} | {value} | {count} |" for name, value, count in found.rows[:WORST]]
    return [f"## {title}", "", f"| {' | '.join(found.heads)} |", "|---|---|---|", *rows, ""]


def mistakes(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(file, true class, predicted class, probability) of the mistakes in the folds, the most confident ones first."""
    found = result.get("cross_validation") or {"mistakes": []}
    rows = [(row["file"], row["true"], row["predicted"], row["probability"]) for row in found["mistakes"]]
    return [
        (file, true, predicted, f"{float(probability):.0%}" if probability else "")
        for file, true, predicted, probability in sorted(rows, key=lambda row: -float(row[3] or 0))
    ]


def _mistakes(result: Mapping[str, Any]) -> list[str]:
    found = mistakes(result)
    if not found:
        return []
    rows = ["| " + " | ".join(markdown(text) for text in row) + " |" for row in found[:MOST_MISTAKES]]
    more = [f"{len(found) - MOST_MISTAKES:,} more are in predictions.csv.", ""] if len(found) > MOST_MISTAKES else []
    titles = ["| file | true class | predicted | probability |", "|---|---|---|---|"]
    return [
        "## Mistakes",
        "",
        "Each image was predicted by a probe that was not fitted on it.",
        "",
        *titles,
        *rows,
        "",
        *more,
    ]


def _recipe(recipe: Recipe) -> list[str]:
    return ["## Recipe", "", "Each field in the form that `--set` takes.", "", "```", *assignments(recipe), "```"]
