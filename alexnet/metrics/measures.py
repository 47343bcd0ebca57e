"""The measures by which networks of each task are trained and compared: their names in files and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet.config import Task


@dataclass(frozen=True)
class Measure:
    """The main measure of a task, 0 … 1; the higher the better.

    ``name``: in ``result.json``, and after ``val_`` in ``metrics.jsonl``. ``words``: for people. ``training``: after
    ``train_``, the share of the training images that are right; for segmentation of their pixels, for
    detection of the boxes that the loss samples.
    """

    name: str
    words: str
    training: str

    @property
    def training_words(self) -> str:
        """The name of the measure of training images for people, if it is another one than the main measure; or ""."""
        return "" if self.training == self.name else self.training.replace("_", " ")


MEASURES: Mapping[Task, Measure] = {
    "classification": Measure("top1", "accuracy", "top1"),
    "segmentation": Measure("mean_iou", "mean IoU", "pixel_accuracy"),
    "detection": Measure("map50", "mAP50", "box_accuracy"),
}
"""Task → its main measure."""
