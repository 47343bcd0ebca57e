"""The metrics of an evaluation in words and tables: accuracy with its interval, classes, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from alexnet.metrics.counts import TOP, balanced_accuracy, describe_images
from alexnet.metrics.intervals import accuracy_interval
from alexnet.report.tables import table

TOP5 = "top-5"
WHOLE = ("run", "top-1", "95 % interval", TOP5, "loss", "calibration error")
CONFUSIONS_SHOWN = 10
UNEVEN = 1.5  # times as many images in the largest class: from this ratio on the balanced accuracy is printed too
MATRIX_CLASSES = 20  # a wider matrix does not fit a terminal


def describe_measure(result: Mapping[str, Any]) -> str:
    """The metrics in one line.

    Of a classification: "83.6% top-1 (95 % interval 82.9% – 84.3%), 99.1% top-5, loss 0.49 on 10,000 images".
    Of a segmentation: "71.2% mean IoU, 93.0% of the pixels right, loss 0.25 on 200 images".
    Of a model for detection: "61.3% mAP50, 38.0% mAP (IoU 0.5 to 0.95), loss 0.41 on 200 images with 480 objects".

    The balanced accuracy is among them if the classes have different numbers of images. The interval is the 95 %
    confidence interval of the accuracy for that number of images.
    ``result``: ``top1`` and ``top5`` (shares), ``loss``, ``images``, ``split``, ``views``, ``per_class``.
    """
    loss = "no loss" if result["loss"] is None else f"loss {result['loss']:.4f}"
    if result.get("task") == "detection":
        shares = "no objects to find"
        if result["map50"] is not None:
            shares = f"{result['map50']:.2%} mAP50, {result['map']:.2%} mAP (IoU 0.5 to 0.95)"
        on = f"{describe_images(result)} with {result['objects']:,} objects"
        return "; ".join([f"{shares}, {loss} on {on}", *_not_finite(result)])
    if result.get("task") == "segmentation":
        shares = f"{result['mean_iou']:.2%} mean IoU, {result['pixel_accuracy']:.2%} of the pixels right"
        return "; ".join([f"{shares}, {loss} on {describe_images(result)}", *_not_finite(result)])
    top5 = f"{result['top5']:.2%} top-5, " if _has_top5(result) else ""
    lowest, highest = accuracy_interval(round(result["top1"] * result["images"]), result["images"])
    interval = f"(95 % interval {lowest:.1%} – {highest:.1%})"
    classes = result["per_class"]
    balanced = f"{balanced_accuracy(classes):.2%} balanced accuracy, " if _has_uneven_classes(classes) else ""
    measure = f"{result['top1']:.2%} top-1 {interval}, {top5}{balanced}{loss} on {describe_images(result)}"
    return "; ".join([measure, *_not_finite(result)])


@dataclass(frozen=True)
class ClassRows:
    """The measure of each class, the lowest first. ``title``: of the table; ``measure``: in words.

    ``heads``: of its columns; ``rows``: name, measure, count.
    """

    title: str
    measure: str
    heads: tuple[str, str, str]
    rows: Sequence[tuple[str, str, str]]


def class_rows(result: Mapping[str, Any]) -> ClassRows:
    """The classes of a result: the accuracy of each, its intersection over union, or its average precision."""
    name, count, heads = "top1", "images", ("class", "top-1", "images")
    title, measure = "Accuracy by class", "accuracy"
    if result.get("task") == "segmentation":
        name, count, heads = "iou", "pixels", ("class", "IoU", "pixels")
        title, measure = "Intersection over union by class", "IoU"
    if result.get("task") == "detection":
        name, count, heads = "ap", "objects", ("class", "AP", "objects")
        title, measure = "Average precision by class (IoU 0.5 to 0.95)", "average precision"
    counted = [(each, value[name], value[count]) for each, value in result.get("per_class", {}).items()]
    known = sorted([row for row in counted if row[1] is not None], key=lambda row: row[1])
    return ClassRows(title, measure, heads, [(each, f"{value:.1%}", f"{number:,}") for each, value, number in known])


def _has_uneven_classes(per_class: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the largest class has at least ``UNEVEN`` times as many images as the smallest."""
    counts = [counted["images"] for counted in per_class.values() if counted["images"]]
    return bool(counts and max(counts) >= UNEVEN * min(counts))


