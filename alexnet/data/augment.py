"""Augmentation: from stored pixels to the input of the network, for a whole batch at once, on its device.

Each image gets its own random crop, flip, rotation and colour noise. The draws depend on (seed, epoch, image) only, see
``core/randomness.py``. Evaluation uses the centre view or the ten views of the paper (Krizhevsky et al. 2012, §4.1),
computed by the same functions.

Shapes: pixels are ``(N, H, W, C)`` ``uint8``; views are ``(N, C, S, S)`` float32, channels last in memory.
"""

from __future__ import annotations

import functools
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
from alexnet.data.boxes import PADDING
from alexnet.data.loader import to_device

ViewOrder = Literal["tencrop", "caffe", "cuda-convnet"]
NOISE_SCALE = 255.0
ATTEMPTS = 10  # to draw a crop of random size that fits; then the whole image is used (torchvision's number)
LEAST_VISIBLE = 0.25  # of the area of a box in a crop
MIN_ASPECT = 3 / 4  # of such a crop, width over height; the largest is the inverse


@dataclass(frozen=True)
class Colours:
    """The principal components of the colours of the training pixels, on the 0 … 255 scale.

    ``deviations`` ``(3,)``: √λ, largest first; ``components`` ``(3, 3)``: one unit vector (R, G, B) in each row.
    """

    deviations: NDArray[np.float64]
    components: NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """The random numbers of N images, as the parameters of their augmentation.

    ``top``, ``left`` ``(N,)`` int64: the corner of the crop in pixels (negative inside the reflected margin); ``flip``
    ``(N,)`` bool; ``angle`` ``(N,)`` radians; ``colour`` ``(N, 3)``: what is added to the channels, on the 0 … 255
    scale; ``extent`` ``(N, 2)`` int64: height and width of a crop of random size, None if all have the same size.
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
    """The draws of the images ``index`` ``(N,)`` in ``epoch``; they depend on (seed, epoch, image) only.

    ``resize_size``: the side of the stored images in pixels. ``position`` ``(N,)``: the positions of the images in the
    epoch; with ``spec.crop_group`` > 1, images of one group of positions get the same crop. ``colours``: needed for
    colour noise only. Raises ``ValueError`` if they are missing then.
    """
    group = index if spec.crop_group == 1 else position // spec.crop_group
    extent = (
        None
        if spec.random_resized_crop is None
        else _extents(spec.random_resized_crop, resize_size, seed, epoch, index)
    )
    height, width = (spec.crop or resize_size,) * 2 if extent is None else extent.T
    offsets = resize_size + 2 * spec.pad + 1
    u = uniform(derive_key(seed, "crop"), epoch, group, 3)
    turn = uniform(derive_key(seed, "rotation"), epoch, index, 1)[0]
    return Draws(
        top=integers(u[0], offsets - height) - spec.pad,
        left=integers(u[1], offsets - width) - spec.pad,
        flip=(u[2] < 0.5) & spec.flip,
        angle=np.radians(spec.rotation) * (2 * turn - 1),
        colour=_colour_shift(spec, seed, epoch, index, colours),
        extent=extent,
    )


def _extents(
    random_resized_crop: tuple[float, ...], resize_size: int, seed: int, epoch: int, index: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Height and width ``(N, 2)`` of the crop of each image, drawn as torchvision's ``RandomResizedCrop`` does.

    A fraction of the area and an aspect ratio (log-uniform) are drawn up to ``ATTEMPTS`` times, until the crop fits.
    """
    u = uniform(derive_key(seed, "extent"), epoch, index, 2 * ATTEMPTS)
    pixels = resize_size**2 * (
        random_resized_crop[0] + (random_resized_crop[1] - random_resized_crop[0]) * u[:ATTEMPTS]
    )
    shape = np.exp(np.log(MIN_ASPECT) * (1 - 2 * u[ATTEMPTS:]))
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
    """Training views ``(N, C, S, S)`` of stored pixels ``(N, H, W, C)``, one for each image.

    ``mean_image`` ``(H, W, C)``: needed if ``preprocessing`` subtracts it, see :func:`normalize`.
    """
    return augment_packed(pixels, to_device(pack(draws), pixels.device), spec, preprocessing, mean_image)


def pack(draws: Draws) -> NDArray[np.int64]:
    """All draws as one array ``(rows, N)`` int64, which is copied to a device at once; see :func:`packed_rows`.

    The rows are top, left, flip; height and width, for crops of random size; and the bits of float64 numbers: the
    angle, and what is added to the three channels.
    """
    whole = [draws.top, draws.left, draws.flip, *([] if draws.extent is None else draws.extent.T)]
    real = [draws.angle, *([] if draws.colour is None else draws.colour.T)]
    return np.concatenate([np.array(whole, np.int64), np.array(real, np.float64).view(np.int64)])


