"""Faster R-CNN on the convolutions of an AlexNet: boxes around the objects of an image, each with a class.

Ren, He, Girshick and Sun, "Faster R-CNN" (NIPS 2015, arXiv 1506.01497). The last pool is left out. A small network on
the maps of conv5 (RPN) proposes boxes: at each place it gives a few anchors, boxes of fixed sizes, a score and a
correction of their edges. The maps inside each proposal are pooled to one size (RoIAlign, He et al. 2017) and go
through fc6 and fc7, which give the class and correct the edges again. In the networks for 224 pixels, fc6 has as many
inputs as in the classifier, so its weights can be copied.

Proposals, matching, sampling, losses and non-maximum suppression are computed by torchvision, which is imported when a
network is used, because that takes more than a second. The anchors and RoIAlign are our own code: torchvision assumes
that the first pixel of the maps lies at the corner of the image, and its RoIAlign has no deterministic form on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet.config import Head
from alexnet.models.alexnet import ACTIVATIONS, AlexNet, Architecture
from alexnet.models.classifier import Classifier
from alexnet.models.grid import Grid, grids_after
from alexnet.models.layers import Conv2d, Masks, init_layer

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.roi_heads import RoIHeads

ASPECTS = (0.5, 1.0, 2.0)  # of the anchors: height over width
SIZES = (0.15, 0.35, 0.7)  # of the anchors of a new network, as shares of the image's side
BOXES_PER_IMAGE = 64  # that the second stage learns from
PROPOSALS = {"training": 300, "testing": 100}
MOST_DETECTIONS = 100
LEAST_SCORE = 0.05  # of a detected object
SAMPLES = 2  # points along each side of a cell of RoIAlign
LEAST_POOLED = 6  # pixels: the side of the maps of a proposal; that of the paper's network before fc6

Detections = dict[str, Tensor]
"""``boxes`` ``(n, 4)``: left, top, right, bottom in pixels of the network's input; ``scores`` ``(n,)``, 0 … 1, the
highest first; ``labels`` ``(n,)`` int64: classes, from 0."""


class DetectionNet(AlexNet):
    """``(N, in_channels, image_size, image_size)`` float → feature maps ``(N, C, h, w)``, from which boxes are found.

    :meth:`detect` returns the boxes, :meth:`losses` what a training minimizes. Raises ``ValueError`` if the image is
    too small for the strides.
    """

    head: Head = "faster-rcnn"

    def __init__(
        self, architecture: Architecture, num_classes: int = 20, in_channels: int = 3, image_size: int | None = None
    ) -> None:
        Classifier.__init__(self, num_classes, in_channels, image_size or architecture.image_size)
        self.architecture = a = architecture
        a.last_side(self.image_size)  # raises for an image that is too small
        channels = in_channels
        for number, layer in enumerate(a.convs, 1):
            kept = tuple(operation for operation in layer.ops if operation != "pool" or number < len(a.convs))
            self._add_convolution(number, replace(layer, ops=kept), channels)
            channels = layer.filters
        self._features = tuple(name for name, _ in self.named_children())
        anchors = len(SIZES) * len(ASPECTS)
        self.pooled = max(LEAST_POOLED, a.adaptive_pool or a.map_sizes(a.image_size)[-1])
        self.fc6 = nn.Linear(channels * self.pooled**2, a.hidden[0].units)
        self.fc7 = nn.Linear(a.hidden[0].units, a.hidden[1].units)  # up to here, weights of a classifier can be copied
        self.rpn_conv = Conv2d(channels, channels, 3, padding=1)
        self.rpn_score = Conv2d(channels, anchors, 1)
        self.rpn_box = Conv2d(channels, 4 * anchors, 1)
        self.box_class = nn.Linear(a.hidden[1].units, num_classes + 1)
        self.box_shift = nn.Linear(a.hidden[1].units, 4 * (num_classes + 1))
        self.anchors: Tensor
        self.register_buffer("anchors", torch.empty(anchors, 4))

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """The feature maps ``(N, C, h, w)``. There is no dropout, so ``masks`` has no effect."""
        return self.forward_features(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """The feature maps of the last convolution, with its activation."""
        for name in self._features:
            x = self.get_submodule(name)(x)
        return x

    def detect(self, maps: Tensor) -> list[Detections]:
        """The objects of N images from their feature maps, at most ``MOST_DETECTIONS`` in each, best scores first."""
        with torch.no_grad():
            proposals, _ = self._propose(maps, None)
            heads = self._second_stage(training=False)
            logits, shifts = self._classify(maps, proposals)
            sides = [(self.image_size, self.image_size)] * len(maps)
            found = zip(*heads.postprocess_detections(logits, shifts, proposals, sides), strict=True)
            return [{"boxes": boxes, "scores": scores, "labels": labels - 1} for boxes, scores, labels in found]

    def losses(self, maps: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The four losses of N images, and for each image the share of its sampled boxes with the right class ``(N,)``.

        ``targets``: ``(N, M, 6)``, see ``data/boxes.py``. Boxes are sampled by torch's global random generator.
        """
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        wanted = [
            {"boxes": rows[:, 1:5].contiguous(), "labels": rows[:, 0].long() + 1}
            for rows in (image[(image[:, 0] >= 0) & (image[:, 5] == 0)] for image in targets.float())
        ]
        proposals, losses = self._propose(maps, wanted)
        heads = self._second_stage(training=True)
        proposals, _, labels, shifts_wanted = heads.select_training_samples(proposals, wanted)
        logits, shifts = self._classify(maps, proposals)
        losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(logits, shifts, labels, shifts_wanted)
        right = (logits.argmax(dim=1) == torch.cat(labels)).float()
        shares = torch.split_with_sizes(right, [len(each) for each in labels])
        return losses, torch.stack([each.mean() for each in shares])

    def _propose(self, maps: Tensor, targets: list[dict[str, Tensor]] | None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals ``(n, 4)`` for each image; with ``targets``, also the losses of the first stage."""
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import RegionProposalNetwork

        rpn = RegionProposalNetwork(
            _Anchors(self.anchors, self.grid), _FirstStage(self), fg_iou_thresh=0.7, bg_iou_thresh=0.3,
            batch_size_per_image=256, positive_fraction=0.5, pre_nms_top_n={"training": 1000, "testing": 500},
            post_nms_top_n=PROPOSALS, nms_thresh=0.7,
        )  # fmt: skip
        rpn.training = targets is not None
        images = ImageList(maps, [(self.image_size, self.image_size)] * len(maps))
        return rpn(images, {"0": maps}, targets)  # type: ignore[no-any-return]

    def _second_stage(self, training: bool) -> RoIHeads:
        from torchvision.models.detection.roi_heads import RoIHeads

        heads = RoIHeads(
            nn.Identity(), nn.Identity(), nn.Identity(), fg_iou_thresh=0.5, bg_iou_thresh=0.5,
            batch_size_per_image=BOXES_PER_IMAGE, positive_fraction=0.25, bbox_reg_weights=None,
            score_thresh=LEAST_SCORE, nms_thresh=0.5, detections_per_img=MOST_DETECTIONS,
        )  # fmt: skip
        heads.train(training)
        return heads

    def _classify(self, maps: Tensor, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``(R, classes + 1)`` and shifts ``(R, 4 · (classes + 1))`` of all boxes; class 0 is no object."""
        activation = ACTIVATIONS[self.architecture.activation]()
        x = pool_boxes(maps, boxes, self.grid, self.pooled).flatten(1)
        x = activation(self.fc7(activation(self.fc6(x))))
        return self.box_class(x), self.box_shift(x)

    @property
    def grid(self) -> Grid:
        """Where the pixels of the feature maps lie in the image."""
        layers = ((name, self.get_submodule(name)) for name in self._features)
        return grids_after(layers, self.image_size)[self._features[-1]]

    def set_anchors(self, boxes: NDArray[np.floating]) -> None:
        """Choose the sizes of the anchors from boxes ``(B, 4)`` of the training images, in pixels of the input.

        They are the quantiles 1/6, 1/2 and 5/6 of the square roots of the boxes' areas. Without boxes, the anchors of a
        new network stay.
        """
        if len(boxes):
            sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
            self._set_sizes(np.quantile(sides, [(2 * step + 1) / (2 * len(SIZES)) for step in range(len(SIZES))]))

    def _set_sizes(self, sizes: Sequence[float] | NDArray[np.floating]) -> None:
        rows = []
        for size in sizes:
            for aspect in ASPECTS:
                height, width = size * aspect**0.5, size / aspect**0.5
                rows.append((-width / 2, -height / 2, width / 2, height / 2))
        with torch.no_grad():
            self.anchors.copy_(torch.tensor(rows))

    def init_weights(self, seed: int) -> None:
        """Initialize parameters and buffers in place; each tensor depends on (seed, its name) only."""
        super().init_weights(seed)
        self._set_sizes([share * self.image_size for share in SIZES])

    def init_layer(self, name: str, seed: int) -> None:
        """Initialize one layer in place: those of the architecture by its rule, new ones as Ren et al. did.

        Their weights are N(0, 0.01²), of ``box_shift`` N(0, 0.001²) (Girshick 2015), and their biases 0.
        """
        if name in self._gaussian_starts():
            super().init_layer(name, seed)
            return
        layer = self.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        init_layer(layer, name, "gaussian", 0.001 if name == "box_shift" else 0.01, 0.0, seed)

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """There is no dropout."""
        return {}

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The layers whose outputs belong to the classes."""
        return "box_class", "box_shift"

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The layers of the convolutional part, in forward order; those of the two stages are no sequence."""
        return {name: shape for name, shape in super().layer_shapes().items() if name in self._features}


class _FirstStage(nn.Module):
    """The layers of the RPN for torchvision: a list of feature maps → lists of scores and of shifts of the anchors."""

    def __init__(self, network: DetectionNet) -> None:
        super().__init__()
        self._layers = (network.rpn_conv, network.rpn_score, network.rpn_box)  # a tuple: they stay the network's

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        conv, score, box = self._layers
        hidden = [F.relu(conv(each)) for each in maps]
        return [score(each) for each in hidden], [box(each) for each in hidden]


class _Anchors(nn.Module):
    """The anchors of each place of the feature maps for torchvision: ``(h · w · anchors, 4)`` for each image."""

    def __init__(self, anchors: Tensor, grid: Grid) -> None:
        super().__init__()
        self._anchors, self._grid = (anchors,), grid  # a tuple: no buffer of this module

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        (anchors,), (height, width) = self._anchors, maps[0].shape[-2:]
        y, x = (
            self._grid.start + 0.5 + self._grid.step * torch.arange(size, device=anchors.device, dtype=anchors.dtype)
            for size in (height, width)
        )
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([columns, rows, columns, rows], dim=-1).view(-1, 1, 4)
        return [(centres + anchors).view(-1, 4)] * len(images.image_sizes)


def pool_boxes(maps: Tensor, boxes: list[Tensor], grid: Grid, side: int) -> Tensor:
    """The feature maps ``(N, C, h, w)`` inside boxes, ``(R, C, side, side)`` (RoIAlign, He et al. 2017).

    ``boxes``: for each image ``(n, 4)``, left, top, right, bottom in pixels of the input. Pixel i of the image is the
    interval from i to i + 1, so its centre, where :class:`Grid` counts it, lies at i + 0.5. A cell is the mean of
    ``SAMPLES`` × ``SAMPLES`` points, each interpolated bilinearly, as in torchvision's ``roi_align`` with
    ``aligned=True``. Both axes are independent, so it is two products with small matrices, whose gradient is
    deterministic on a GPU too.
    """
    pooled = []
    for image, each in zip(maps, boxes, strict=True):
        places = (each - 0.5 - grid.start) / grid.step
        columns = _cells(places[:, 0], places[:, 2], image.shape[2], side)
        rows = _cells(places[:, 1], places[:, 3], image.shape[1], side)
        pooled.append(rows[:, None] @ image @ columns[:, None].mT)
    return torch.cat(pooled)


def _cells(start: Tensor, end: Tensor, size: int, side: int) -> Tensor:
    """``(n, side, size)``: the weight of each of ``size`` pixels in each of ``side`` cells between start and end.

    ``start``, ``end`` ``(n,)``: in pixels of the maps, 0 at the centre of the first one. Points further than a pixel
    outside of the maps have the value 0; those nearer have that of the outermost pixel.
    """
    steps = (torch.arange(side * SAMPLES, device=start.device, dtype=start.dtype) + 0.5) / (side * SAMPLES)
    points = start[:, None] + (end - start)[:, None] * steps
    inside = (points >= -1) & (points <= size)
    pixels = torch.arange(size, device=start.device, dtype=start.dtype)
    weights = (1 - (points.clamp(0, size - 1)[..., None] - pixels).abs()).clamp_min(0) * inside[..., None]
    return weights.view(len(start), side, SAMPLES, size).mean(dim=2)
