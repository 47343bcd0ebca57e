"""The class of each pixel of an image: the prediction of a network for segmentation.

The network sees squares. So the short side of the image is resized as in training, and squares that overlap by half
cover the long side; where they overlap, their probabilities are averaged. The mask has the size of the image itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.data.decode import fit
from alexnet.data.image_file import ImageLike, read_whole_photograph
from alexnet.data.masks import encode_mask, nearest
from alexnet.inference.annotated_files import COLOURS, annotate_files
from alexnet.inference.predictor import Predictor
from alexnet.models.classifier import Classifier
from alexnet.runtime.log import Reporter

OPACITY = 0.6  # of the colours of a mask over its image
SHOWN = 0.0005  # a class with a smaller share of the pixels is not listed


@dataclass(frozen=True, eq=False)
class SegmentationPrediction:
    """The prediction for one image. ``mask`` ``(H, W)`` uint8: the number of the class of each pixel of the image.

    ``classes``: the names of the classes in the data, by number; ``labels``: their names for people.
    """

    mask: NDArray[np.uint8]
    classes: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def shares(self) -> Mapping[str, float]:
        """Class → its share of the pixels, 0 … 1, the largest first; classes without a pixel are left out."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[number]: float(counts[number] / self.mask.size) for number in order if counts[number]}

    def png(self) -> bytes:
        """The mask as a PNG file with the palette of PASCAL VOC."""
        return encode_mask(self.mask)

    def overlay(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask in colours over the image ``(H, W, 3)`` or ``(H, W, 1)``; class 0, the background, is clear."""
        return overlay(pixels, self.mask)


def overlay(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``pixels`` ``(H, W, C)`` with the colours of a mask ``(H, W)`` above it, ``(H, W, 3)``; class 0 is clear."""
    base = np.broadcast_to(pixels, (*mask.shape, 3)).astype(np.float32)
    mixed = (1 - OPACITY) * base + OPACITY * mask_colours()[mask]
    return np.where((mask > 0)[..., None], mixed, base).round().astype(np.uint8)


def mask_colours() -> NDArray[np.uint8]:
    """The colours ``(256, 3)`` of masks over images, as of boxes; they are brighter than those of VOC."""
    return np.array([COLOURS[(number - 1) % len(COLOURS)] for number in range(256)], np.uint8)


def segment(predictor: Predictor, image: ImageLike, name: str | None = None) -> SegmentationPrediction:
    """The class of each pixel of an image. ``name``: of the image, in errors. Raises ``UserError``."""
    check_segmentation(predictor.model)
    channels = predictor.model.preprocessing.channels
    return _segment_pixels(predictor, read_whole_photograph(image, channels, name), name)


def _segment_pixels(predictor: Predictor, pixels: NDArray[np.uint8], name: str | None) -> SegmentationPrediction:
    """The class of each pixel of an image ``(H, W, C)`` with the channels of the model."""
    model = predictor.model
    scores = _scores(predictor, _resized(pixels, model.preprocessing.resize_size))
    if not bool(scores.isfinite().all()):
        raise UserError(f"{name or 'the image'}: the output of the model is not finite, so there is no prediction")
    found = scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
    rows, columns = (nearest(size, new) for size, new in zip(found.shape, pixels.shape[:2], strict=True))
    return SegmentationPrediction(found[rows[:, None], columns], model.classes, model.labels)


def check_segmentation(model: Classifier) -> None:
    """Raise ``UserError`` for a network of another task."""
    if model.task != "segmentation":
        raise UserError(f"this model is for {model.task}: it does not predict a class for each pixel")


def _resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image ``(H, W, C)`` whose short side is resized to ``side``, as in training, but without a crop."""
    height, width, channels = pixels.shape
    if min(height, width) == side:
        return pixels
    scale = side / min(height, width)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if size[0] == size[1]:
        return fit(image, side, channels)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], channels)


def _scores(predictor: Predictor, pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Summed probabilities ``(classes, H, W)`` of the squares that cover an image ``(H, W, C)``."""
    side, (height, width) = predictor.model.preprocessing.resize_size, pixels.shape[:2]
    total: torch.Tensor | None = None
    for top in _starts(height, side):
        for left in _starts(width, side):
            probabilities = predictor.pixel_probabilities(pixels[None, top : top + side, left : left + side])[0]
            if total is None:
                total = torch.zeros(len(probabilities), height, width, device=probabilities.device)
            total[:, top : top + side, left : left + side] += probabilities
    assert total is not None
    return total


def _starts(length: int, side: int) -> list[int]:
    """The first pixels of squares of ``side`` that cover ``length`` pixels and overlap by at least half."""
    steps = math.ceil((length - side) / (side / 2))
    return [round(step * (length - side) / steps) for step in range(steps + 1)] if steps > 0 else [0]


def segment_files(
    predictor: Predictor,
    images: Iterable[str],
    stdin: bytes | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
) -> Iterator[dict[str, Any]]:
    """A dict for each image, in order: ``image`` and ``shares``, a list of class, label and share; or ``error``.

    ``out``: a folder that receives ``NAME.png``, the mask, and ``NAME-overlay.png``; the dict has their paths, ``mask``
    and ``overlay``. The other arguments are those of ``predict_files``. Raises ``UserError`` if a file cannot be
    written.
    """
    check_segmentation(predictor.model)

    def predict(own: NDArray[np.uint8], colour: NDArray[np.uint8], name: str | None) -> tuple[dict[str, Any], Any]:
        found = _segment_pixels(predictor, own, name)
        labels = dict(zip(found.classes, found.labels, strict=True))
        shares = [
            {"name": each, "label": labels[each], "share": share}
            for each, share in found.shares.items()
            if share >= SHOWN
        ]
        return {"shares": shares}, lambda: {"mask": ("", found.png()), "overlay": ("-overlay", found.overlay(colour))}

    return annotate_files(predictor, images, predict, "shares", stdin, out, reporter)
