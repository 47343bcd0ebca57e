"""Stored pixels to what the network sees, for a whole batch at once, on the device that holds it.

Each image has its own crop, flip, rotation and colour, and each draw is a function of (seed, epoch, image): see
``core/randomness.py``. Evaluation takes the centre view or the ten views of the paper (§4.1) by the same code.

Shapes: pixels are ``(N, H, W, C)`` ``uint8``; views are ``(N, C, S, S)`` fp32, channels last in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import AugmentSpec, Preprocessing
from alexnet.core.randomness import derive_key, integers, normal, uniform
from alexnet.data.loader import to_device

ViewOrder = Literal["tencrop", "caffe", "cuda-convnet"]
NOISE_SCALE = 255.0
TRIES = 10  # at a crop of random size, before the whole image is taken: torchvision's number
THINNEST = 3 / 4  # width over height of such a crop, up to its inverse


@dataclass(frozen=True)
class Colours:
    """The principal components of the training pixels' colours, on the 0 … 255 scale.

    ``deviations`` ``(3,)`` are √λ, largest first; ``components`` ``(3, 3)`` has one unit vector (R, G, B) a row.
    """

    deviations: NDArray[np.float64]
    components: NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of N images. ``top``, ``left`` ``(N,)`` int64 (negative inside the mirrored margin);
    ``flip`` ``(N,)`` bool; ``angle`` ``(N,)`` radians; ``colour`` ``(N, 3)`` shift on the 0 … 255 scale; ``extent``
    ``(N, 2)`` int64, height and width of a crop of random size.
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]
    angle: NDArray[np.float64]
    colour: NDArray[np.float64] | None
    extent: NDArray[np.int64] | None = None


def draw(
    spec: AugmentSpec,
    resize_size: int,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    position: NDArray[np.int64],
    colours: Colours | None,
) -> Draws:
    """The draws of images ``index`` in ``epoch``. ``position``: their places in the epoch's order, by which images that
    share a crop are grouped. ``resize_size``: the side of the stored images. ``colours``: needed for colour noise only.
    """
    who = index if spec.crop_group == 1 else position // spec.crop_group
    extent = (
        None
        if spec.random_resized_crop is None
        else _extents(spec.random_resized_crop, resize_size, seed, epoch, index)
    )
    height, width = (spec.crop or resize_size,) * 2 if extent is None else extent.T
    places = resize_size + 2 * spec.pad + 1
    u = uniform(derive_key(seed, "crop"), epoch, who, 3)
    turn = uniform(derive_key(seed, "rotation"), epoch, index, 1)[0]
    return Draws(
        top=integers(u[0], places - height) - spec.pad,
        left=integers(u[1], places - width) - spec.pad,
        flip=(u[2] < 0.5) & spec.flip,
        angle=np.radians(spec.rotation) * (2 * turn - 1),
        colour=_colour_shift(spec, seed, epoch, index, colours),
        extent=extent,
    )


def _extents(
    random_resized_crop: tuple[float, ...], resize_size: int, seed: int, epoch: int, index: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Height and width ``(N, 2)`` of each image's crop, as torchvision's ``RandomResizedCrop`` draws them.

    A share of the area and a shape, uniform in its logarithm, up to ``TRIES`` times until the crop fits.
    """
    u = uniform(derive_key(seed, "extent"), epoch, index, 2 * TRIES)
    pixels = resize_size**2 * (random_resized_crop[0] + (random_resized_crop[1] - random_resized_crop[0]) * u[:TRIES])
    shape = np.exp(np.log(THINNEST) * (1 - 2 * u[TRIES:]))
    sides = np.rint(np.sqrt([pixels / shape, pixels * shape])).astype(np.int64)  # (2, TRIES, N)
    fits = ((sides > 0) & (sides <= resize_size)).all(axis=0)
    first = np.take_along_axis(sides, fits.argmax(axis=0)[None, None], axis=1)[:, 0]
    return np.where(fits.any(axis=0), first, resize_size).T


def _colour_shift(
    spec: AugmentSpec, seed: int, epoch: int, index: NDArray[np.int64], colours: Colours | None
) -> NDArray[np.float64] | None:
    if spec.color_noise == "none":
        return None
    if colours is None:
        raise ValueError(f"colour noise {spec.color_noise!r} needs the principal components of the colours")
    alpha = spec.color_noise_std * normal(derive_key(seed, "colour"), epoch, index, 3).T  # (N, 3)
    lengths = colours.deviations if spec.color_noise == "cuda-convnet" else colours.deviations**2 / NOISE_SCALE
    return np.asarray((alpha * lengths) @ colours.components)


