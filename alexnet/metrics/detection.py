"""Average precision of detected objects: the measure of COCO (Lin et al. 2014), by torchmetrics and faster-coco-eval.

A detected object is right if it has the class of a true object and overlaps it by a given intersection over union
(IoU); each true object can be found once. The average precision of a class is the area below its curve of precision
over recall. mAP50 is its mean over the classes for an IoU of 0.5, mAP the mean over IoUs of 0.5 to 0.95. Boxes that are
not counted (crowds, difficult objects) change no measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.extras import require
from alexnet.models.detection import Detections

EXTRA = "detection"


@dataclass
class DetectionMetrics:
    """The detected and the true objects of the images so far.

    ``name``, ``split``: of the model and of the images; ``class_names``: in the order of the classes.
    """

    num_classes: int
    name: str = ""
    split: str = ""
    class_names: tuple[str, ...] = ()
    images: int = 0
    loss_sum: float = 0.0
    not_finite: int = 0
    _found: list[Detections] = field(default_factory=list)
    _wanted: list[Detections] = field(default_factory=list)

    def add(self, found: Sequence[Detections], boxes: NDArray[np.float32], losses: Sequence[float]) -> None:
        """Add images: their detections, their true boxes ``(N, M, 6)`` in the same pixels, and the loss of each.

        A loss of NaN marks an image whose output is not finite.
        """
        self.__dict__.pop("precision", None)
        for image, rows, loss in zip(found, torch.from_numpy(boxes), losses, strict=True):
            self._found.append({name: values.cpu() for name, values in image.items()})
            rows = rows[rows[:, 0] >= 0]
            self._wanted.append({"boxes": rows[:, 1:5], "labels": rows[:, 0].long(), "iscrowd": rows[:, 5].long()})
            finite = math.isfinite(loss)
            self.images += 1
            self.not_finite += not finite
            self.loss_sum += loss if finite else 0.0

    @cached_property
    def precision(self) -> dict[str, Tensor]:
        """What torchmetrics computes from all images so far. Raises ``UserError`` without the extra."""
        return _average_precision(self._found, self._wanted)

    @property
    def loss(self) -> float:
        """The mean loss of the images; NaN without one."""
        counted = self.images - self.not_finite
        return self.loss_sum / counted if counted else math.nan

    @property
    def map50(self) -> float:
        """Mean average precision for an IoU of 0.5, 0 … 1; 0 without objects."""
        return max(0.0, float(self.precision["map_50"]))

    @property
    def map(self) -> float:
        """Mean average precision over IoUs of 0.5 to 0.95, 0 … 1; 0 without objects."""
        return max(0.0, float(self.precision["map"]))

    @property
    def figures(self) -> dict[str, float]:
        """The measures that are written after each epoch."""
        return {"loss": self.loss, "map50": self.map50, "map": self.map}

    def summary(self) -> dict[str, Any]:
        """The measures as values for JSON: ``map50``, ``map``, ``loss``, ``images``, ``objects``, ``per_class``.

        ``map50`` and ``map`` are None without objects.
        ``per_class``: class → ``ap`` (over IoUs of 0.5 to 0.95; None for a class without objects), and ``objects``.
        """
        counts = np.zeros(self.num_classes, np.int64)
        for image in self._wanted:
            counts += np.bincount(image["labels"][image["iscrowd"] == 0].numpy(), minlength=self.num_classes)
        known = dict(
            zip(
                np.atleast_1d(self.precision["classes"].numpy()).tolist(),
                np.atleast_1d(self.precision["map_per_class"].numpy()).tolist(),
                strict=False,
            )
        )
        return {
            "map50": self.map50 if counts.any() else None,
            "map": self.map if counts.any() else None,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "images": self.images,
            "objects": int(counts.sum()),
            **({"not_finite": self.not_finite} if self.not_finite else {}),
            "per_class": {
                name: {"ap": max(0.0, known.get(number, 0.0)) if count else None, "objects": int(count)}
                for number, (name, count) in enumerate(zip(self.class_names, counts.tolist(), strict=True))
            },
        }

    def to_json(self) -> dict[str, Any]:
        """:meth:`summary` with ``run`` (the name), ``split`` and ``task``."""
        return {"run": self.name, "split": self.split, "task": "detection", **self.summary()}


def check_installed() -> None:
    """Raise ``UserError`` if a package of the extra is not installed."""
    for module in ("torchmetrics", "faster_coco_eval"):
        require(module, EXTRA, "average precision, the measure of detection,")


def _average_precision(found: list[Detections], wanted: list[Detections]) -> dict[str, Tensor]:
    check_installed()
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False
    metric.update(found, wanted)
    return dict(metric.compute())