def commonest_class(result: Mapping[str, Any]) -> tuple[str, float]:
    """The most frequent class and its share of the images: the accuracy of predicting it for every image."""
    name, counted = max(result["per_class"].items(), key=lambda item: item[1]["images"])
    return name, counted["images"] / result["images"]


@dataclass(frozen=True)
class _Tables:
    """What the tables of a task show: title and key of measures of all images, and of the one of each class.

    ``count``: the key of what is counted in each class.
    """

    whole: tuple[tuple[str, str], ...]
    by_class: tuple[str, str]
    count: str


_TABLES = {
    "segmentation": _Tables((("mean IoU", "mean_iou"), ("right pixels", "pixel_accuracy")), ("IoU", "iou"), "pixels"),
    "detection": _Tables((("mAP50", "map50"), ("mAP", "map")), ("AP (IoU 0.5 to 0.95)", "ap"), "objects"),
}


def describe_evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of an evaluation of one or several models on the same images, whatever their task is."""
    tables = _TABLES.get(str(rows[0].get("task")))
    if tables is None:
        return describe_counts(rows)
    whole = [
        (row["run"], *(_share(row[key]) for _, key in tables.whole),
         "–" if row["loss"] is None else f"{row['loss']:.4f}")
        for row in rows
    ]  # fmt: skip
    title, measure = tables.by_class
    classes = [
        (name, *(_share(row["per_class"][name][measure]) for row in rows), f"{value[tables.count]:,}")
        for name, value in rows[0]["per_class"].items()
    ]
    objects = f" with {rows[-1]['objects']:,} objects" if "objects" in rows[-1] else ""
    return "\n".join(
        [
            f"on {describe_images(rows[-1])}{objects}",
            *(f"{row['run']}: {remark}" for row in rows for remark in _not_finite(row)),
            table(("run", *(head for head, _ in tables.whole), "loss"), whole),
            "",
            table(("class", *([row["run"] for row in rows] if len(rows) > 1 else [title]), tables.count), classes),
        ]
    )


def describe_counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables of the metrics of one or several runs on the same images: all images, each class, frequent confusions.

    Classes without images have no row: a line below says how many there are.
    ``rows``: as ``alexnet.evaluate`` returns them; the confusions are those of the last row.
    """
    last = rows[-1]
    runs = [row["run"] for row in rows] if len(rows) > 1 else ["top-1"]
    parts = [
        f"on {describe_images(last)}",
        *(f"{row['run']}: {remark}" for row in rows for remark in _not_finite(row)),
        table(WHOLE if _has_top5(last) else [name for name in WHOLE if name != TOP5], [_whole(row) for row in rows]),
        "",
        table(("class", *runs, "images"), _classes(rows)),
        *_without_images(rows[0]),
    ]
    of_which = f" (of the {last['run']})" if len(rows) > 1 else ""
    if confusions := last["confusions"][:CONFUSIONS_SHOWN]:
        lines = [(item["true"], item["predicted"], f"{item['images']:,}") for item in confusions]
        parts += ["", f"the most frequent mistakes{of_which}", table(("true class", "predicted", "images"), lines)]
    if 1 < len(last["per_class"]) <= MATRIX_CLASSES:
        names = [f"{number}  {name}" for number, name in enumerate(last["per_class"])]
        matrix = [(name, *map(str, row)) for name, row in zip(names, last["confusion_matrix"], strict=True)]
        title = f"confusion matrix{of_which}: a row for each true class"
        parts += ["", title, table(("", *map(str, range(len(names)))), matrix)]
    return "\n".join(parts)


