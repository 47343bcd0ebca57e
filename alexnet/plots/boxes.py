"""Images with the true boxes around their objects, and those that a network for detection finds.

The images are an evenly spaced sample, and those with the most missed objects and wrong boxes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.image_file import read_whole_photograph
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.detection import SHOWN_SCORE, detect_pixels, draw_boxes
from alexnet.inference.predictor import Predictor
from alexnet.plots.canvas import NARROW_WIDTH, Picture, new_figure, plot_image, shorten
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 200  # of a dataset, evenly spaced, that the examples are chosen from
SAMPLE, WORST = 4, 2
TITLE_LENGTH = 24
OVERLAP = 0.5  # intersection over union from which on a box is found

Box = tuple[tuple[float, float, float, float], int, str]
"""Left, top, right, bottom in pixels; the number of its class; its text."""


@dataclass(frozen=True, eq=False)
class Example:
    """An image: ``pixels`` ``(H, W, C)``, its true boxes (None if unknown) and the boxes that were found."""

    name: str
    pixels: NDArray[np.uint8]
    true: tuple[Box, ...] | None
    found: tuple[Box, ...]

    @functools.cached_property
    def right(self) -> int:
        """The number of true boxes that were found; 0 if they are unknown."""
        left, right = list(self.true or ()), 0
        for box in self.found:
            overlaps = [_overlap(box, other) if box[1] == other[1] else 0.0 for other in left]
            if overlaps and max(overlaps) >= OVERLAP:
                left.pop(overlaps.index(max(overlaps)))
                right += 1
        return right

    @property
    def mistakes(self) -> int:
        """The number of missed objects and of wrong boxes; 0 if the true boxes are unknown."""
        return 0 if self.true is None else len(self.true) + len(self.found) - 2 * self.right

    @property
    def words(self) -> str:
        """In words: "1 of 2 found, 5 wrong", or "3 boxes" if the true boxes are unknown."""
        if self.true is None:
            return f"{len(self.found)} boxes"
        return f"{self.right} of {len(self.true)} found, {len(self.found) - self.right} wrong"


def _overlap(one: Box, other: Box) -> float:
    from torchvision.ops import box_iou  # importing torchvision takes more than a second

    return float(box_iou(torch.tensor([one[0]]), torch.tensor([other[0]])))


def _find(predictor: Predictor, pixels: NDArray[np.uint8]) -> tuple[Box, ...]:
    found = detect_pixels(predictor, pixels).objects
    return tuple((each.box, each.number, f"{each.label} {each.score:.0%}") for each in found)


def compose_boxes(predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], title: str) -> Picture:
    """A sample of the images ``index`` of a dataset with boxes, and those with most mistakes."""
    some = evenly_spaced(index, IMAGES)
    labels = predictor.model.labels
    examples = []
    for name, pixels, rows in zip(dataset.names(some), dataset.read(some), dataset.read_boxes(some), strict=True):
        true = tuple(
            ((left, top, right, bottom), int(number), labels[int(number)])
            for number, left, top, right, bottom, aside in rows.tolist()
            if number >= 0 and not aside
        )
        examples.append(Example(name, pixels, true, _find(predictor, pixels)))
    sample = [examples[place] for place in evenly_spaced(np.arange(len(examples)), SAMPLE).tolist()]
    others = [example for example in examples if example not in sample]
    worst = sorted(others, key=lambda example: -example.mistakes)[:WORST]
    return plot_boxes([*sample, *worst], f"{title}: a sample, and the worst of {len(some):,}")


def plot_boxes(examples: Sequence[Example], title: str) -> Picture:
    """A column for each image: the image with its true boxes if they are known, and with the boxes that were found."""
    lines = [f"{example.name}: {example.words}" for example in examples]
    values = {
        example.name: {
            "objects": None if example.true is None else len(example.true),
            "found": [text for _, _, text in example.found],
            "mistakes": None if example.true is None else example.mistakes,
        }
        for example in examples
    }
    return Picture(
        _columns(examples, title, 1.9 * max(len(examples), 2)),
        f"{title}. Boxes with a score of at least {SHOWN_SCORE:.0%}. {'. '.join(lines)}",
        values,
        lambda: _columns(examples[:3], title, NARROW_WIDTH),
    )


def _columns(examples: Sequence[Example], title: str, width: float) -> Figure:
    known = any(example.true is not None for example in examples)
    rows = 2 if known else 1
    figure = new_figure(width, 0.8 + width / len(examples) * rows * 1.12, title)
    axes = figure.subplots(rows, len(examples), squeeze=False)
    for column, example in enumerate(examples):
        name = shorten(example.name.rpartition("/")[2], TITLE_LENGTH)
        if known:
            plot_image(axes[0, column], draw_boxes(example.pixels, example.true or ()), name)
        plot_image(axes[-1, column], draw_boxes(example.pixels, example.found), example.words if known else name)
    return figure


def _compose(inputs: PlotInputs) -> Picture:
    predictor = inputs.predictor
    if inputs.images:
        examples = []
        for path in inputs.images:
            pixels = read_whole_photograph(path, predictor.model.preprocessing.channels)
            examples.append(Example(printable(path), pixels, None, _find(predictor, pixels)))
        return plot_boxes(examples, inputs.run_name)
    if inputs.dataset.boxes is None:
        raise UserError(f"{inputs.dataset.name} has no boxes: give --image FILE, or images with boxes")
    return compose_boxes(predictor, inputs.dataset, inputs.test_images.index, inputs.test_images.title)


def _compose_for_report(finished: FinishedRun) -> Picture:
    test = finished.test_images
    return compose_boxes(finished.predictor, finished.dataset, test.index, test.title)


PLOT = Plot(
    compose=_compose, max_images=6, options=("data",), tasks=("detection",),
    report=ReportFigure("Boxes", _compose_for_report),
)  # fmt: skip
