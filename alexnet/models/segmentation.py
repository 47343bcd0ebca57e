"""Networks that give a class for each pixel: the convolutions of an AlexNet, and one of three heads.

``fcn-32s`` and ``fcn-16s`` are those of Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation" (CVPR 2015, arXiv 1411.4038), for variants whose last pool has a step of 32 pixels: conv1 pads the image
by 100 pixels, fc6 and fc7 are convolutions with the weights of the classifier's layers, ``score`` gives a score for
each class, and a fixed bilinear transposed convolution makes the scores as large as the image. ``fcn-16s`` adds the
scores of pool2, whose step is 16 pixels; their upsampling is initialized as bilinear and learned.

``unet`` is for small images, whose details a step of 32 pixels would lose: a decoder like that of U-Net (Ronneberger,
Fischer and Brox 2015, arXiv 1505.04597). It begins with the last maps and adds the maps before each pool, one pool
after another, up to the finest step.

All maps are aligned by the positions of their pixels in the image (:class:`Grid`), not by fixed offsets: these depend
on kernels and paddings, which differ among the variants.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.config import Head
from alexnet.core.errors import UserError
from alexnet.models.alexnet import ACTIVATIONS, AlexNet, Architecture
from alexnet.models.classifier import Classifier, mask_at
from alexnet.models.grid import Grid, bilinear_size, grids_after, resample
from alexnet.models.layers import Conv2d, Dropout, Masks, init_layer

FCN_PADDING = 100  # of conv1: Long et al.'s prototxt files
FINAL_STEP = {"fcn-32s": 32, "fcn-16s": 16}
WIDTH_PER_STEP, MOST_WIDTH = 16, 128  # of the decoder: 16 channels for each pixel of its step, at most 128
SKIP = 16  # pixels: the step of the maps that fcn-16s adds


class SegmentationNet(AlexNet):
    """``(N, in_channels, H, W)`` float → scores ``(N, num_classes, H, W)``, where H and W are ``image_size``.

    ``head``: ``"fcn-32s"``, ``"fcn-16s"`` or ``"unet"``. Raises ``ValueError`` if the image is too small for the
    strides, and ``UserError`` for a head that the architecture cannot have.
    """

    def __init__(
        self,
        architecture: Architecture,
        head: Head,
        num_classes: int = 21,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        Classifier.__init__(self, num_classes, in_channels, image_size or architecture.image_size)
        self.architecture, self.head = architecture, head
        architecture.last_side(self.image_size)  # raises for an image that is too small
        channels = in_channels
        for number, layer in enumerate(architecture.convs, 1):
            padded = head != "unet" and number == 1
            self._add_convolution(number, replace(layer, padding=FCN_PADDING) if padded else layer, channels)
            channels = layer.filters
        self._features = tuple(name for name, _ in self.named_children())
        if head == "unet":
            self._levels = self._decoder_levels()
            self._add_decoder()
            return
        self._add_fully_connected(channels)
        if self._grids()[self._features[-1]].step != FINAL_STEP["fcn-32s"]:
            raise UserError(f"head {head} needs a last pool with a step of 32 pixels: choose model.head=unet")
        if head == "fcn-16s":
            self._skip = self._map_at(SKIP)
            filters = [layer.filters for layer in architecture.convs]
            self.score_skip = Conv2d(filters[int(self._skip[-1]) - 1], num_classes, 1)
            self.upscore2 = nn.ConvTranspose2d(num_classes, num_classes, bilinear_size(2), 2, bias=False)

    def _add_fully_connected(self, channels: int) -> None:
        """fc6, fc7 and the scores as convolutions; fc6 has the window that the classifier's fc6 sees."""
        a = self.architecture
        side = a.adaptive_pool or a.map_sizes(a.image_size)[-1]
        self.fc6 = Conv2d(channels, a.hidden[0].units, side)  # type: ignore[assignment]
        self.add_module(f"{a.activation}6", ACTIVATIONS[a.activation]())
        self._add_dropout(6, "fc6")
        self.fc7 = Conv2d(a.hidden[0].units, a.hidden[1].units, 1)  # type: ignore[assignment]
        self.add_module(f"{a.activation}7", ACTIVATIONS[a.activation]())
        self._add_dropout(7, "fc7")
        self.score = Conv2d(a.hidden[1].units, self.num_classes, 1)

    def _decoder_levels(self) -> dict[str, int]:
        """Layer whose maps the decoder uses → their number: the last maps, then those before each pool, backwards."""
        found, channels = {}, 0
        for (name, layer), (_, following) in itertools.pairwise([*self.named_children(), ("", nn.MaxPool2d(1))]):
            channels = layer.out_channels if isinstance(layer, nn.Conv2d) else channels
            if isinstance(following, nn.MaxPool2d) and not isinstance(layer, nn.MaxPool2d):
                found[name] = channels
        return dict(reversed(found.items()))

    def _add_decoder(self) -> None:
        """For each level N: ``lateral_N`` of its maps plus ``up_N`` of the level before, then ``merge_N``, 3 × 3."""
        before, grids = 0, self._grids()
        for name, maps in self._levels.items():
            width = min(MOST_WIDTH, max(WIDTH_PER_STEP, int(WIDTH_PER_STEP * grids[name].step)))
            self.add_module(f"lateral_{name}", Conv2d(maps, width, 1))
            if before:
                self.add_module(f"up_{name}", Conv2d(before, width, 1))
            self.add_module(f"lateral_norm_{name}", nn.BatchNorm2d(width))
            self.add_module(f"merge_{name}", Conv2d(width, width, 3, padding=1))
            self.add_module(f"merge_norm_{name}", nn.BatchNorm2d(width))
            before = width
        self.score = Conv2d(before, self.num_classes, 1)

    def _map_at(self, step: int) -> str:
        """The last pool whose maps have a step of so many pixels."""
        return [name for name, grid in self._grids().items() if grid.step == step and name.startswith("pool")][-1]

    def _grids(self) -> dict[str, Grid]:
        """Layer before the head → the grid of its maps."""
        return grids_after(((name, self.get_submodule(name)) for name in self._features), self.image_size)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Scores ``(N, num_classes, H, W)``; ``masks``: dropout masks by site, see ``dropout_sites``."""
        maps = self._feature_maps(x)
        if self.head == "unet":
            return self._decode(maps)
        x = maps[self._features[-1]]
        for name in (
            f"{kind}{number}" for number in (6, 7) for kind in ("fc", self.architecture.activation, "dropout")
        ):
            layer = self._modules.get(name)
            if isinstance(layer, Dropout):
                x = layer(x.flatten(1), mask_at(masks, layer.site)).view(x.shape)
            elif layer is not None:
                x = layer(x)
        scores, grids = self.score(x), self._grids()
        grid = grids[self._features[-1]].after(self.fc6)
        if self.head == "fcn-16s":
            skip = self.score_skip(maps[self._skip])
            scores, grid = self.upscore2(scores), grid.upsampled(2)
            there = grids[self._skip]
            offset = there.offset(grid)
            skip = skip[:, :, offset : offset + grid.size, offset : offset + grid.size]
            scores = scores + skip
        factor = FINAL_STEP[self.head]
        scores, grid = upsample_bilinear(scores, factor), grid.upsampled(factor)
        offset = grid.offset(Grid(0.0, 1.0, self.image_size))
        return scores[:, :, offset : offset + self.image_size, offset : offset + self.image_size]

    def _decode(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Scores of the size of the image, from the maps of the layers before the head."""
        grids, layer = self._grids(), self.get_submodule
        x, grid = maps[next(iter(self._levels))], Grid(0.0, 1.0, self.image_size)
        for number, name in enumerate(self._levels):
            level = layer(f"lateral_{name}")(maps[name])
            if number:
                level = level + resample(layer(f"up_{name}")(x), grid, grids[name])
            x = F.relu(layer(f"lateral_norm_{name}")(level))
            x = F.relu(layer(f"merge_norm_{name}")(layer(f"merge_{name}")(x)))
            grid = grids[name]
        return resample(self.score(x), grid, Grid(0.0, 1.0, self.image_size))

    def _feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Layer before the head → its output."""
        found = {}
        for name in self._features:
            x = found[name] = self.get_submodule(name)(x)
        return found

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The layers before the head, in forward order: only these run one after another."""
        return {name: shape for name, shape in super().layer_shapes().items() if name in self._features}

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps before the head."""
        return self._feature_maps(x)[self._features[-1]]

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """Layer with dropout → (units of all positions, dropout probability); ``unet`` has none."""
        a = self.architecture
        if self.head == "unet" or not a.dropout:
            return {}
        size = self._grids()[self._features[-1]].after(self.fc6).size
        units = {"fc6": a.hidden[0].units * size**2, "fc7": a.hidden[1].units * size**2}
        return {site: (units[site], a.dropout) for site in a.dropout_at if site in units}

    def init_layer(self, name: str, seed: int) -> None:
        """Initialize one layer in place: those of the architecture by its rule, those of the head as its authors did.

        Scores begin at 0, ``upscore2`` as bilinear upsampling (Long et al.), the decoder by the rule of He et al.
        """
        layer = self.get_submodule(name)
        if name in self._gaussian_starts():
            super().init_layer(name, seed)
        elif isinstance(layer, nn.ConvTranspose2d):
            with torch.no_grad():
                layer.weight.zero_()
                classes = torch.arange(self.num_classes)
                layer.weight[classes, classes] = bilinear_kernel(2, layer.weight)
        elif name.startswith("score"):
            assert isinstance(layer, Conv2d)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        else:
            assert isinstance(layer, Conv2d)
            init_layer(layer, name, "he", 0.01, 0.0, seed)


def bilinear_kernel(factor: int, like: Tensor) -> Tensor:
    """The kernel ``(k, k)`` of bilinear upsampling as a transposed convolution, with the dtype and device of ``like``.

    Caffe's ``bilinear`` filler: the product of 1 − abs(i/f − c) over both axes, with f = ⌈k/2⌉ and
    c = (2f − 1 − f mod 2)/(2f).
    """
    size = bilinear_size(factor)
    half = math.ceil(size / 2)
    centre = (2 * half - 1 - half % 2) / (2 * half)
    line = 1 - (torch.arange(size, device=like.device, dtype=torch.float32) / half - centre).abs()
    return torch.outer(line, line).to(like.dtype)


def upsample_bilinear(x: Tensor, factor: int) -> Tensor:
    """Each map of ``(N, C, H, W)`` upsampled by a fixed bilinear transposed convolution, without cropping."""
    images, channels, height, width = x.shape
    kernel = bilinear_kernel(factor, x)[None, None]
    y = F.conv_transpose2d(x.reshape(images * channels, 1, height, width), kernel, stride=factor)
    return y.view(images, channels, y.shape[2], y.shape[3])