def _whole(row: Mapping[str, Any]) -> tuple[str, ...]:
    lowest, highest = accuracy_interval(round(row["top1"] * row["images"]), row["images"])
    top5 = (f"{row['top5']:.2%}",) if _has_top5(row) else ()
    shares = (f"{row['top1']:.2%}", f"{lowest:.1%} – {highest:.1%}", *top5)
    loss = "–" if row["loss"] is None else f"{row['loss']:.4f}"
    return (row["run"], *shares, loss, _share(row["calibration_error"]))


def _not_finite(row: Mapping[str, Any]) -> list[str]:
    """A remark on images for which the output of the network is not finite; none if there are no such images."""
    count = row.get("not_finite")
    return [f"for {count:,} of them the output is not finite: counted as wrong, left out of the loss"] if count else []


def _has_top5(row: Mapping[str, Any]) -> bool:
    """Whether top-5 accuracy has a meaning: with five classes or fewer it is always 100 %."""
    return len(row["per_class"]) > TOP


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each class with images: its name, its accuracy in each run, and its number of images."""
    return [
        (name, *(_share(row["per_class"][name]["top1"]) for row in rows), f"{value['images']:,}")
        for name, value in rows[0]["per_class"].items()
        if value["images"]
    ]


def _without_images(row: Mapping[str, Any]) -> list[str]:
    """A line on the classes that no image has; none if all have images."""
    count = sum(not counted["images"] for counted in row["per_class"].values())
    if not count:
        return []
    return [f"{count:,} other class{' has' if count == 1 else 'es have'} no images here and no row above"]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


NO_MEDICAL_DEVICE = (
    "This is no medical device: do not use it to find or to rule out a disease, or to decide on a treatment."
)


def describe_roc(result: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Sentences on AUC, operating point, sensitivity, specificity and calibration; none without a ROC curve.

    ``names``: class → its label for people.
    """
    found = result.get("roc")
    if not found:
        return []
    goal = f"a sensitivity of {found['target_sensitivity']:.0%}" if found["rule"] == "sensitivity" else "Youden's index"
    on = {"val": "on the validation images", "folds": "in each fold on the other folds", None: ""}[found["chosen_on"]]
    lines = []
    for name, counted in found["classes"].items():
        shown = names.get(name, name)
        counts = f"{counted['positives']:,} images of it, {counted['negatives']:,} others"
        lines.append(f"AUC of {shown} {_with_interval(counted['auc'], 3)} ({counts}).")
        if counted["threshold"] is None:
            lines.append(
                f"There is no operating point for {shown}: no validation images of both kinds to choose it on."
            )
            continue
        lines.append(
            f"{shown} from a probability of {counted['threshold']:.3f} on: sensitivity "
            f"{_with_interval(counted['sensitivity'])}, specificity {_with_interval(counted['specificity'])}; the "
            f"operating point was chosen {on} for {goal}."
        )
    if found["same_images"]:
        lines.append("It was chosen on the images that it is measured on, so both figures are too high.")
    if any(counted["bootstrap"] for counted in found["classes"].values()):
        lines.append(f"The intervals draw {found['patients']:,} patients, because some have several images.")
    if result["calibration_error"] is not None:
        lines.append(f"Calibration: the expected calibration error is {result['calibration_error']:.1%}.")
    return [*lines, NO_MEDICAL_DEVICE]


def _with_interval(share: Mapping[str, float | None], digits: int = 0) -> str:
    """A share and its 95 % interval, as a number of ``digits`` or, without, in percent."""
    kind = f".{digits}f" if digits else ".1%"
    if share["value"] is None:
        return "unknown"
    if share["low"] is None:
        return f"{share['value']:{kind}}"
    return f"{share['value']:{kind}} (95 % interval {share['low']:{kind}} – {share['high']:{kind}})"
