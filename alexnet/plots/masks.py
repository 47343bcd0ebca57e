"""Images of a segmentation with their true and their predicted masks, and the IoU of each image.

The test images are an evenly spaced sample, and those whose pixels are predicted worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.core.names import printable
from alexnet.data.image_file import read_whole_photograph
from alexnet.data.masks import IGNORED
from alexnet.data.prepared import PreparedDataset
from alexnet.data.splits import evenly_spaced
from alexnet.inference.predictor import Predictor
from alexnet.inference.segmentation import mask_colours, overlay, segment
from alexnet.plots.canvas import NARROW_WIDTH, Picture, new_figure, plot_image, shorten
from alexnet.plots.inputs import FinishedRun, PlotInputs
from alexnet.plots.options import Plot, ReportFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 200  # of a dataset, evenly spaced, that the examples are chosen from
SAMPLE, WORST = 4, 2
TITLE_LENGTH = 24


@dataclass(frozen=True, eq=False)
class Example:
    """An image: ``pixels`` ``(H, W, C)``, its true mask (None if unknown) and its predicted one, ``(H, W)`` uint8."""

    name: str
    pixels: NDArray[np.uint8]
    true: NDArray[np.uint8] | None
    predicted: NDArray[np.uint8]

    @property
    def accuracy(self) -> float | None:
        """The share of right pixels among those that have a class; None if there are none."""
        if self.true is None or not (labelled := self.true != IGNORED).any():
            return None
        return float((self.predicted == self.true)[labelled].mean())


def compose_masks(predictor: Predictor, dataset: PreparedDataset, index: NDArray[np.int64], title: str) -> Picture:
    """A sample of the images ``index`` of a dataset with masks, and the worst ones."""
    some = evenly_spaced(index, IMAGES)
    names = dataset.names(some)
    examples = [
        Example(name, pixels, mask, segment(predictor, pixels).mask)
        for name, pixels, mask in zip(names, dataset.read(some), dataset.read_masks(some), strict=True)
    ]
    sample = [examples[place] for place in evenly_spaced(np.arange(len(examples)), SAMPLE).tolist()]
    others = [example for example in examples if example not in sample]
    worst = sorted(others, key=lambda example: 1.0 if example.accuracy is None else example.accuracy)[:WORST]
    return plot_masks([*sample, *worst], predictor.model.labels, f"{title}: a sample, and the worst of {len(some):,}")


def plot_masks(examples: Sequence[Example], labels: Sequence[str], title: str) -> Picture:
    """A column for each image: the image, its true mask if it is known, the predicted one, and the colours."""
    lines = [
        f"{example.name}: {'' if example.accuracy is None else f'{example.accuracy:.1%} of the pixels right, '}"
        f"predicted {', '.join(_present(example.predicted, labels)) or labels[0]}"
        for example in examples
    ]
    values = {
        example.name: {"pixel_accuracy": example.accuracy, "predicted": _present(example.predicted, labels)}
        for example in examples
    }
    return Picture(
        _columns(examples, labels, title, 1.8 * max(len(examples), 2)),
        f"{title}. {'. '.join(lines)}",
        values,
        lambda: _columns(examples[:3], labels, title, NARROW_WIDTH),
    )


def _present(mask: NDArray[np.uint8], labels: Sequence[str]) -> list[str]:
    return [labels[number] for number in np.unique(mask).tolist() if 0 < number < len(labels)]


def _columns(examples: Sequence[Example], labels: Sequence[str], title: str, width: float) -> Figure:
    from matplotlib.patches import Patch

    known = any(example.true is not None for example in examples)
    rows = 3 if known else 2
    figure = new_figure(width, 1.0 + width / len(examples) * rows * 1.08, title)
    axes = figure.subplots(rows, len(examples), squeeze=False)
    for column, example in enumerate(examples):
        share = "" if example.accuracy is None else f"{example.accuracy:.0%} right"
        plot_image(axes[0, column], example.pixels, shorten(example.name.rpartition("/")[2], TITLE_LENGTH))
        if known:
            true = example.true if example.true is not None else np.zeros(example.predicted.shape, np.uint8)
            shown = np.where(true == IGNORED, 0, true).astype(np.uint8)
            plot_image(axes[1, column], overlay(example.pixels, shown), "true mask" if column == 0 else "")
        text = "predicted: " if column == 0 else ""
        plot_image(axes[-1, column], overlay(example.pixels, example.predicted), f"{text}{share}".strip(": "))
    masks = [mask for example in examples for mask in (example.true, example.predicted) if mask is not None]
    present = sorted({number for mask in masks for number in np.unique(mask).tolist() if 0 < number < len(labels)})
    colours = mask_colours() / 255.0
    patches = [Patch(color=tuple(colours[number]), label=labels[number]) for number in present]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize="small")
    return figure


def _compose(inputs: PlotInputs) -> Picture:
    predictor = inputs.predictor
    if inputs.images:
        examples = []
        for path in inputs.images:
            pixels = read_whole_photograph(path, predictor.model.preprocessing.channels)
            examples.append(Example(printable(path), pixels, None, segment(predictor, path).mask))
        return plot_masks(examples, predictor.model.labels, inputs.run_name)
    if inputs.dataset.masks is None:
        raise UserError(f"{inputs.dataset.name} has no masks: give --image FILE, or images with masks")
    return compose_masks(predictor, inputs.dataset, inputs.test_images.index, inputs.test_images.title)


def _compose_for_report(finished: FinishedRun) -> Picture:
    test = finished.test_images
    return compose_masks(finished.predictor, finished.dataset, test.index, test.title)


PLOT = Plot(
    compose=_compose, max_images=6, options=("data",), tasks=("segmentation",),
    report=ReportFigure("Masks", _compose_for_report),
)  # fmt: skip
