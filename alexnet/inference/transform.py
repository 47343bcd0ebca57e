"""The preprocessing of a model as a function of one image, for use with PyTorch's own data sets and loaders.

It is the preprocessing of training, evaluation and ``Predictor``: the same functions of ``data/decode.py`` and
``data/augment.py``, for a batch of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.config import AugmentSpec, Preprocessing
from alexnet.data.augment import Colours, augment, draw, views
from alexnet.data.image_file import ImageLike, read_photograph


@dataclass(frozen=True, eq=False)
class ImageTransform:
    """``transform(image)``: a PIL image (or a path, bytes, an array) → the network's input ``(C, S, S)``, float32.

    ``mean_image``: ``(H, W, C)`` fp32, 0 … 255, where the pixel normalization subtracts one. ``augmentation``: None for
    the centre view; otherwise each call draws a crop, flip, rotation and colour noise. ``colours``: the principal
    components that colour noise needs. ``generator``: of the draws, torch's global one if None.
    """

    preprocessing: Preprocessing
    mean_image: Tensor | None = None
    augmentation: AugmentSpec | None = None
    colours: Colours | None = None
    generator: torch.Generator | None = None

    def __call__(self, image: ImageLike) -> Tensor:
        """The network's input ``(C, S, S)``, float32 on the CPU. Raises ``UserError`` for an image that is refused."""
        settings = self.preprocessing
        stored = read_photograph(
            image, settings.resize_size, settings.channels, resize=settings.resize, view=settings.view
        )
        pixels = torch.from_numpy(stored[None])
        if self.augmentation is None:
            (view,) = views(pixels, settings, self.mean_image)
        else:
            seed, first = int(torch.randint(2**62, (), generator=self.generator).item()), np.zeros(1, np.int64)
            draws = draw(self.augmentation, settings.resize_size, seed, 0, first, first, self.colours)
            view = augment(pixels, draws, self.augmentation, settings, self.mean_image)
        return view[0].contiguous()
