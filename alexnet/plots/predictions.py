"""Images with five bars each, the true class marked: some as they come, the most confident mistakes, the least certain.

After the paper's figure 4, left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import (
    BLUE,
    GREY,
    ORANGE,
    PHONE,
    Picture,
    new_figure,
    share,
    shortened,
    show_image,
    some_of,
)
from alexnet.training.evaluate import log_probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 5
ACROSS, ON_PHONES = 6, 2
NARROWEST = 3.6  # inches, for the title
LABEL = 22
LETTER = 0.082  # inches, of a title
LEAST_CERTAIN = "the least certain: the two best are closest"
IMAGES = 2000  # of a set, at even distances, that answers are chosen from
TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class Answer:
    """One image's: ``pixels`` ``(H, W, C)``, its title, the probability of each class ``(classes,)``, its true label,
    if that is known, and its file.
    """

    pixels: NDArray[np.uint8]
    title: str
    probabilities: NDArray[np.float32]
    label: int | None = None
    file: str = ""


@dataclass(frozen=True)
class Group:
    """A row of the picture: its title and its images."""

    title: str
    answers: Sequence[Answer]


def show_predictions(predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], title: str) -> Picture:
    """Of a store's images ``index``, at most ``IMAGES``: some, the most confident mistakes, the least certain."""
    title = f"{title}: {some_of(min(len(index), IMAGES), len(index))} images"
    index = evenly_spaced(index, IMAGES)
    batches = log_probabilities(predictor.model, dataset, index, predictor.device_config)
    probabilities = np.concatenate([output.exp().cpu().numpy() for output, _ in batches])
    groups, names = [], predictor.model.labels
    for name, places in choose(probabilities, dataset.targets[index], ACROSS).items():
        some = index[places]
        rows = zip(
            predictor.visible(dataset.read(some)), dataset.targets[some].tolist(), probabilities[places], dataset.names(some),
            strict=True,
        )  # fmt: skip
        answers = [Answer(pixels, names[label], found, label, file) for pixels, label, found, file in rows]
        groups.append(Group(name, answers))
    return draw_predictions(groups, names, f"{title} (above each image its class; {_key(names)}, orange the true one)")


def show_images(predictor: Predictor, images: Sequence[tuple[str, NDArray[np.uint8]]], title: str) -> Picture:
    """Of images whose classes nobody has told, (name, pixels as the predictor read them)."""
    pixels = [some for _, some in images]
    rows = zip(predictor.visible(pixels), images, predictor.probabilities(pixels), strict=True)
    answers = [Answer(seen, name, found) for seen, (name, _), found in rows]
    names = predictor.model.labels
    return draw_predictions([Group("", answers)], names, f"{title} ({_key(names)})")


def _key(names: Sequence[str]) -> str:
    return f"bars: the {BARS} most probable" if len(names) > BARS else "bars: the probability of each class"


def choose(probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> dict[str, NDArray[np.int64]]:
    """Title → places of up to ``count`` images in ``probabilities`` ``(N, classes)``: some at even distances, the
    mistakes of highest probability, and those whose two best classes are closest to each other.
    """
    best = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(labels)), best]
    wrong = np.flatnonzero(best != labels)
    some = evenly_spaced(np.arange(len(labels)), count)
    groups = {"as they come": some, "the most confident mistakes": wrong[np.argsort(-confidence[wrong], kind="stable")]}
    if probabilities.shape[1] > 1:
        two = np.partition(probabilities, -2, axis=1)[:, -2:]
        entropy = -(probabilities * np.log(np.maximum(probabilities, TINY))).sum(axis=1)  # bf16 has many equal pairs
        groups[LEAST_CERTAIN] = np.lexsort((-entropy, two[:, 1] - two[:, 0]))
    return {title: places[:count] for title, places in groups.items() if len(places)}


def draw_predictions(groups: Sequence[Group], names: Sequence[str], title: str) -> Picture:
    """A row for each group; ``names``: what people call each class. The true class's bar has another colour."""
    lines = [
        f"{group.title}{': ' * bool(group.title)}{', '.join(_in_words(answer, names) for answer in group.answers)}"
        for group in groups
    ]
    across = min(ACROSS, max(len(group.answers) for group in groups))
    return Picture(
        _rows(groups, names, title, max(2.0 * across, NARROWEST), across),
        f"{title}. {'. '.join(lines)}",
        {group.title or "given": [_in_figures(answer, names) for answer in group.answers] for group in groups},
        lambda: _rows(groups, names, title, PHONE, min(across, ON_PHONES)),
    )


def _rows(groups: Sequence[Group], names: Sequence[str], title: str, width: float, across: int) -> Figure:
    """The groups below each other, each in as many rows as it needs."""
    needed = [math.ceil(len(group.answers) / across) for group in groups]
    figure = new_figure(width, 0.8 + 3.2 * sum(needed), title)
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=needed)
    for part, group, rows in zip(parts[:, 0], groups, needed, strict=True):
        part.suptitle(group.title, fontsize=11)
        axes = part.subplots(2 * rows, across, height_ratios=[1.25, 1] * rows, squeeze=False)
        pairs = [(axes[2 * row, column], axes[2 * row + 1, column]) for row in range(rows) for column in range(across)]
        for (image, bars), answer in zip(pairs, group.answers, strict=False):
            show_image(image, answer.pixels, shortened(answer.title, min(LABEL, int(width / across / LETTER))))
            _draw_bars(bars, answer, names)
        for place in itertools.chain(*pairs[len(group.answers) :]):
            place.set_visible(False)
    return figure


def _draw_bars(axes: object, answer: Answer, names: Sequence[str]) -> None:
    """The best classes, best on top, each named on its bar."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    best = np.argsort(-answer.probabilities, kind="stable")[:BARS]
    shares = answer.probabilities[best]
    places = np.arange(len(best))
    colours = [ORANGE if number == answer.label else BLUE for number in best]
    axes.barh(places, shares, color=colours, alpha=0.45, height=0.86)
    for place, number in zip(places, best, strict=True):
        mark = "✓ " if number == answer.label else ""
        axes.text(0.02, float(place), mark + shortened(names[number], LABEL), va="center", fontsize=7.5, clip_on=True)
        probability = share(float(answer.probabilities[number])).replace("less than ", "<").replace("more than ", ">")
        axes.text(1.0, float(place), probability, ha="right", va="center", fontsize=7, clip_on=True)
    axes.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), yticks=[])
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"], fontsize=7, color=GREY)
    axes.set_xlabel("probability", fontsize=7, color=GREY, labelpad=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _in_words(answer: Answer, names: Sequence[str]) -> str:
    best = int(answer.probabilities.argmax())
    said = f"“{names[best]}” with {share(float(answer.probabilities[best]))}"
    if answer.label is None:
        return f"{answer.title}: {said}"
    return f"{said}, rightly" if best == answer.label else f"“{answer.title}” taken for {said}"


def _in_figures(answer: Answer, names: Sequence[str]) -> dict[str, Any]:
    """The same as numbers: the image, its class if that is known, and the probabilities that are drawn."""
    best = np.argsort(-answer.probabilities, kind="stable")[:BARS]
    return {
        "image": answer.file or answer.title,
        "class": None if answer.label is None else names[answer.label],
        "probabilities": {names[number]: float(answer.probabilities[number]) for number in best},
    }
