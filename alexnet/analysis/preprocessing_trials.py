"""Which preprocessing fits the weights: accuracy on labelled images under each plausible one.

Weights are only right with the preprocessing of their training, and do not contain it. So a few hundred labelled
images are classified under each combination of channel order and scale, then, with the best of these, under the other
way to make images square, with scaled dropout, and with the other convention for LRN's α. Two preprocessings are
compared on the same images: the difference of their accuracies has a 95 % interval from the images that only one of
them gets right. If it includes 0, they are a tie.

Accuracy hardly depends on the scaling of dropout, but the size of the logits does: without the factors 0.5 after fc6
and fc7 they are about four times too large. So each trial also has a temperature, the number by which the logits must
be divided for the lowest loss (C. Guo et al., "On calibration of modern neural networks", ICML 2017); it is near 1 for
a network as it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from alexnet.config import Preprocessing, Resize
from alexnet.core.files import read_bytes
from alexnet.data.augment import views
from alexnet.data.decode import ImageRefusedError, decode, fit
from alexnet.metrics.intervals import accuracy_interval
from alexnet.models.classifier import Classifier, watch_layers
from alexnet.models.layers import Dropout, LocalResponseNorm
from alexnet.weights.imagenet import CLASSES, ilsvrc_mean_image
from alexnet.weights.preprocessing import CAFFE_MEAN, TORCHVISION_MEAN, TORCHVISION_STD

Payload = bytes | Path | NDArray[np.uint8]
BATCH = 64
SURE = 3.0  # standard errors by which another preprocessing must be better before the stated one counts as wrong
FEWEST_IMAGES = (
    30  # with fewer, no better accuracy than by guessing is no fault of the weights, and losses tell nothing
)
HIDDEN = ("fc6", "fc7")
OTHER_ALPHA = "the other convention"
HALVED, DOUBLED = "fc6 and fc7 halved", "fc6 and fc7 doubled"
STRONG_DROPOUT = 0.4  # a weaker dropout changes the logits by less than networks differ
LOGITS_TOO_LARGE = 2 * math.sqrt(2)  # temperature: nearer to 4 than to 2
USUAL_TEMPERATURES = 0.5, 2.0
STATED = "as stated"
Setting = Literal["channels", "pixels", "resize", "dropout", "alpha"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True)
class Trial:
    """Accuracy under one preprocessing. ``right`` of ``images``; ``low`` and ``high``: 95 % interval; ``loss``: mean.

    ``behind``: by how much its accuracy is below that of the best, ``error``: the half width of the 95 % interval of
    this difference. ``tie``: whether that interval includes 0. ``temperature``: the number by which the logits must be
    divided for the lowest loss.
    """

    channels: Literal["RGB", "BGR", "grey"]
    pixels: str
    resize: Resize
    dropout: str
    alpha: str
    right: int
    images: int
    low: float
    high: float
    loss: float
    behind: float = 0.0
    error: float = 0.0
    tie: bool = True
    temperature: float = 1.0

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is right, 0 … 1."""
        return self.right / self.images


@dataclass(frozen=True)
class Trials:
    """All trials, the best first; ``stated``: the one with the model's own settings; ``chance``: accuracy of guessing.

    ``never_active``: layer → units that are 0 for all images and positions, under the best preprocessing. ``refused``:
    images that could not be read. ``dropout``: a trial, and the same with scaled outputs of fc6 and fc7; the second is
    right if ``dropout_is_wrong``. Of networks with strong dropout only. ``alpha``: the trial with the stated settings
    and the same with the other convention for α, if the second is clearly right (see ``SURE``).
    """

    trials: tuple[Trial, ...]
    stated: Trial
    chance: float
    never_active: dict[str, tuple[int, int]]
    refused: int
    dropout: tuple[Trial, Trial] | None = None
    dropout_is_wrong: bool = False
    alpha: tuple[Trial, Trial] | None = None

    @property
    def best(self) -> Trial:
        """The trial with the most right answers; of several, with the lowest loss."""
        return self.trials[0]

    @property
    def fits(self) -> bool:
        """Whether the best is better than guessing."""
        return self.best.low > self.chance

    @property
    def stated_is_wrong(self) -> bool:
        """Whether another preprocessing is clearly better than the stated one (see ``SURE``)."""
        return self.fits and self.stated.behind > SURE / 1.96 * self.stated.error and not self.stated.tie

    @property
    def wrong_settings(self) -> tuple[Setting, ...]:
        """The settings of the best trial that are not as stated, without those that make no clear difference."""
        best = self.best
        changed = [name for name in SETTINGS if getattr(best, name) != getattr(self.stated, name)]
        if len(changed) < 2:
            return tuple(changed)
        ties = {tuple(getattr(trial, name) for name in SETTINGS) for trial in self.trials if trial.tie}
        return tuple(
            name
            for name in changed
            if tuple(getattr(self.stated if other == name else best, other) for other in SETTINGS) not in ties
        )


