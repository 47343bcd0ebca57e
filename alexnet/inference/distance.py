"""The perceptual distance between two images, from the feature maps of a network.

The form is that of LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR, equation 1). After each of the five activations of the convolutions, the maps of both images are divided by their
norm over the channels. The squared differences are weighted for each channel, summed over the channels and averaged
over the positions. The distance is the sum over the five layers.

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
from alexnet.data.image_file import ImageLike, read_whole_photograph
from alexnet.inference.predictor import expand_folders
from alexnet.inference.transform import ImageTransform
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
            name = model.variant or "the model"
            raise UserError(f"{name} is not an AlexNet: the distance needs a network with five convolutions")
        self.layers = tuple(f"{architecture.activation}{number}" for number in range(1, 6))
        self.trunk = nn.Sequential()
        for name, layer in model.named_children():
            self.trunk.add_module(name, copy.deepcopy(layer))
            if name == self.layers[-1]:
                break
        self.trunk.eval().requires_grad_(False)
        self.transform = ImageTransform(model.preprocessing, model.mean_image)
        self.normalization = model.channel_normalization
        self.smallest = architecture.smallest_image()  # pixels
        self.is_lpips = heads is not None and has_published_trunk(model)
        channels = [layer.filters for layer in architecture.convs]
        if heads is not None and [tuple(head.shape) for head in heads] != [(count,) for count in channels]:
            sizes = ", ".join(map(str, channels))
            raise UserError(
                f"the heads do not fit {model.variant}, whose convolutions have {sizes} channels: give --heads uniform"
            )
        if heads is not None and not all(bool((head >= 0).all()) for head in heads):
            raise UserError("the heads have weights that are negative or not numbers")
        self.heads_name: Heads = "uniform" if heads is None else "lpips"
        self.heads = nn.ParameterList(
            nn.Parameter(head.detach().clone().float(), requires_grad=False)
            for head in (heads if heads is not None else [torch.ones(count) for count in channels])
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances ``(N,)``, from 0, of images ``(N, C, H, W)`` that are normalized as the model's input.

        Images may have any size from ``smallest`` pixels on. Gradients with respect to the images are finite, also
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

        ``resize``: the model's whole preprocessing instead, with its resizing and crop. Raises ``UserError``.
        """
        if resize:
            return self.transform(image)[None]
        stored = read_whole_photograph(image, self.transform.preprocessing.channels, name)
        images = torch.from_numpy(stored).permute(2, 0, 1)[None].float()
        # a mean image has another size, so its average is subtracted
        centre, scale = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in self.normalization)
        return (images - centre) / scale

    @torch.no_grad()
    def between(self, first: ImageLike, second: ImageLike, *, resize: bool = False) -> float:
        """The distance of two images: paths, bytes, PIL images or uint8 arrays. Arguments as :meth:`pixels`.

        Raises ``UserError`` for an image that is refused, and for images of two sizes unless ``resize``.
        """
        pixels = [self.pixels(image, resize=resize) for image in (first, second)]
        return self.measure(pixels[0], pixels[1], ("the first image", "the second image"))

    @torch.no_grad()
    def measure(self, first: Tensor, second: Tensor, names: tuple[str, str]) -> float:
        """The distance of two images of :meth:`pixels`; ``names`` are theirs in errors.

        Raises ``UserError`` for images of two sizes, and of a size that is too small.
        """
        sizes = [f"{image.shape[3]} × {image.shape[2]}" for image in (first, second)]
        one, other = map(printable, names)
        if first.shape != second.shape:
            raise UserError(
                f"{one} and {other} have different sizes, {sizes[0]} and {sizes[1]} pixels: resize one of them, or "
                "give --resize (resize=True)"
            )
        if min(first.shape[2:]) < self.smallest:
            raise UserError(
                f"{one} and {other} have {sizes[0]} pixels, and this network needs {self.smallest}: give --resize "
                "(resize=True)"
            )
        device = self.heads[0].device
        return float(self(first.to(device), second.to(device))[0])


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
    """The distances of some pairs; ``heads``: the weights of the channels that they were measured with.

    ``is_lpips``: whether these are LPIPS's distances, so that also the convolutions are torchvision's published ones.
    """

    pairs: tuple[Pair, ...]
    heads: Heads
    is_lpips: bool

    @property
    def mean(self) -> float | None:
        """The mean over the pairs that could be compared; None if there is none."""
        found = [pair.distance for pair in self.pairs if pair.distance is not None]
        return sum(found) / len(found) if found else None

    @property
    def about_heads(self) -> str:
        """One line: which weights of the channels were used."""
        if self.is_lpips:
            return "heads: LPIPS 0.1, with torchvision's published weights: these are LPIPS distances"
        if self.heads == "lpips":
            return "heads: LPIPS 0.1, with other convolutions: these are not LPIPS distances"
        return "heads: uniform, a weight of 1 for each channel: these are not LPIPS distances"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {
            "heads": self.heads,
            "is_lpips": self.is_lpips,
            "mean": self.mean,
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
        }


def pairs_of_names(first: str, second: str | None, *, matrix: bool) -> list[tuple[str, str]]:
    """The pairs of files that two paths mean.

    Two files are one pair. Of two folders, files with the same relative path are a pair. ``matrix``: each image of
    ``first`` with each of ``second``; without ``second``, every pair of images of ``first``. Raises ``UserError`` if
    there is no pair, or for a file and a folder.
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
            value = measure.measure(last[1], measure.pixels(second, resize=resize), (first, second))
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
        raise UserError(
            f"{printable(str(file))} is not LPIPS's heads for AlexNet, version 0.1 (its sha256 differs): install lpips "
            "0.1.4 (pip install 'alexnet[perceptual]'), or give --heads uniform"
        )
    tensors = read_state_dict(file)
    return [tensors[f"lin{number}.model.1.weight"].reshape(-1) for number in range(5)]