def augment(
    pixels: Tensor, draws: Draws, spec: AugmentSpec, preprocessing: Preprocessing, mean_image: Tensor | None
) -> Tensor:
    """Training views of stored pixels, one an image."""
    device = pixels.device
    top, left, flip = (to_device(drawn, device) for drawn in (draws.top, draws.left, draws.flip))
    if draws.extent is None:
        x = cut(pixels, top, left, flip, preprocessing.crop, spec.pad)
    else:
        x = cut_and_resize(pixels, top, left, flip, to_device(draws.extent, device), preprocessing.crop)
    if draws.colour is not None:
        x = x + to_device(draws.colour.astype(np.float32), device)[:, :, None, None]
    x = scale(x, preprocessing, mean_image, top, left, flip, spec.pad)
    if spec.color_noise == "cuda-convnet":
        x = x / (1 + spec.color_noise_std)
    if spec.rotation:
        x = rotate(x, to_device(draws.angle.astype(np.float32), device))
    return enlarge(x, preprocessing.image_size)


def views(
    pixels: Tensor,
    preprocessing: Preprocessing,
    mean_image: Tensor | None,
    count: Literal[1, 10] = 1,
    order: ViewOrder = "tencrop",
) -> Iterator[Tensor]:
    """Test views of stored pixels: the centre, or four corners and the centre with their mirror images."""
    side, resize_size = preprocessing.crop, pixels.shape[1]
    windows = [centre_window(resize_size, side)] if count == 1 else ten_windows(resize_size, side, order)
    images, margin = len(pixels), margin_of(windows, resize_size, side)
    for top, left, mirrored in windows:
        y, x = (torch.full((images,), offset, device=pixels.device) for offset in (top, left))
        flip = torch.full((images,), mirrored, device=pixels.device)
        view = scale(cut(pixels, y, x, flip, side, margin), preprocessing, mean_image, y, x, flip, margin)
        yield enlarge(view, preprocessing.image_size)


def centre_window(resize_size: int, side: int) -> tuple[int, int, bool]:
    """(top, left, mirrored) of the centre crop, rounded as torchvision rounds it."""
    offset = round((resize_size - side) / 2)
    return offset, offset, False