@dataclass(frozen=True)
class _Settings:
    channels: Literal["RGB", "BGR", "grey"]
    pixels: str
    resize: Resize
    dropout: str = STATED
    alpha: str = STATED


@dataclass(frozen=True)
class _Result:
    correct: Tensor  # (N,) bool
    losses: Tensor  # (N,) float64
    temperature: float
    calibrated: Tensor  # (N,) float64: the losses of logits that are divided by the temperature


def run_trials(network: Classifier, payloads: Sequence[Payload], targets: Sequence[int]) -> Trials | None:
    """The accuracies of a network on labelled images under each plausible preprocessing; None if no image can be read.

    ``network``: in evaluation mode on the CPU. ``payloads``: image files as bytes or paths, or pixels ``(H, W, C)``
    uint8. ``targets``: the number of the right output for each image.
    """
    stated = network.preprocessing
    pixels = {stated.resize: _read(payloads, stated, stated.resize)}
    readable = [place for place, image in enumerate(pixels[stated.resize]) if image is not None]
    if not readable:
        return None
    labels = torch.tensor([targets[place] for place in readable])
    grey = network.in_channels == 1
    results: dict[_Settings, _Result] = {}

    def measure(settings: _Settings) -> _Result:
        if settings not in results:
            if settings.resize not in pixels:
                pixels[settings.resize] = _read(payloads, stated, settings.resize)
            some = [pixels[settings.resize][place] for place in readable]
            images = torch.from_numpy(np.stack([image for image in some if image is not None]))
            results[settings] = _classify(network, images, labels, settings)
        return results[settings]

    own = _Settings("grey" if grey else "RGB", STATED, stated.resize)
    measure(own)
    for name in _scales(network):
        for order in ("grey",) if grey else ("RGB", "BGR"):
            measure(_Settings(order, name, stated.resize))  # type: ignore[arg-type]
    best = _best(results)
    shapes = {_shape(payload) for payload in payloads}
    if any(height != width for height, width in shapes):
        measure(replace(best, resize="warp" if best.resize == "short-side" else "short-side"))
        best = _best(results)
    if any(hasattr(network, name) for name in HIDDEN):
        measure(replace(best, dropout=HALVED))
        measure(replace(best, dropout=DOUBLED))
    if any(isinstance(module, LocalResponseNorm) for module in network.modules()):
        for settings in dict.fromkeys((best, own)):  # α multiplies squares of pixels: another scale may hide it
            measure(replace(settings, alpha=OTHER_ALPHA))
    return _report(network, results, own, pixels, readable, len(payloads))


def _report(
    network: Classifier, results: dict[_Settings, _Result], own: _Settings,
    pixels: dict[Resize, list[NDArray[np.uint8] | None]], readable: list[int], given: int,
) -> Trials:  # fmt: skip
    best = _best(results)
    first = results[best].correct.double()
    trials = {}
    for settings, result in results.items():
        right, count = int(result.correct.sum()), len(result.correct)
        difference = first - result.correct.double()
        behind = float(difference.mean())
        error = 1.96 * float(difference.std()) / math.sqrt(count) if count > 1 else 1.0
        low, high = accuracy_interval(right, count)
        trials[settings] = Trial(
            settings.channels, settings.pixels, settings.resize, settings.dropout, settings.alpha, right, count,
            low, high, float(result.losses.mean()), behind, error, behind <= error, result.temperature,
        )  # fmt: skip
    ordered = sorted(trials.values(), key=lambda trial: (-trial.right, trial.loss))
    some = [pixels[best.resize][place] for place in readable]
    images = torch.from_numpy(np.stack([image for image in some if image is not None]))
    silent = _never_active(network, images, best)
    dropout, dropout_is_wrong = _dropout(network, results)
    alpha = _alpha(results, own)
    return Trials(
        tuple(ordered), trials[own], 1 / network.num_classes, silent, given - len(readable),
        (trials[replace(dropout, dropout=STATED)], trials[dropout]) if dropout else None, dropout_is_wrong,
        (trials[own], trials[alpha]) if alpha else None,
    )  # fmt: skip


