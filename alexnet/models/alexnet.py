"""AlexNet: five convolutions and three fully connected layers, in every published form.

An :class:`Architecture` lists the settings in which the published forms differ; ``variants.py`` holds one for each
form. :class:`AlexNet` builds a network from an architecture, as named modules in forward order. Shapes of the paper's
network, for 224 × 224 × 3 images::

    conv1 relu1 norm1 pool1    (N, 96, 55, 55)   →  (N, 96, 27, 27)
    conv2 relu2 norm2 pool2    (N, 256, 27, 27)  →  (N, 256, 13, 13)
    conv3 relu3                (N, 384, 13, 13)
    conv4 relu4                (N, 384, 13, 13)
    conv5 relu5 pool5          (N, 256, 13, 13)  →  (N, 256, 6, 6)
    flatten                    (N, 9216)
    fc6 relu6 dropout6         (N, 4096)
    fc7 relu7 dropout7         (N, 4096)
    fc8                        (N, num_classes)

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from alexnet.core.errors import unknown
from alexnet.core.schema import NEW
from alexnet.models.classifier import FLATTEN, Classifier
from alexnet.models.layers import (
    AdaptiveAvgPool,
    AlphaConvention,
    Conv2d,
    Dropout,
    DropoutScaling,
    Initialisation,
    LocallyConnected,
    LocalResponseNorm,
    Masks,
    Padding,
    WithinChannelLRN,
    init_layer,
    padding_amounts,
    window_count,
)

Activation = Literal["relu", "tanh", "sigmoid"]
LayerOp = Literal["activation", "lrn", "within-channel-lrn", "batch-norm", "pool"]
DropoutSite = Literal["pool5", "fc6", "fc7"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class ConvLayer:
    """One convolution and the operations after it, in order.

    ``std`` and ``bias``: standard deviation of the weights and value of the biases at Gaussian initialization.
    """

    filters: int
    kernel: int
    stride: int = 1
    padding: Padding = 0
    groups: int = 1
    ops: tuple[LayerOp, ...] = ("activation",)
    std: float = 0.01
    bias: float = 0.0


@dataclass(frozen=True)
class LinearLayer:
    """One hidden fully connected layer; ``std`` and ``bias`` as in :class:`ConvLayer`."""

    units: int
    std: float = 0.01
    bias: float = 0.0


@dataclass(frozen=True)
class Architecture:
    """The settings in which one published AlexNet differs from another.

    ``lrn_convention``: whether α multiplies the sum or the mean of squares. ``dropout_at``: the layers whose output has
    dropout; ``dropout_scaling``: see :class:`~alexnet.models.layers.Dropout`. ``pool_ceil_mode``: whether a last,
    partly empty window of a pool counts. ``adaptive_pool``: the last feature maps are averaged to this height and width
    in pixels if theirs differ; None: fc6 is built for the height and width that they have. ``batch_norm_affine``:
    whether batch normalizations learn a scale and a shift; if not, these are 1 and 0, and stay in the state dict.
    ``output_std``, ``output_bias``: as ``std`` and ``bias`` of a layer, for fc8.
    """

    convs: tuple[ConvLayer, ConvLayer, ConvLayer, ConvLayer, ConvLayer]
    hidden: tuple[LinearLayer, LinearLayer] = (LinearLayer(4096), LinearLayer(4096))
    image_size: int = 224
    activation: Activation = "relu"
    pool_kernel: int = 3
    pool_stride: int = 2
    pool_ceil_mode: bool = False
    lrn_size: int = 5
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_k: float = 2.0
    lrn_convention: AlphaConvention = "sum"
    lrn_groups: int = 1
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    batch_norm_affine: bool = field(default=True, metadata=NEW)
    dropout: float = 0.5
    dropout_at: tuple[DropoutSite, ...] = ("fc6", "fc7")
    dropout_scaling: DropoutScaling = "train"
    initialisation: Initialisation = "gaussian"
    output_std: float = 0.01
    output_bias: float = field(default=0.0, metadata=NEW)
    adaptive_pool: int | None = None

    def __post_init__(self) -> None:
        """Raise ``UserError`` for a value that is not one of its field's choices."""
        for name, hint in get_type_hints(Architecture).items():
            if get_origin(hint) is Literal:
                _one_of(f"value of {name}", getattr(self, name), get_args(hint))
        for operation in (operation for layer in self.convs for operation in layer.ops):
            _one_of("operation after a convolution", operation, get_args(LayerOp))
        for site in self.dropout_at:
            _one_of("layer for dropout", site, get_args(DropoutSite))

    def map_sizes(self, image_size: int) -> list[int]:
        """The side, in pixels, of the feature maps after each convolution and its operations.

        ``image_size``: side of the square input image in pixels. A side is 0 if the image is too small for the layer.
        """
        sizes, size = [], image_size
        for layer in self.convs:
            size += sum(padding_amounts(size, layer.kernel, layer.stride, layer.padding))
            size = window_count(size, layer.kernel, layer.stride)
            for _ in range(layer.ops.count("pool")):
                size = window_count(size, self.pool_kernel, self.pool_stride, ceil=self.pool_ceil_mode)
            sizes.append(size)
        return sizes

    def last_side(self, image_size: int) -> int:
        """The side, in pixels, of the last feature maps. Raises ``ValueError`` if the image is too small."""
        side = self.map_sizes(image_size)[-1]
        if side < 1:
            raise ValueError(
                f"an image of {image_size} pixels is too small for these strides: give at least {self.smallest_image()}"
            )
        return side

    def smallest_image(self) -> int:
        """The smallest image side, in pixels, for which every layer has an output."""
        return bisect.bisect_left(range(2**31), 1, key=lambda size: self.map_sizes(size)[-1])


