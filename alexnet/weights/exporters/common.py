"""What several exporters share: a copy of a network for export, and the preprocessing as ordinary tensor operations."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.config import Preprocessing
from alexnet.data.augment import centre_window, crop_windows, needed_margin
from alexnet.models.classifier import Classifier
from alexnet.weights.export import ExportOptions


def for_export(model: Classifier) -> Classifier:
    """A copy of the network on the CPU, fp32, in evaluation mode, without gradients."""
    return copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)


def weights_only(options: ExportOptions) -> str | None:
    """Why a format that holds weights and no operations cannot do what the options ask, or None."""
    if options.int8:
        return "it holds fp32 weights only; leave out --int8"
    return (
        "it holds no operations, so it cannot contain the preprocessing; leave out --pixels" if options.pixels else None
    )


class InexpressibleError(Exception):
    """A format has no layers for a network; the message is the rest of a sentence."""


def why_inexpressible(layers: Iterable[object]) -> str | None:
    """Why the layers of a network cannot be written, from going through all of them; None if they can."""
    try:
        for _ in layers:
            pass
    except InexpressibleError as error:
        return str(error)
    return None


class PixelNetwork(nn.Module):
    """Stored images ``(N, H, W, C)`` uint8 → logits ``(N, classes)``: centre crop, normalization, resize, network.

    H = W = ``preprocessing.resize_size``. It computes what ``data/augment.py`` does for the centre view, with
    operations that every runtime has: the resize is two products with constant matrices.
    """

    rows: Tensor
    mean: Tensor
    std: Tensor | None
    weights: Tensor | None

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        settings = model.preprocessing
        window = centre_window(settings.resize_size, settings.crop)
        margin = needed_margin([window], settings.resize_size, settings.crop)
        start, size = torch.tensor([window[0]]), settings.resize_size
        grid = torch.arange(size, dtype=torch.float32).reshape(1, size, 1, 1).expand(1, size, size, 1)
        rows = crop_windows(grid, start, start, torch.tensor([False]), settings.crop, margin)[0, 0, :, 0]
        self.start = window[0] if margin == 0 else None
        self.crop = settings.crop
        self.register_buffer("rows", rows.long(), persistent=False)
        self._add_normalization(model, settings)
        resized = settings.image_size != settings.crop
        self.register_buffer("weights", _resize_matrix(settings) if resized else None, persistent=False)
        self.model = model

    def _add_normalization(self, model: Classifier, settings: Preprocessing) -> None:
        if (image := model.mean_image) is None:
            shape = (1, settings.channels, 1, 1)
            mean, std = (
                torch.tensor(values, dtype=torch.float32).reshape(shape) for values in (settings.mean, settings.std)
            )
        else:
            side, own = settings.crop, settings.pixel_normalization == "mean-image"
            window = centre_window(settings.resize_size if own else len(image), side)
            margin = needed_margin([window], len(image), side)
            start = torch.tensor([window[0]])
            mean = crop_windows(image[None], start, start, torch.tensor([False]), side, margin).contiguous()
            std = None
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2)
        if self.start is None:
            x = x.index_select(2, self.rows).index_select(3, self.rows)
        else:
            x = x.narrow(2, self.start, self.crop).narrow(3, self.start, self.crop)
        x = x.float() - self.mean
        if self.std is not None:
            x = x / self.std
        if self.weights is not None:
            x = self.weights @ x @ self.weights.T
        logits: Tensor = self.model(x)
        return logits


def _resize_matrix(settings: Preprocessing) -> Tensor:
    """``(image_size, crop)``: the weight of each old pixel in each new one, as ``augment.resize`` has them."""
    old, new = settings.crop, settings.image_size
    rows = F.interpolate(
        torch.eye(old)[None, None], size=(new, old), mode="bilinear", align_corners=False, antialias=old > new
    )
    return rows[0, 0].contiguous()
