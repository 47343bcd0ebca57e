"""The perceptual distance between two images: how different a network finds them.

The form is that of LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR, equation 1). After each of the five activations of the convolutions, the maps of both images are divided by their
norm over the channels. The squared differences are weighted for each channel, summed over the channels and averaged
over the places. The distance is the sum over the five layers.

The weights are the authors' linear heads, version 0.1, if the network is torchvision's with its published weights and
the package ``lpips`` is installed, which brings the file. Otherwise all weights are 1, as in the authors' baseline.

This is not a metric: the distance of equal images is 0, it is symmetric and not negative, but the triangle inequality
need not hold.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alexnet.core.errors import UserError, cannot_read
from alexnet.core.files import read_bytes
from alexnet.core.names import printable
from alexnet.data.image_file import ImageLike, read_photograph, read_whole_photograph
from alexnet.inference.predictor import expand_folders
from alexnet.models.alexnet import architecture_of
from alexnet.models.classifier import Classifier
from alexnet.weights.layer_hashes import PUBLISHED, layer_sha256
from alexnet.weights.torch_files import read_state_dict

EPSILON = 1e-10  # added to the norm, as in lpips 0.1.4
HEADS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
"""Of ``lpips/weights/v0.1/alex.pth`` in lpips 0.1.4."""
TRUNK = "torchvision/imagenet"  # the weights that the heads were trained on
Heads = Literal["lpips", "uniform"]


class PerceptualDistance(nn.Module):
    """Distances between images, with a model's convolutions.

    ``model``: an AlexNet, whose convolutions are copied. ``heads``: for each of the five the weights of the channels
    ``(C,)``, not negative, or None for weights of 1. ``heads_name`` says which they are. Raises ``UserError`` for a
    network without five convolutions and for heads that do not fit.
    """

    def __init__(self, model: Classifier, heads: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        architecture = architecture_of(model)
        if architecture is None:
            raise UserError(f"{model.variant or 'the model'} is no AlexNet: the distance needs its five convolutions")
        self.layers = tuple(f"{architecture.activation}{number}" for number in range(1, 6))
        self.trunk = nn.Sequential()
        for name, layer in model.named_children():
            self.trunk.add_module(name, copy.deepcopy(layer))
            if name == self.layers[-1]:
                break
        self.trunk.eval().requires_grad_(False)
        self.preprocessing, self.image_size = model.preprocessing, model.image_size
        self.mean_image = model.mean_image
        channels = [layer.filters for layer in architecture.convs]
        if heads is not None and [tuple(head.shape) for head in heads] != [(count,) for count in channels]:
            sizes = ", ".join(map(str, channels))
            raise UserError(f"the heads do not fit {model.variant}: give one of each size {sizes}")
        if heads is not None and not all(bool((head >= 0).all()) for head in heads):
            raise UserError("the heads have weights that are negative or not numbers")
        self.heads_name: Heads = "uniform" if heads is None else "lpips"
        self.heads = nn.ParameterList(
            nn.Parameter(head.detach().clone().float(), requires_grad=False)
            for head in (heads if heads is not None else [torch.ones(count) for count in channels])
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances ``(N,)``, from 0, of images ``(N, C, H, W)`` that are normalized as the model's input.

        Images may have any size that the convolutions take. Gradients with respect to the images are finite, also
        where all maps are 0. Raises ``ValueError`` for two shapes.
        """
        if first.shape != second.shape:
            raise ValueError(f"images of the shapes {tuple(first.shape)} and {tuple(second.shape)} are not compared")
        total = first.new_zeros(len(first))
        pairs = zip(self.activations(first), self.activations(second), self.heads, strict=True)
        for one, other, head in pairs:
            squares = (unit_maps(one) - unit_maps(other)).square()
            total = total + (squares * head[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        return total

    def activations(self, images: Tensor) -> list[Tensor]:
        """The outputs of the five activations, ``(N, C, H, W)`` each."""
        found = []
        for name, layer in self.trunk.named_children():
            images = layer(images)
            if name in self.layers:
                found.append(images)
        return found

    def pixels(self, image: ImageLike, *, resize: bool = False, name: str | None = None) -> Tensor:
        """An image as the input ``(1, C, H, W)``, float32, normalized as the model's, at its own size.

        ``resize``: at the model's size instead: short side resized, centre square. Raises ``UserError``.
        """
        settings = self.preprocessing
        if resize:
            stored = read_photograph(image, self.image_size, settings.channels, name)
        else:
            stored = read_whole_photograph(image, settings.channels, name)
        images = torch.from_numpy(stored).permute(2, 0, 1)[None].float()
        mean, std = settings.mean, settings.std
        if self.mean_image is not None:  # its size is another one, so its average is subtracted
            mean, std = tuple(self.mean_image.double().mean(dim=(0, 1)).tolist()), (1.0,) * settings.channels
        centre, scale = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        return (images - centre) / scale

    @torch.no_grad()
    def between(self, first: ImageLike, second: ImageLike, *, resize: bool = False) -> float:
        """The distance of two images: paths, bytes, PIL images or uint8 arrays. Arguments as :meth:`pixels`.

        Raises ``UserError`` for an image that is refused, and for images of two sizes unless ``resize``.
        """
        return float(self.tensors(self.pixels(first, resize=resize), self.pixels(second, resize=resize))[0])

    def tensors(self, first: Tensor, second: Tensor) -> Tensor:
        """:meth:`forward`, with errors as one line for images of two sizes, or of a size that is too small."""
        if first.shape != second.shape:
            sizes = " and ".join(f"{image.shape[3]} × {image.shape[2]}" for image in (first, second))
            raise UserError(f"images of {sizes} pixels are not compared: resize them, or give --resize (resize=True)")
        try:
            distances: Tensor = self(first, second)
        except RuntimeError as error:
            size = f"{first.shape[3]} × {first.shape[2]}"
            raise UserError(f"images of {size} pixels are too small for this network: give --resize") from error
        return distances


def unit_maps(maps: Tensor) -> Tensor:
    """``(N, C, H, W)`` divided by the norm over C at each place; zeros stay zeros, with a gradient of zero."""
    squares = maps.square().sum(dim=1, keepdim=True)
    empty = squares == 0
    norm = torch.where(empty, 1.0, squares).sqrt()  # the root of 0 has no gradient
    return torch.where(empty, 0.0, maps / (norm + EPSILON))


@dataclass(frozen=True)
class Pair:
    """Two images and their distance; ``error`` says why there is none."""

    first: str
    second: str
    distance: float | None
    error: str = ""


@dataclass(frozen=True)
class Distances:
    """The distances of some pairs; ``heads``: the weights of the channels that they were measured with."""

    pairs: tuple[Pair, ...]
    heads: Heads

    @property
    def mean(self) -> float | None:
        """The mean over the pairs that could be compared; None if there is none."""
        found = [pair.distance for pair in self.pairs if pair.distance is not None]
        return sum(found) / len(found) if found else None

    @property
    def about_heads(self) -> str:
        """One line: which weights of the channels were used."""
        if self.heads == "lpips":
            return "heads: LPIPS 0.1, so these are LPIPS distances"
        return "heads: uniform, a weight of 1 for each channel, so these are not LPIPS's own distances"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {"heads": self.heads, "mean": self.mean, "pairs": [dataclasses.asdict(pair) for pair in self.pairs]}


def pairs_of_names(first: str, second: str | None, *, matrix: bool) -> list[tuple[str, str]]:
    """The pairs of files that two paths mean.

    Two files are one pair. Of two folders, files with the same relative path are a pair. ``matrix``: each image of
    ``first`` with each of ``second``; without ``second``, each two images of ``first``. Raises ``UserError`` if there
    is no pair, or for a file and a folder.
    """
    names = {path: list(expand_folders([path])) for path in (first, second) if path is not None}
    if matrix:
        ours, theirs = names[first], names[second if second is not None else first]
        pairs = [(a, b) for a in ours for b in theirs if second is not None or a < b]
        if not pairs:
            raise UserError(f"{printable(first)} has fewer than two images: there is no pair to compare")
        return pairs
    if second is None:
        raise UserError("one path is given: give two images or two folders, or --matrix for all images of a folder")
    folders = [os.path.isdir(path) for path in (first, second)]  # noqa: PTH112 – never raises
    if folders[0] != folders[1]:
        raise UserError(
            f"{printable(first)} and {printable(second)} are a file and a folder: give two of a kind, or --matrix"
        )
    if not folders[0]:
        return [(first, second)]
    relative = {os.path.relpath(name, second): name for name in names[second]}
    pairs = [
        (name, relative[os.path.relpath(name, first)])
        for name in names[first]
        if os.path.relpath(name, first) in relative
    ]
    if not pairs:
        raise UserError(
            f"{printable(first)} and {printable(second)} have no image with the same name: rename them, or give "
            "--matrix to compare all with all"
        )
    return pairs


def distances_of_pairs(
    measure: PerceptualDistance, pairs: Sequence[tuple[str, str]], *, resize: bool = False
) -> Iterator[Pair]:
    """The distance of each pair of files. A pair that cannot be compared has an error; the others follow."""
    last: tuple[str, Tensor] | None = None  # of a row of a matrix, the first image is read once
    for first, second in pairs:
        try:
            if last is None or last[0] != first:
                last = first, measure.pixels(first, resize=resize)
            with torch.no_grad():
                value = float(measure.tensors(last[1], measure.pixels(second, resize=resize))[0])
            yield Pair(first, second, value)
        except UserError as error:
            yield Pair(first, second, None, error.line)


def perceptual_distance(model: Classifier, heads: Path | str | None = None) -> PerceptualDistance:
    """The perceptual distance of a model: ``perceptual_distance(model).between("a.png", "b.png")``.

    ``model``: an AlexNet, see ``load_model``; its convolutions are copied. ``heads``: the file
    of LPIPS's linear heads, ``alex.pth``; None takes the one of the package ``lpips`` if the model has the weights that
    they were trained on, else weights of 1; ``"uniform"`` always takes these. ``.heads_name`` says which are used.
    Raises ``UserError`` for a network that is no AlexNet and for a file that is not those heads.
    """
    if heads == "uniform":
        return PerceptualDistance(model)
    if heads is not None:
        return PerceptualDistance(model, read_heads(Path(heads)))
    file = installed_heads() if has_published_trunk(model) else None
    return PerceptualDistance(model, None if file is None else read_heads(file))


def has_published_trunk(model: Classifier) -> bool:
    """Whether the convolutions are those of torchvision's published weights."""
    if model.variant != "torchvision":
        return False
    for name, digest in PUBLISHED[TRUNK].items():
        state = model.get_submodule(name).state_dict()
        if layer_sha256(state["weight"].cpu(), state["bias"].cpu()) != digest:
            return False
    return True


def installed_heads() -> Path | None:
    """The file of the heads in the package ``lpips``, which is not imported; None if it is not installed."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "weights" / "v0.1" / "alex.pth"
    return file if file.is_file() else None


def read_heads(file: Path) -> list[Tensor]:
    """The five heads ``(C,)`` of LPIPS 0.1 for AlexNet. Raises ``UserError`` for any other file, by its hash."""
    try:
        content = read_bytes(file)
    except OSError as error:
        raise cannot_read(file, error) from error
    if hashlib.sha256(content).hexdigest() != HEADS_SHA256:
        raise UserError(f"{printable(str(file))} is not LPIPS's heads for AlexNet, version 0.1 (its sha256 differs)")
    tensors = read_state_dict(file)
    return [tensors[f"lin{number}.model.1.weight"].reshape(-1) for number in range(5)]