def packed_rows(spec: AugmentSpec) -> int:
    """The number of rows of :func:`pack`."""
    return 4 + 2 * (spec.random_resized_crop is not None) + 3 * (spec.color_noise != "none")


def augment_packed(
    pixels: Tensor, draws: Tensor, spec: AugmentSpec, preprocessing: Preprocessing, mean_image: Tensor | None
) -> Tensor:
    """:func:`augment` with the draws of :func:`pack` on the device. The host waits for none of them."""
    top, left, flip = draws[0], draws[1], draws[2] != 0
    angle, *colour = draws[5 if spec.random_resized_crop else 3 :].view(torch.float64).float()
    if spec.random_resized_crop is None:
        x = crop_windows(pixels, top, left, flip, preprocessing.crop, spec.pad)
    else:
        x = crop_and_resize(pixels, top, left, flip, draws[3:5].T, preprocessing.crop)
    if colour:
        x = x + torch.stack(colour, dim=1)[:, :, None, None]
    x = normalize(x, preprocessing, mean_image, top, left, flip, spec.pad)
    if spec.color_noise == "cuda-convnet":
        x = x / (1 + spec.color_noise_std)
    if spec.rotation:
        x = rotate(x, angle)
    return resize(x, preprocessing.image_size)


def augment_masks(masks: Tensor, draws: Tensor, spec: AugmentSpec, preprocessing: Preprocessing) -> Tensor:
    """Masks ``(N, H, W)`` uint8 as :func:`augment_packed` changes their images, without a rotation.

    Returns ``(N, S, S)`` int64. Each pixel has the value of the nearest one.
    """
    top, left, flip, side = draws[0], draws[1], draws[2] != 0, preprocessing.crop
    if spec.random_resized_crop is None:
        x = crop_windows(masks[..., None], top, left, flip, side, spec.pad)[:, 0].long()
    else:
        steps = 2 * torch.arange(side, device=masks.device) + 1
        rows, columns = (
            start[:, None] + (steps * length[:, None]) // (2 * side)
            for start, length in ((top, draws[3]), (left, draws[4]))
        )
        columns = torch.where(flip[:, None], columns.flip(1), columns)
        image = torch.arange(len(masks), device=masks.device)
        x = masks[image[:, None, None], rows[:, :, None], columns[:, None, :]].long()
    return resize_masks(x, preprocessing.image_size)