def _one_of(kind: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(kind, str(value), known)


class AlexNet(Classifier):
    """``(N, in_channels, image_size, image_size)`` float → ``(N, num_classes)`` logits.

    Raises ``ValueError`` if ``image_size`` is too small for the strides; the message gives the smallest possible size.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int = 1000, in_channels: int = 3, image_size: int | None = None
    ) -> None:
        super().__init__(num_classes, in_channels, architecture.image_size if image_size is None else image_size)
        a = self.architecture = architecture
        side = a.last_side(self.image_size)
        channels = in_channels
        for number, layer in enumerate(a.convs, 1):
            self._add_convolution(number, layer, channels)
            channels = layer.filters
        if a.adaptive_pool is not None:
            self.avgpool5 = AdaptiveAvgPool(a.adaptive_pool)
        self.add_module(FLATTEN, nn.Flatten())
        self._add_dropout(5, "pool5")
        self.fc6 = nn.Linear(channels * (a.adaptive_pool or side) ** 2, a.hidden[0].units)
        self.add_module(f"{a.activation}6", ACTIVATIONS[a.activation]())
        self._add_dropout(6, "fc6")
        self.fc7 = nn.Linear(a.hidden[0].units, a.hidden[1].units)
        self.add_module(f"{a.activation}7", ACTIVATIONS[a.activation]())
        self._add_dropout(7, "fc7")
        self.fc8 = nn.Linear(a.hidden[1].units, num_classes)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits; the layers run in the order in which they were added (see :class:`Classifier`).

        ``masks``: dropout masks by site, see ``dropout_sites``.
        """
        x = self.forward_features(x)  # conv1 … pool5: (N, 256, 6, 6)
        return self.forward_head(x, masks=masks)  # flatten, fc6 … fc8: (N, num_classes)

    def _add_convolution(self, number: int, layer: ConvLayer, channels: int) -> None:
        """Add ``conv<number>`` and the operations after it, in the order of ``layer.ops``."""
        a = self.architecture
        conv = Conv2d(channels, layer.filters, layer.kernel, layer.stride, layer.padding, layer.groups)
        self.add_module(f"conv{number}", conv)
        for operation in layer.ops:
            match operation:
                case "activation":
                    self.add_module(f"{a.activation}{number}", ACTIVATIONS[a.activation]())
                case "lrn":
                    norm = LocalResponseNorm(
                        a.lrn_size, a.lrn_alpha, a.lrn_beta, a.lrn_k, a.lrn_convention, a.lrn_groups
                    )
                    self.add_module(f"norm{number}", norm)
                case "within-channel-lrn":
                    self.add_module(f"within_channel_norm{number}", WithinChannelLRN(size=5, alpha=1e-3, beta=0.75))
                case "batch-norm":
                    batch_norm = nn.BatchNorm2d(layer.filters, a.batch_norm_eps, a.batch_norm_momentum)
                    self.add_module(f"norm{number}", batch_norm.requires_grad_(a.batch_norm_affine))
                case "pool":
                    pool = nn.MaxPool2d(a.pool_kernel, a.pool_stride, ceil_mode=a.pool_ceil_mode)
                    self.add_module(f"pool{number}", pool)

    def _add_dropout(self, number: int, site: DropoutSite) -> None:
        a = self.architecture
        if site in a.dropout_at and a.dropout > 0:
            self.add_module(f"dropout{number}", Dropout(a.dropout, a.dropout_scaling, site))

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """Layer with dropout → (units, dropout probability); empty if the probability is 0."""
        a = self.architecture
        units = {"pool5": self.fc6.in_features, "fc6": self.fc6.out_features, "fc7": self.fc7.out_features}
        return {site: (units[site], a.dropout) for site in a.dropout_at if a.dropout > 0}

    def init_layer(self, name: str, seed: int) -> None:
        """Initialize one layer's weights and biases in place, with the settings of the architecture."""
        a = self.architecture
        layer = self.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear | LocallyConnected)
        std, bias = self._gaussian_starts()[name]
        # He et al. made their rule for layers before a ReLU. With small weights in fc8 the first loss is
        # ln(num_classes).
        scheme = "gaussian" if a.initialisation == "he" and name == self.last_layer else a.initialisation
        init_layer(layer, name, scheme, std, bias, seed)

    def _gaussian_starts(self) -> dict[str, tuple[float, float]]:
        """Layer → (standard deviation of its weights, value of its biases) at Gaussian initialization."""
        a = self.architecture
        convs = {f"conv{number}": (layer.std, layer.bias) for number, layer in enumerate(a.convs, 1)}
        hidden = {name: (layer.std, layer.bias) for name, layer in zip(("fc6", "fc7"), a.hidden, strict=True)}
        return {**convs, **hidden, "fc8": (a.output_std, a.output_bias)}


def architecture_of(network: nn.Module) -> Architecture | None:
    """The architecture that an AlexNet was built from; None for a network of another class."""
    return network.architecture if isinstance(network, AlexNet) else None