def _alpha(results: Mapping[_Settings, _Result], own: _Settings) -> _Settings | None:
    """The stated settings with the other convention for α, if its loss is clearly lower (see ``SURE``).

    The losses are compared after a division of the logits by the temperature of each, because α changes their size too.
    """
    other = replace(own, alpha=OTHER_ALPHA)
    return other if other in results and _gain(results[own].calibrated, results[other].calibrated) > SURE else None


def _dropout(network: Classifier, results: Mapping[_Settings, _Result]) -> tuple[_Settings | None, bool]:
    """The settings with scaled outputs of fc6 and fc7 to compare, and whether they are right, not the stated ones.

    They are right if the logits are nearer to four times (or a fourth) of their best size than to twice (or half) of
    it, the scaled ones have a usual size, and their loss is lower by more than chance. None for a network without
    strong dropout.
    """
    if max((module.p for module in network.modules() if isinstance(module, Dropout)), default=0.0) < STRONG_DROPOUT:
        return None, False
    low, high = USUAL_TEMPERATURES
    scaled = [settings for settings in results if settings.dropout != STATED]
    for settings in scaled:
        stated, other = results[replace(settings, dropout=STATED)], results[settings]
        excess = stated.temperature if settings.dropout == HALVED else 1 / stated.temperature
        if excess > LOGITS_TOO_LARGE and low < other.temperature < high and _gain(stated.losses, other.losses) > SURE:
            return settings, True
    return (scaled[0] if scaled else None), False


def _gain(losses: Tensor, others: Tensor) -> float:
    """By how many standard errors the mean of ``losses`` is above that of ``others`` for the same images.

    0 for too few images: their standard error is not known well.
    """
    gain = losses - others
    if len(gain) < FEWEST_IMAGES:
        return 0.0
    return float(gain.mean()) / max(float(gain.std()) / math.sqrt(len(gain)), 1e-12)


def _best(results: dict[_Settings, _Result]) -> _Settings:
    return max(
        results, key=lambda settings: (int(results[settings].correct.sum()), -float(results[settings].losses.mean()))
    )


def _scales(network: Classifier) -> list[str]:
    """The names of the plausible scales of pixels; the stated one is the first."""
    stated = network.preprocessing
    names = [STATED, "0 to 1", "−1 to 1", "0 to 255 minus the mean colour of ILSVRC"]
    if network.in_channels == 3:
        names.append("torchvision's mean and std")
        if network.num_classes == CLASSES and stated.resize_size == len(ilsvrc_mean_image()):
            names.append("0 to 255 minus the mean image of ILSVRC")
    own = _preprocessing(network, STATED)[0]
    return [STATED, *(name for name in names[1:] if not _same_scale(_preprocessing(network, name)[0], own))]


def _same_scale(one: Preprocessing, other: Preprocessing) -> bool:
    if one.pixel_normalization.startswith("mean-image") or other.pixel_normalization.startswith("mean-image"):
        return one.pixel_normalization == other.pixel_normalization
    return np.allclose(one.mean, other.mean, atol=0.5) and np.allclose(one.std, other.std, rtol=0.01)


def _preprocessing(network: Classifier, name: str) -> tuple[Preprocessing, Tensor | None]:
    """The settings of a scale by its name, and the mean image if it subtracts one."""
    stated = network.preprocessing
    if name == STATED:
        return stated, network.mean_image
    if name == "0 to 255 minus the mean image of ILSVRC":
        return replace(stated, pixel_normalization="mean-image", mean=(), std=()), ilsvrc_mean_image()
    means: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "0 to 1": ((0.0,) * 3, (255.0,) * 3),
        "−1 to 1": ((127.5,) * 3, (127.5,) * 3),
        "0 to 255 minus the mean colour of ILSVRC": (CAFFE_MEAN, (1.0,) * 3),
        "torchvision's mean and std": ([255 * x for x in TORCHVISION_MEAN], [255 * x for x in TORCHVISION_STD]),
    }
    mean, std = means[name]
    if stated.channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return replace(stated, pixel_normalization="channel", mean=tuple(mean), std=tuple(std)), None