def view_masks(masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Masks ``(N, H, W)`` uint8 for the centre view of :func:`views`: ``(N, S, S)`` int64."""
    top, left, _ = centre_window(masks.shape[1], preprocessing.crop)
    side = preprocessing.crop
    return resize_masks(masks[:, top : top + side, left : left + side].long(), preprocessing.image_size)


def augment_boxes(boxes: Tensor, draws: Tensor, spec: AugmentSpec, preprocessing: Preprocessing) -> Tensor:
    """Boxes ``(N, M, 6)`` as :func:`augment_packed` changes their images, without a rotation; see ``boxes.py``.

    They are in pixels of the stored images, and in pixels of the network's input afterwards. They are cut at the edges
    of the crop. If less than ``LEAST_VISIBLE`` of a box remains, the box is not counted.
    """
    top, left, flip = draws[0].float(), draws[1].float(), draws[2] != 0
    side = float(preprocessing.crop)
    height, width = (draws[3].float(), draws[4].float()) if spec.random_resized_crop else (None, None)
    return _cropped_boxes(boxes, (left, top, width, height), flip, side, preprocessing.image_size / side)


def view_boxes(boxes: Tensor, preprocessing: Preprocessing, resize_size: int) -> Tensor:
    """Boxes ``(N, M, 6)`` of stored images of ``resize_size`` pixels for the centre view of :func:`views`."""
    offset, _, _ = centre_window(resize_size, preprocessing.crop)
    corner = torch.full((len(boxes),), float(offset), device=boxes.device)
    whole = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    side = float(preprocessing.crop)
    return _cropped_boxes(boxes, (corner, corner, None, None), whole, side, preprocessing.image_size / side)


def _cropped_boxes(
    boxes: Tensor, window: tuple[Tensor, Tensor, Tensor | None, Tensor | None], flip: Tensor, side: float, scale: float
) -> Tensor:
    """Boxes in a window (left, top, width, height; None: ``side``) that is resized to ``side``, then by ``scale``."""
    left, top, width, height = window
    corners = boxes[:, :, 1:5] - torch.stack([left, top, left, top], dim=1)[:, None]
    if width is not None and height is not None:
        corners = corners * (side / torch.stack([width, height, width, height], dim=1)[:, None])
    mirrored = torch.stack([side - corners[..., 2], corners[..., 1], side - corners[..., 0], corners[..., 3]], dim=2)
    corners = torch.where(flip[:, None, None], mirrored, corners)
    inside = corners.clamp(0, side)
    before, after = ((each[..., 2] - each[..., 0]) * (each[..., 3] - each[..., 1]) for each in (corners, inside))
    hidden = after < LEAST_VISIBLE * before
    kept = torch.where(after > 0, boxes[:, :, 0], float(PADDING))
    aside = torch.where(hidden, 1.0, boxes[:, :, 5])
    return torch.cat([kept[..., None], inside * scale, aside[..., None]], dim=2)


def resize_masks(masks: Tensor, side: int) -> Tensor:
    """Masks ``(N, H, H)`` as ``(N, side, side)``: each pixel has the value of the nearest one."""
    if masks.shape[1] == side:
        return masks
    places = ((2 * torch.arange(side, device=masks.device) + 1) * masks.shape[1]) // (2 * side)
    return masks[:, places[:, None], places]


def views(
    pixels: Tensor,
    preprocessing: Preprocessing,
    mean_image: Tensor | None,
    count: Literal[1, 10] = 1,
    order: ViewOrder = "tencrop",
) -> Iterator[Tensor]:
    """Test views of stored pixels ``(N, H, W, C)``: yields ``count`` tensors ``(N, C, S, S)``.

    They are the centre, or the four corners and the centre with their mirror images, in the given order.
    """
    side, resize_size = preprocessing.crop, pixels.shape[1]
    windows = [centre_window(resize_size, side)] if count == 1 else ten_windows(resize_size, side, order)
    images, margin = len(pixels), needed_margin(windows, resize_size, side)
    for top, left, mirrored in windows:
        y, x = (torch.full((images,), offset, device=pixels.device) for offset in (top, left))
        flip = torch.full((images,), mirrored, device=pixels.device)
        view = normalize(crop_windows(pixels, y, x, flip, side, margin), preprocessing, mean_image, y, x, flip, margin)
        yield resize(view, preprocessing.image_size)


def centre_window(resize_size: int, side: int) -> tuple[int, int, bool]:
    """(top, left, mirrored) of the centre crop of a stored image, rounded as in torchvision."""
    offset = round((resize_size - side) / 2)
    return offset, offset, False


def ten_windows(resize_size: int, side: int, order: ViewOrder) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of the ten test views; an image is cropped first and mirrored after that.

    ``"tencrop"`` is torchvision's order: five crops, then the five crops of the mirrored image (whose "top left" is the
    top right one, mirrored). Caffe (``oversample`` in ``io.py``) and cuda-convnet (``jpeg.cpp``) mirror the same five
    crops in their own orders and round the centre down.
    """
    end = resize_size - side
    middle = centre_window(resize_size, side)[0] if order == "tencrop" else end // 2
    corners, centre = [(0, 0), (0, end), (end, 0), (end, end)], (middle, middle)
    five = [*corners[:2], centre, *corners[2:]] if order == "cuda-convnet" else [*corners, centre]
    mirrored = [(top, end - left) for top, left in five] if order == "tencrop" else five
    return [(*window, False) for window in five] + [(*window, True) for window in mirrored]


def needed_margin(windows: Sequence[tuple[int, int, bool]], resize_size: int, side: int) -> int:
    """The largest number of pixels by which a window of ``side`` extends beyond the image; 0 if all are inside."""
    offsets = [offset for top, left, _ in windows for offset in (top, left)]
    return max(0, -min(offsets), max(offsets) + side - resize_size)


def crop_windows(pixels: Tensor, top: Tensor, left: Tensor, flip: Tensor, side: int, margin: int = 0) -> Tensor:
    """A window of ``side`` × ``side`` pixels of each image, mirrored where ``flip`` is True.

    A window may extend up to ``margin`` pixels beyond an edge, where the image is reflected without repeating its edge.
    ``pixels`` ``(N, H, W, C)``, any dtype, or ``(1, H, W, C)`` for N windows of one image; ``top``, ``left`` ``(N,)``
    int64; ``flip`` ``(N,)`` bool. Returns ``(N, C, side, side)`` float32, channels last in memory.

    All images are mirrored first, so that each row of a window is contiguous and can be copied at once. This is three
    times as fast as indexing each pixel (docs/log.md).
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


def crop_and_resize(pixels: Tensor, top: Tensor, left: Tensor, flip: Tensor, extent: Tensor, side: int) -> Tensor:
    """A window of each image, of its own height and width, resized to ``side`` × ``side`` and mirrored where ``flip``.

    Bilinear with antialiasing, as in Pillow and in torchvision's ``resized_crop``; computed as two products with small
    matrices. ``pixels`` ``(N, H, W, C)``; ``top``, ``left`` ``(N,)`` and ``extent`` ``(N, 2)`` int64, inside the image;
    ``flip`` ``(N,)`` bool. Returns ``(N, C, side, side)`` float32, channels last in memory.
    """
    rows = _resampling(top, extent[:, 0], pixels.shape[1], side)
    columns = _resampling(left, extent[:, 1], pixels.shape[2], side)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    x = pixels.permute(0, 3, 1, 2).float()
    return (rows[:, None] @ x @ columns[:, None].mT).contiguous(memory_format=torch.channels_last)


def _resampling(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """``(N, side, size)``: the weight of each pixel of ``start`` to ``start + length`` in each of ``side`` new ones.

    The weights are a triangle around the centre of the new pixel. Its half width is one old pixel, or one new pixel if
    that is larger.
    """
    step = (length / side)[:, None, None]
    new = torch.arange(side, device=start.device)[None, :, None] + 0.5
    old = torch.arange(size, device=start.device)[None, None, :]
    distance = (old + 0.5 - start[:, None, None] - new * step).abs()
    inside = (old >= start[:, None, None]) & (old < (start + length)[:, None, None])
    weights = (1 - distance / step.clamp_min(1)).clamp_min(0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """The pixel, of ``size``, at each position from ``-margin`` to ``size + margin`` of the reflected image.

    ``margin`` is smaller than ``size``.
    """
    positions = torch.arange(-margin, size + margin, device=device)
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def normalize(
    x: Tensor,
    preprocessing: Preprocessing,
    mean_image: Tensor | None,
    top: Tensor,
    left: Tensor,
    flip: Tensor,
    margin: int = 0,
) -> Tensor:
    """Normalize pixels ``(N, C, S, S)`` of 0 … 255: (x − mean) / std, or x − mean image, as set in ``preprocessing``.

    ``mean_image`` ``(H, W, C)`` float32, of the size of the stored images: it is cropped and mirrored like the image
    (``top`` to ``margin``: see :func:`crop_windows`), or its centre is used for all. Raises ``ValueError`` if it is
    needed and missing.
    """
    if preprocessing.pixel_normalization in ("mean-image", "mean-image-centre"):
        if mean_image is None:
            raise ValueError(f"pixel_normalization {preprocessing.pixel_normalization!r} needs the mean image")
        if preprocessing.pixel_normalization == "mean-image-centre":
            window, side = centre_window(mean_image.shape[0], x.shape[2]), x.shape[2]
            offset = torch.full((1,), window[0], device=x.device)
            no_flip = torch.zeros_like(offset, dtype=torch.bool)
            margin = needed_margin([window], len(mean_image), side)
            return x - crop_windows(mean_image[None], offset, offset, no_flip, side, margin)
        return x - crop_windows(mean_image[None], top, left, flip, x.shape[2], margin)
    rows = x.permute(0, 2, 3, 1).flatten(2)  # (N, S, S · C): contiguous rows, which is three times as fast
    mean, std = (_row(values, x.shape[3], x.device) for values in (preprocessing.mean, preprocessing.std))
    return ((rows - mean) / std).view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _row(values: tuple[float, ...], side: int, device: torch.device) -> Tensor:
    """A value for each channel, for each of ``side`` pixels: ``(side · C,)``. It is copied to the device once."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device).tile(side)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate each image ``(N, C, S, S)`` about its centre by ``angle`` ``(N,)`` radians, counter-clockwise.

    Pixels from outside the image are 0. The grid is computed here and not by ``F.affine_grid``, which is a matrix
    product: GPUs may round it to TF32, an error of a tenth of a pixel at 224.
    """
    side = x.shape[2]
    steps = (torch.arange(side, device=x.device) - (side - 1) / 2) * (2 / side)  # pixel centres on −1 … 1
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across, down = steps[None, None, :], steps[None, :, None]
    grid = torch.stack([cosine * across - sine * down, sine * across + cosine * down], dim=3)
    turned = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


def resize(x: Tensor, side: int) -> Tensor:
    """Resize views to ``(N, C, side, side)``, bilinear as in Pillow and torchvision; unchanged if they have that size.

    Shrinking uses antialiasing.
    """
    if x.shape[2] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=x.shape[2] > side)
