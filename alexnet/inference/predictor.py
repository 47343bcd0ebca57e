"""Predictions for images: a trained model with its classes and its preprocessing behind one call.

An image takes the same path as in training: it is decoded by ``data/decode.py``, cropped and normalized by
``data/augment.py``.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alexnet.core.errors import UserError, unknown
from alexnet.core.names import printable
from alexnet.data.augment import views
from alexnet.data.identity import image_name, names_person
from alexnet.data.image_file import ImageLike, read_photograph
from alexnet.data.sources import list_images
from alexnet.inference.sort_into import NONE_OF_THESE, SortedFolder
from alexnet.kernels.accelerate import accelerate
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import DeviceConfig, resolve_device
from alexnet.runtime.log import NullReporter, Reporter, stage
from alexnet.weights.load import load_model

if TYPE_CHECKING:
    from alexnet.inference.detection import DetectionPrediction
    from alexnet.inference.segmentation import SegmentationPrediction

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, 0 … 1. ``label``: its name for people, ``name``: its name in the data."""

    label: str
    name: str
    probability: float


class Predictor:
    """The most probable classes of images, most probable first: ``Predictor("runs/small-digits")("seven.png")``.

    ``model``: a run folder, a model folder, or a loaded model, which stays as it is. ``device``: ``"cpu"``, ``"cuda"``,
    ``"cuda:1"`` or a ``torch.device``; None takes a GPU if there is one. ``precision``: ``"auto"``, ``"fp32"``,
    ``"bf16"`` or ``"int8"`` (weights, on a CPU); not used if ``device`` is a ``DeviceConfig``. Raises ``UserError`` for
    a model that cannot be read and a device that cannot be used.
    """

    def __init__(
        self,
        model: Path | str | Classifier,
        device: str | torch.device | DeviceConfig | None = None,
        precision: str = "auto",
    ) -> None:
        self.model = model if isinstance(model, Classifier) else load_model(model)
        if not isinstance(device, DeviceConfig):
            device = resolve_device(None if device is None else str(device), precision)
        self.device_config = device
        self._network = accelerate(self.model, self.device_config)
        mean_image = self.model.mean_image
        self._mean_image = None if mean_image is None else mean_image.to(self.device_config.device)

    @overload  # the first that fits is used: a str is one image, not a sequence
    def __call__(self, images: ImageLike, top_k: int = 5) -> list[Prediction]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike], top_k: int = 5) -> list[list[Prediction]]: ...
    def __call__(
        self, images: ImageLike | Sequence[ImageLike], top_k: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """The ``top_k`` most probable classes of one image; for a sequence of images, a list of such lists.

        An image is a path, the bytes of a file, a PIL image, or an array ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W)`` of
        uint8. An array ``(N, H, W, C)`` is a sequence. Images may differ in size. Raises ``UserError``, one line that
        names the image, for one that cannot be read, and for ``top_k`` below 1. Models for other tasks have
        :meth:`segment` and :meth:`detect`.
        """
        check_classifies(self.model)
        _check_top_k(top_k)
        if is_one_image(images):
            return self.ranked(self.probabilities([self.read(cast("ImageLike", images))])[0], top_k)
        several = list(cast("Sequence[ImageLike]", images))
        found: list[list[Prediction]] = []
        for start in range(0, len(several), BATCH):
            batch = enumerate(several[start : start + BATCH], start)
            pixels = [self.read(image, _name(image, number)) for number, image in batch]
            found += [self.ranked(row, top_k) for row in self.probabilities(pixels)]
        return found

    def segment(self, image: ImageLike, name: str | None = None) -> SegmentationPrediction:
        """The class of each pixel of an image, of a model for segmentation. ``name``: of the image, in errors.

        Raises ``UserError`` for an image that cannot be read, and for a model for another task.
        """
        from alexnet.inference.segmentation import segment

        return segment(self, image, name)

    def detect(self, image: ImageLike, name: str | None = None, threshold: float = 0.5) -> DetectionPrediction:
        """The objects in an image with a score of at least ``threshold``, 0 … 1, of a model for detection.

        ``name``: of the image, in errors. Raises ``UserError`` for an image that cannot be read, and for a model for
        another task.
        """
        from alexnet.inference.detection import detect

        return detect(self, image, name, threshold)

    def read(self, image: ImageLike, name: str | None = None) -> NDArray[np.uint8]:
        """The pixels ``(S, S, C)`` uint8 of an image, as a prepared dataset would hold them.

        ``name``: the name of the image in errors. Raises ``UserError``.
        """
        settings = self.model.preprocessing
        return read_photograph(image, settings.resize_size, settings.channels, name, settings.resize, settings.view)

    def probabilities(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities ``(N, classes)`` of N images from :meth:`read`."""
        with torch.inference_mode(), self.device_config.autocast():
            return self._network(self.view(pixels)).float().softmax(dim=1).cpu().numpy()  # type: ignore[no-any-return]

    def pixel_probabilities(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Probabilities ``(N, classes, S, S)`` fp32 on the device of the pixels of N images ``(N, S, S, C)`` uint8.

        For a model for segmentation that predicts the whole of such images.
        """
        with torch.inference_mode(), self.device_config.autocast():
            probabilities: Tensor = self._network(self.view(pixels)).float().softmax(dim=1)
            return probabilities

    @functools.cached_property
    def heads(self) -> Classifier:
        """The network in fp32 on the device, for the parts of a prediction that are always computed so."""
        return self.device_config.to_device(copy.deepcopy(self.model)).eval()

    def feature_maps(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The last feature maps ``(N, C, h, w)`` fp32 on the device, for N images from :meth:`read`."""
        with torch.inference_mode(), self.device_config.autocast():
            maps: Tensor = self._network.forward_features(self.view(pixels)).float()
            return maps

    def features(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], layer: str) -> NDArray[np.float32]:
        """The output ``(N, units)`` of a layer, maps flattened, for N images from :meth:`read`.

        ``layer``: a name from ``model.layer_shapes()``. Raises ``UserError`` for any other.
        """
        return self.outputs(pixels, (layer,))[layer].flatten(1).float().cpu().numpy()

    def outputs(
        self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], layers: Collection[str]
    ) -> dict[str, Tensor]:
        """Layer → its output ``(N, C, H, W)`` or ``(N, units)`` on the device, for N images from :meth:`read`.

        ``layers``: names from ``model.layer_shapes()``. The network runs up to the last of them. Raises ``UserError``
        for any other name.
        """
        children = dict(self._network.named_children())
        for name in layers:
            if name not in children:
                raise unknown("layer", name, children)
        outputs: dict[str, Tensor] = {}
        with torch.inference_mode(), self.device_config.autocast():
            x = self.view(pixels)
            for name, layer in children.items():  # in evaluation mode this is the forward pass
                if len(outputs) == len(set(layers)):
                    break
                x = layer(x)
                if name in layers:
                    outputs[name] = x
        return outputs

    def view(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Tensor:
        """The network's input for N images from :meth:`read`: centre views ``(N, C, S, S)``, fp32 on the device."""
        batch = torch.from_numpy(np.stack(tuple(pixels))).to(self.device_config.device)
        (view,) = views(batch, self.model.preprocessing, self._mean_image)
        return self.device_config.to_memory_format(view)

    def visible(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same views before pixels are normalized, to show them: ``(N, S, S, C)``, 0 … 255."""
        channels = self.model.preprocessing.channels
        unnormalized = replace(
            self.model.preprocessing, pixel_normalization="unit", mean=(0.0,) * channels, std=(1.0,) * channels
        )
        (view,) = views(torch.from_numpy(np.stack(tuple(pixels))), unnormalized, None)
        return view.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def ranked(self, probabilities: NDArray[np.float32], top_k: int) -> list[Prediction]:
        """The ``top_k`` most probable of one image's classes ``(classes,)``, all of them if there are fewer.

        Raises ``UserError`` for probabilities that are not finite: there is no most probable class.
        """
        _check_top_k(top_k)
        if not np.isfinite(probabilities).all():
            raise UserError("the output of the model for this image is not finite, so there is no prediction")
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        model = self.model
        return [Prediction(model.labels[i], model.classes[i], float(probabilities[i])) for i in best]


def check_classifies(model: Classifier) -> None:
    """Raise ``UserError`` for a network that does not give each image a class."""
    if model.task != "classification":
        method = {"segmentation": "segment", "detection": "detect"}[model.task]
        raise UserError(
            f"this model is for {model.task}: it does not give an image a class; in Python, use Predictor.{method}"
        )


def is_one_image(images: Any) -> bool:
    """Whether the argument of a :class:`Predictor` is one image and not a sequence of images."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, Path | str | bytes | Image.Image) or not isinstance(images, Sequence)


def predict_files(
    predictor: Predictor,
    images: Iterable[str],
    top_k: int,
    stdin: bytes | None = None,
    *,
    threshold: float | None = None,
    sort_into: SortedFolder | None = None,
    reporter: Reporter | None = None,
) -> Iterator[dict[str, Any]]:
    """A dict for each image, in order: ``image`` and ``predictions``, or ``image`` and ``error`` if it is refused.

    ``images``: paths of files and folders; a folder stands for all files in it. ``-`` is the image in ``stdin``. An
    empty folder and a path that does not exist are refused like a damaged image. ``threshold``: with it, each dict has
    ``none_of_these``, whether no class reaches this probability. ``sort_into``: receives a copy of each image that is
    not refused; the dict has its path, ``copied_to``. ``reporter`` receives progress if there are more than
    ``BATCH`` images.
    """
    _check_top_k(top_k)
    names, done = list(expand_folders(images)), 0
    shown = shown_names(names)
    if reporter is None or len(names) <= BATCH:
        reporter = NullReporter()
    if sort_into and shown != names:
        raise UserError(
            "--sort-into keeps the names of files, and those of DICOM files may name a person: leave it out"
        )
    with stage(reporter, "predicting", len(names)):
        for start in range(0, len(names), BATCH):
            batch = slice(start, start + BATCH)
            for answer in _predict_batch(predictor, names[batch], shown[batch], top_k, stdin):
                file = names[done]
                done += 1
                if "error" not in answer:
                    best = answer["predictions"][0]
                    if threshold is not None:
                        answer["none_of_these"] = best["probability"] < threshold
                    if sort_into:
                        name = NONE_OF_THESE if answer.get("none_of_these") else best["name"]
                        answer["copied_to"] = str(sort_into.copy(Path(file), name))
                reporter.advance(done)
                yield answer


def shown_names(files: Sequence[str]) -> list[str]:
    """The names of image files for people: the paths, but numbers for all if one is a DICOM file."""
    medical = any(names_person(name) for name in files if name != "-")
    return [image_name(number) if medical else name for number, name in enumerate(files)]


def expand_folders(images: Iterable[str]) -> Iterator[str]:
    """The paths in their order, each folder replaced by the files in it, sorted. Links are followed as in training."""
    for name in images:
        inside = list_images(Path(name)) if os.path.isdir(name) else []  # noqa: PTH112 – never raises
        yield from map(str, inside) if inside else [name]


def _predict_batch(
    predictor: Predictor, names: list[str], shown: list[str], top_k: int, stdin: bytes | None
) -> Iterator[dict[str, Any]]:
    """``shown``: the names for people."""
    pixels, errors = {}, {}
    for place, name in enumerate(names):
        try:
            pixels[place] = _read_file(predictor, name, shown[place], stdin)
        except UserError as error:
            errors[place] = error.line
    rows = iter(predictor.probabilities(list(pixels.values())) if pixels else ())
    for place, name in enumerate(shown):
        if place in errors:
            yield {"image": name, "error": errors[place]}
            continue
        try:
            yield {"image": name, "predictions": [vars(found) for found in predictor.ranked(next(rows), top_k)]}
        except UserError as error:
            yield {"image": name, "error": f"{printable(name)}: {error.line}"}


def _read_file(predictor: Predictor, name: str, shown: str, stdin: bytes | None) -> NDArray[np.uint8]:
    if name == "-" and stdin is not None:
        return predictor.read(stdin, "standard input")
    if os.path.isdir(name):  # noqa: PTH112 – never raises
        if not os.access(name, os.R_OK | os.X_OK):
            raise UserError(f"{printable(shown)}: is a folder that cannot be read: permission denied")
        raise UserError(f"{shown}: is a folder without files; give image files or folders of them")
    return predictor.read(name, None if shown == name else shown)


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise UserError(f"top_k = {top_k}: give 1 or more")


def _name(image: ImageLike, number: int) -> str | None:
    """The name of an image of a sequence in errors: None for a path, which is its own name if it names nobody."""
    own = isinstance(image, Path | str) and not names_person(image)
    return None if own else f"image {number} of the sequence"