def _read(payloads: Sequence[Payload], stated: Preprocessing, resize: Resize) -> list[NDArray[np.uint8] | None]:
    """The pixels ``(side, side, C)`` of each image; None for one that is refused."""
    found: list[NDArray[np.uint8] | None] = []
    side = stated.resize_size
    for payload in payloads:
        try:
            image = _image(payload, side)
            if resize == "warp" and image.width != image.height:
                image = image.resize((side, side), Image.Resampling.BILINEAR)
            found.append(fit(image, side, stated.channels))
        except (ImageRefusedError, OSError):
            found.append(None)
    return found


def _image(payload: Payload, side: int) -> Image.Image:
    if isinstance(payload, np.ndarray):
        return Image.fromarray(payload[:, :, 0] if payload.ndim == 3 and payload.shape[2] == 1 else payload)
    return decode(read_bytes(payload) if isinstance(payload, Path) else payload, target=side)


def _shape(payload: Payload) -> tuple[int, int]:
    """Height and width of an image; (1, 1) for one that cannot be read."""
    try:
        image = _image(payload, 64)
    except (ImageRefusedError, OSError):
        return 1, 1
    return image.height, image.width


def _inputs(network: Classifier, images: Tensor, settings: _Settings) -> Iterator[Tensor]:
    preprocessing, mean_image = _preprocessing(network, settings.pixels)
    for start in range(0, len(images), BATCH):
        (view,) = views(images[start : start + BATCH], preprocessing, mean_image)
        yield view.flip(1) if settings.channels == "BGR" else view


def _classify(network: Classifier, images: Tensor, labels: Tensor, settings: _Settings) -> _Result:
    with torch.inference_mode(), _changed(network, settings) as changed:
        logits = [changed(view).double() for view in _inputs(network, images, settings)]
    output = torch.cat(logits)
    temperature = best_temperature(output, labels)
    losses, calibrated = (
        -scaled.log_softmax(dim=1).gather(1, labels[:, None])[:, 0] for scaled in (output, output / temperature)
    )
    return _Result(output.argmax(dim=1) == labels, losses, temperature, calibrated)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number by which logits ``(N, classes)`` must be divided for the lowest mean cross entropy; 1/64 to 64.

    ``labels`` ``(N,)`` int64. By bisection: the loss is a convex function of the reciprocal.
    """
    right = logits.gather(1, labels[:, None])[:, 0]
    low, high = -6.0, 6.0  # of the binary logarithm of the reciprocal
    while high - low > 0.01:
        middle = (low + high) / 2
        expected = ((logits * 2**middle).softmax(dim=1) * logits).sum(dim=1)
        low, high = (low, middle) if float((expected - right).mean()) > 0 else (middle, high)
    return float(2 ** (-(low + high) / 2))


@contextmanager
def _changed(network: Classifier, settings: _Settings) -> Iterator[Classifier]:
    """The network with the dropout scaling and α of the settings; it shares the weights."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    changed = deepcopy(network, memo)
    if settings.alpha != STATED:
        for module in changed.modules():
            if isinstance(module, LocalResponseNorm):
                module.convention = "mean" if module.convention == "sum" else "sum"
    factor = {STATED: 1.0, HALVED: 0.5, DOUBLED: 2.0}[settings.dropout]
    handles = []
    if factor != 1.0:
        hidden = [layer for name in HIDDEN if isinstance(layer := getattr(changed, name, None), nn.Linear)]
        handles = [layer.register_forward_hook(_times(factor)) for layer in hidden]
    try:
        yield changed
    finally:
        for handle in handles:
            handle.remove()


def _times(factor: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, given, output: output * factor


def _never_active(network: Classifier, images: Tensor, settings: _Settings) -> dict[str, tuple[int, int]]:
    """Layer with a ReLU → (units that are 0 for all images and positions, all units)."""
    names = [name for name, module in network.named_children() if isinstance(module, nn.ReLU)]
    highest: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        top = output.amax(dim=[axis for axis in range(output.dim()) if axis != 1])
        highest[name] = torch.maximum(highest[name], top) if name in highest else top

    with torch.inference_mode(), watch_layers(network, record, names):
        for view in _inputs(network, images, settings):
            network(view)
    return {name: (int((values <= 0).sum()), len(values)) for name, values in highest.items()}
