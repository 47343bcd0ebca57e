"""The objects in an image: the prediction of a network for detection.

The whole image is stretched to the square that the network sees, and the boxes are brought back to the image, so they
are in pixels of the image itself: pixel i is the interval from i to i + 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alexnet.core.errors import UserError
from alexnet.data.image_file import ImageLike, read_whole_photograph
from alexnet.inference.annotated_files import COLOURS, annotate_files
from alexnet.inference.predictor import Predictor
from alexnet.models.classifier import Classifier
from alexnet.models.detection import DetectionNet
from alexnet.runtime.log import Reporter

LEAST_DRAWN = 480  # pixels: about the short side of small images with boxes
SHOWN_SCORE = 0.5  # of the boxes that are shown; scores are 0 … 1, and lower ones than 0.05 are never found


@dataclass(frozen=True)
class DetectedObject:
    """One object. ``label``: its class for people; ``name``: in the data; ``number``: its number. ``score``: 0 … 1.

    ``box``: left, top, right, bottom in pixels of the image.
    """

    label: str
    name: str
    number: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionPrediction:
    """The prediction for one image: its ``objects``, the best scores first, and its ``size``, width and height."""

    objects: tuple[DetectedObject, ...]
    size: tuple[int, int]

    def draw(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The boxes with their labels over the image ``(H, W, C)``, see :func:`draw_boxes`."""
        boxes = [(each.box, each.number, f"{each.label} {each.score:.0%}") for each in self.objects]
        return draw_boxes(pixels, boxes)


def draw_boxes(
    pixels: NDArray[np.uint8], boxes: Sequence[tuple[tuple[float, float, float, float], int, str]]
) -> NDArray[np.uint8]:
    """Boxes over an image ``(H, W, C)``, as ``(k·H, k·W, 3)`` uint8; small images are enlarged by a whole number k.

    Each box has corners in pixels of the image, a number for its colour, and a text.
    """
    times = max(1, round(LEAST_DRAWN / min(pixels.shape[:2])))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    height, width = pixels.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))))
    line = max(2, round(min(height, width) / 110))
    font = ImageFont.load_default(max(10.0, min(height, width) / 20))
    pen = ImageDraw.Draw(image)
    last_first = [(tuple(times * value for value in box), number, text) for box, number, text in reversed(boxes)]
    for (left, top, right, bottom), number, _ in last_first:
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(corners, outline=COLOURS[number % len(COLOURS)], width=line)
    for (left, top, _, _), number, text in last_first:  # above all lines, the best of them last
        if not text:
            continue
        colour = COLOURS[number % len(COLOURS)]
        x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
        x = max(0.0, min(left, width - x1 - 2))  # the whole text is inside the image
        y = top - y1 - 2 if top >= y1 + 2 else top
        pen.rectangle((x + x0 - 1, y + y0 - 1, x + x1 + 1, y + y1 + 1), fill=colour)
        red, green, blue = colour
        bright = 299 * red + 587 * green + 114 * blue > 128_000
        pen.text((x, y), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)
    return np.asarray(image)


def detect(
    predictor: Predictor, image: ImageLike, name: str | None = None, threshold: float = SHOWN_SCORE
) -> DetectionPrediction:
    """The objects in an image with a score of at least ``threshold``, 0 … 1.

    ``name``: of the image, in errors. Raises ``UserError``.
    """
    check_detection(predictor.model)
    channels = predictor.model.preprocessing.channels
    pixels = read_whole_photograph(image, channels, name)
    return detect_pixels(predictor, pixels, name, threshold)


def detect_pixels(
    predictor: Predictor, pixels: NDArray[np.uint8], name: str | None = None, threshold: float = SHOWN_SCORE
) -> DetectionPrediction:
    """:func:`detect` for the pixels ``(H, W, C)`` of an image with the channels of the model."""
    model = predictor.model
    heads = predictor.heads
    assert isinstance(heads, DetectionNet)
    height, width = pixels.shape[:2]
    array = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    maps = predictor.feature_maps(predictor.read(array, name)[None])
    if not bool(maps.isfinite().all()):
        raise UserError(f"{name or 'the image'}: the output of the model is not finite, so there is no prediction")
    with torch.inference_mode():
        (found,) = heads.detect(maps)
    scale = np.array([width, height, width, height]) / model.image_size
    objects = []
    for box, score, number in zip(found["boxes"].cpu().numpy(), found["scores"].tolist(), found["labels"].tolist(),
                                  strict=True):  # fmt: skip
        if score >= threshold:
            left, top, right, bottom = (box * scale).tolist()
            corners = (left, top, right, bottom)
            objects.append(DetectedObject(model.labels[number], model.classes[number], number, score, corners))
    return DetectionPrediction(tuple(objects), (width, height))


def check_detection(model: Classifier) -> None:
    """Raise ``UserError`` for a network of another task."""
    if model.task != "detection":
        raise UserError(f"this model is for {model.task}: it does not find objects")


def detect_files(
    predictor: Predictor,
    images: Iterable[str],
    stdin: bytes | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
    threshold: float | None = None,
) -> Iterator[dict[str, Any]]:
    """A dict for each image, in order: ``image``, ``width``, ``height`` and ``objects``; or ``error`` and no objects.

    An object is a dict of ``name``, ``label``, ``score`` and ``box``. ``threshold``: the least score, 0 … 1, None for
    ``SHOWN_SCORE``. ``out``: a folder that receives ``NAME-boxes.png``, the image with the boxes, see
    :func:`draw_boxes`; the dict has its path, ``drawn``. Raises ``UserError`` if a file cannot be written.
    """
    check_detection(predictor.model)
    least = SHOWN_SCORE if threshold is None else threshold

    def predict(own: NDArray[np.uint8], colour: NDArray[np.uint8], name: str | None) -> tuple[dict[str, Any], Any]:
        found = detect_pixels(predictor, own, name, least)
        objects = [
            {"name": each.name, "label": each.label, "score": each.score, "box": list(each.box)}
            for each in found.objects
        ]
        answer = {"width": found.size[0], "height": found.size[1], "objects": objects}
        return answer, lambda: {"drawn": ("-boxes", found.draw(colour))}

    return annotate_files(predictor, images, predict, "objects", stdin, out, reporter)