def ten_windows(resize_size: int, side: int, order: ViewOrder) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of the ten test views; a crop is cut first and mirrored after.

    ``"tencrop"`` is torchvision's order: five crops, then the five of the mirrored image (its "top left" is the top
    right, mirrored). Caffe and cuda-convnet mirror the same five crops in their own orders (``io.py`` oversample;
    ``jpeg.cpp``) and round the centre down.
    """
    end = resize_size - side
    middle = centre_window(resize_size, side)[0] if order == "tencrop" else end // 2
    corners, centre = [(0, 0), (0, end), (end, 0), (end, end)], (middle, middle)
    five = [*corners[:2], centre, *corners[2:]] if order == "cuda-convnet" else [*corners, centre]
    mirrored = [(top, end - left) for top, left in five] if order == "tencrop" else five
    return [(*window, False) for window in five] + [(*window, True) for window in mirrored]


def margin_of(windows: Sequence[tuple[int, int, bool]], resize_size: int, side: int) -> int:
    """How many pixels windows of ``side`` lie beyond an edge at most: of stored images that are smaller, some do."""
    offsets = [offset for top, left, _ in windows for offset in (top, left)]
    return max(0, -min(offsets), max(offsets) + side - resize_size)


def cut(pixels: Tensor, top: Tensor, left: Tensor, flip: Tensor, side: int, margin: int = 0) -> Tensor:
    """A window of ``side`` pixels out of each image, mirrored where ``flip``; it may lie up to ``margin`` pixels beyond
    an edge, where the image is reflected without repeating its edge.

    ``pixels`` ``(N, H, W, C)``, any dtype, or ``(1, H, W, C)`` for N windows of one image; ``top``, ``left`` ``(N,)``
    int64; ``flip`` ``(N,)`` bool. Returns ``(N, C, side, side)`` fp32, channels last in memory.

    Mirrored images are laid beside the others, so that a row of a window is in one piece and copied as one: three times
    as fast as fetching pixel by pixel (docs/log.md).
    """
    if margin:
        rows, columns = (_reflected(size, margin, pixels.device) for size in pixels.shape[1:3])
        pixels = pixels[:, rows[:, None], columns]
    images = pixels.permute(0, 3, 1, 2)
    both = torch.stack([images, images.flip(3)]).permute(0, 1, 3, 4, 2)
    windows = both.unfold(2, side, 1).unfold(3, side, 1).movedim(4, 6)  # (2, N, tops, lefts, side, side, C), a view
    top, left = top + margin, left + margin
    left = torch.where(flip, pixels.shape[2] - side - left, left)
    image = torch.arange(len(pixels), device=pixels.device)
    return windows[flip.long(), image, top, left].permute(0, 3, 1, 2).float()


def cut_and_resize(pixels: Tensor, top: Tensor, left: Tensor, flip: Tensor, extent: Tensor, side: int) -> Tensor:
    """A window out of each image, of its own height and width, brought to ``side`` pixels and mirrored where ``flip``.

    Bilinear with antialiasing, as Pillow's and torchvision's ``resized_crop``, as two products with small matrices.
    ``pixels`` ``(N, H, W, C)``; ``top``, ``left`` ``(N,)`` and ``extent`` ``(N, 2)`` int64, inside the image.
    Returns ``(N, C, side, side)`` fp32, channels last in memory.
    """
    rows = _resampling(top, extent[:, 0], pixels.shape[1], side)
    columns = _resampling(left, extent[:, 1], pixels.shape[2], side)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    x = pixels.permute(0, 3, 1, 2).float()
    return (rows[:, None] @ x @ columns[:, None].mT).contiguous(memory_format=torch.channels_last)


def _resampling(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """``(N, side, size)``: the share of each pixel from ``start`` to ``start + length`` in each of ``side`` new ones.

    A triangle about the new pixel's centre, one old pixel wide to each side, or one new one if those are larger.
    """
    step = (length / side)[:, None, None]
    new = torch.arange(side, device=start.device)[None, :, None] + 0.5
    old = torch.arange(size, device=start.device)[None, None, :]
    distance = (old + 0.5 - start[:, None, None] - new * step).abs()
    inside = (old >= start[:, None, None]) & (old < (start + length)[:, None, None])
    weights = (1 - distance / step.clamp_min(1)).clamp_min(0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """Which of ``size`` pixels lies at each place from ``-margin`` to ``size + margin``, less than ``size`` beyond."""
    places = torch.arange(-margin, size + margin, device=device)
    return (size - 1) - ((size - 1) - places.abs()).abs()


def scale(
    x: Tensor,
    preprocessing: Preprocessing,
    mean_image: Tensor | None,
    top: Tensor,
    left: Tensor,
    flip: Tensor,
    margin: int = 0,
) -> Tensor:
    """Pixels 0 … 255 as the numbers the network was trained on: (x − mean)/deviation, or x − the mean image.

    ``mean_image`` ``(H, W, C)`` fp32 of the stored side; it is cropped and mirrored with the image (``top`` to
    ``margin``: see :func:`cut`), or always its centre.
    """
    if preprocessing.pixel_normalization in ("mean-image", "mean-image-centre"):
        if mean_image is None:
            raise ValueError(f"scaling {preprocessing.pixel_normalization!r} needs the mean image")
        if preprocessing.pixel_normalization == "mean-image-centre":
            window, side = centre_window(mean_image.shape[0], x.shape[2]), x.shape[2]
            offset = torch.full((1,), window[0], device=x.device)
            unturned = torch.zeros_like(offset, dtype=torch.bool)
            return x - cut(mean_image[None], offset, offset, unturned, side, margin_of([window], len(mean_image), side))
        return x - cut(mean_image[None], top, left, flip, x.shape[2], margin)
    rows = x.permute(0, 2, 3, 1).flatten(2)  # (N, S, S · C): a row's numbers in one piece, three times as fast
    mean, std = (
        to_device(np.tile(np.array(values, np.float32), x.shape[3]), x.device)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return ((rows - mean) / std).view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each image about its centre by ``angle`` ``(N,)`` radians, counter-clockwise; 0 where nothing was.

    Where each pixel comes from is worked out pixel by pixel: ``F.affine_grid`` is a matrix product, which GPUs may
    round to TF32, a tenth of a pixel at 224.
    """
    side = x.shape[2]
    steps = (torch.arange(side, device=x.device) - (side - 1) / 2) * (2 / side)  # pixel centres on −1 … 1
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across, down = steps[None, None, :], steps[None, :, None]
    grid = torch.stack([cosine * across - sine * down, sine * across + cosine * down], dim=3)
    turned = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


def enlarge(x: Tensor, side: int) -> Tensor:
    """Bilinear, as Pillow and torchvision enlarge (pixel centres at ½); nothing to do at the right side already."""
    if x.shape[2] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=x.shape[2] > side)
