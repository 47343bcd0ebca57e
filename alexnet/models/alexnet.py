"""AlexNet: five convolutions, three linear layers, and everything in which its published forms differ as data.

An :class:`Architecture` is one row of the table in ``variants.py``; :class:`AlexNet` runs any of them. The attributes
and state-dict keys are the paper's names: ``conv1 … conv5``, ``norm1 … norm5`` where a normalization has weights,
``fc6, fc7, fc8``.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.core.errors import unknown
from alexnet.kernels import int8 as quantized
from alexnet.kernels.lrn import AlphaConvention, LocalResponseNorm
from alexnet.models.layers import (
    AdaptivePool,
    Conv2d,
    Dropout,
    DropoutScaling,
    Initialisation,
    Linear,
    Masks,
    Padding,
    WithinChannelLRN,
    initialise_layer,
    padding_amounts,
    window_count,
)

Activation = Literal["relu", "tanh", "sigmoid"]
LayerOp = Literal["activation", "lrn", "in-map", "batch-norm", "pool"]
DropoutSite = Literal["pool5", "fc6", "fc7"]


@dataclass(frozen=True)
class ConvLayer:
    """One convolution and what follows it, in order.

    ``std`` and ``bias`` are where Gaussian initialisation starts the weights and the biases.
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
    """Everything that makes one published AlexNet differ from another.

    ``lrn_convention``: whether α multiplies the sum or the mean of squares. ``dropout_at``: the layers whose output
    is dropped; ``dropout_scaling``: see :class:`~alexnet.models.layers.Dropout`. ``pool_ceil_mode``: up counts a last,
    partly empty window. ``adaptive_pool``: the side that pool5 is averaged to when it is another, None to build fc6
    for the map.
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
    dropout: float = 0.5
    dropout_at: tuple[DropoutSite, ...] = ("fc6", "fc7")
    dropout_scaling: DropoutScaling = "train"
    initialisation: Initialisation = "gaussian"
    output_std: float = 0.01
    adaptive_pool: int | None = None

    def __post_init__(self) -> None:
        """Raise ``UserError`` for a name that is none of its field's."""
        for name, hint in get_type_hints(Architecture).items():
            if get_origin(hint) is Literal:
                _one_of(f"value of {name}", getattr(self, name), get_args(hint))
        for operation in (operation for layer in self.convs for operation in layer.ops):
            _one_of("operation after a convolution", operation, get_args(LayerOp))
        for site in self.dropout_at:
            _one_of("place for dropout", site, get_args(DropoutSite))

    def map_sizes(self, image_size: int) -> list[int]:
        """The side of the map after each layer's last operation, for a square image; 0 once nothing is left."""
        sizes, size = [], image_size
        for layer in self.convs:
            size += sum(padding_amounts(size, layer.kernel, layer.stride, layer.padding))
            size = window_count(size, layer.kernel, layer.stride)
            for _ in range(layer.ops.count("pool")):
                size = window_count(size, self.pool_kernel, self.pool_stride, ceil=self.pool_ceil_mode)
            sizes.append(size)
        return sizes

    def smallest_image(self) -> int:
        """The smallest side for which every layer has an output."""
        return bisect.bisect_left(range(2**31), 1, key=lambda size: self.map_sizes(size)[-1])


def _one_of(kind: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(kind, str(value), known)


class Classifier(nn.Module):
    """What every network here is: images in, one logit a class out, and dropout sites whose masks are inputs."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"a network needs at least one class and one channel, not {num_classes} and {in_channels}")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """Site → (units, drop rate): what :func:`~alexnet.models.layers.draw_masks` needs."""
        return {}

    def initialise(self, seed: int) -> None:
        """Fill parameters and buffers in place; each tensor's draws are keyed by (seed, its name)."""
        raise NotImplementedError

    def use_plain_forms(self) -> None:
        """Have layers that have a fast form compute as they are written: the same numbers, to rounding."""
        for module in self.modules():
            if isinstance(module, LocalResponseNorm | Conv2d | Linear):
                module.plain = True

    def fix_weights(self) -> None:
        """Have convolutions predict with the weights as they are now: the same but for rounding, sooner."""
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.fix_weights()

    def int8_layers(self) -> dict[nn.Module, nn.Module]:
        """Layer → what computes the same with int8 weights, for all that can be."""
        layers: dict[nn.Module, nn.Module] = {}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and module.weight.shape[1] >= quantized.LEAST_CHANNELS:
                layers[module] = quantized.Int8Conv2d(module, signed=self.reads_signed(name))
            if isinstance(module, nn.Linear):
                layers[module] = quantized.Int8Linear(module, signed=self.reads_signed(name))
        return layers

    def reads_signed(self, layer: str) -> bool:
        """Whether the numbers that a layer is given can be negative."""
        return True


class AlexNet(Classifier):
    """``(N, in_channels, image_size, image_size)`` float → ``(N, num_classes)`` logits.

    Raises ``ValueError`` for an image too small for the strides; the message names the smallest.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int = 1000, in_channels: int = 3, image_size: int | None = None
    ) -> None:
        super().__init__(num_classes, in_channels, architecture.image_size if image_size is None else image_size)
        a = self.architecture = architecture
        side = a.map_sizes(self.image_size)[-1]
        if side < 1:
            raise ValueError(
                f"an image of {self.image_size} pixels is too small for these strides: "
                f"give at least {a.smallest_image()}"
            )
        channels = in_channels
        for number, layer in enumerate(a.convs, 1):
            conv = Conv2d(channels, layer.filters, layer.kernel, layer.stride, layer.padding, layer.groups)
            self.add_module(f"conv{number}", conv)
            channels = layer.filters
            if "lrn" in layer.ops:
                norm = LocalResponseNorm(a.lrn_size, a.lrn_alpha, a.lrn_beta, a.lrn_k, a.lrn_convention, a.lrn_groups)
                self.add_module(f"norm{number}", norm)
            if "in-map" in layer.ops:
                self.add_module(f"in_map{number}", WithinChannelLRN(size=5, alpha=1e-3, beta=0.75))
            if "batch-norm" in layer.ops:
                self.add_module(f"norm{number}", nn.BatchNorm2d(channels, a.batch_norm_eps, a.batch_norm_momentum))
        self.pool = nn.MaxPool2d(a.pool_kernel, a.pool_stride, ceil_mode=a.pool_ceil_mode)
        if a.adaptive_pool is not None:
            self.adapt = AdaptivePool(a.adaptive_pool)
        self.fc6 = Linear(channels * (a.adaptive_pool or side) ** 2, a.hidden[0].units)
        self.fc7 = Linear(a.hidden[0].units, a.hidden[1].units)
        self.fc8 = Linear(a.hidden[1].units, num_classes)
        self.dropout = Dropout(a.dropout, a.dropout_scaling)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits. ``masks``: dropout masks by site (see ``dropout_sites``); drawn here if training without them.

        The shapes on the right are the paper's, 224 × 224 × 3 in.
        """
        x = self.convolve(1, x)  # (N, 96, 55, 55) → (N, 96, 27, 27)
        x = self.convolve(2, x)  # (N, 256, 27, 27) → (N, 256, 13, 13)
        x = self.convolve(3, x)  # (N, 384, 13, 13)
        x = self.convolve(4, x)  # (N, 384, 13, 13)
        x = self.convolve(5, x)  # (N, 256, 13, 13) → (N, 256, 6, 6)
        x = self.drop("pool5", self.flatten(x), masks)  # (N, 9216)
        x = self.drop("fc6", self.activate(self.fc6(x)), masks)  # (N, 4096)
        x = self.drop("fc7", self.activate(self.fc7(x)), masks)  # (N, 4096)
        return self.fc8(x)  # type: ignore[no-any-return]  # (N, num_classes)

    def convolve(self, number: int, x: Tensor) -> Tensor:
        """Convolution ``number`` and what follows it, in the order that its row of the table gives."""
        x = getattr(self, f"conv{number}")(x)
        for operation in self.architecture.convs[number - 1].ops:
            match operation:
                case "activation":
                    x = self.activate(x)
                case "lrn" | "batch-norm":
                    x = getattr(self, f"norm{number}")(x)
                case "in-map":
                    x = getattr(self, f"in_map{number}")(x)
                case "pool":
                    x = self.pool(x)
        return x

    def reads_signed(self, layer: str) -> bool:
        """Whether the numbers that a layer is given can be negative: not behind a ReLU, but for batch norm after it."""
        number, convs = int(layer[-1]), self.architecture.convs
        if number == 1:
            return True
        before = convs[number - 2].ops if number <= len(convs) + 1 else ("activation",)
        signs = [operation for operation in before if operation in ("activation", "batch-norm")]
        return self.architecture.activation == "tanh" or signs[-1:] != ["activation"]

    def activate(self, x: Tensor) -> Tensor:
        """The non-linearity."""
        return ACTIVATIONS[self.architecture.activation](x)

    def flatten(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` → ``(N, C·H·W)``, channels first; averaged to the adaptive side only when it is another."""
        side = self.architecture.adaptive_pool
        if side is not None and x.shape[2:] != (side, side):
            x = self.adapt(x)
        return x.flatten(1)

    def drop(self, site: str, x: Tensor, masks: Masks | None) -> Tensor:
        """Dropout, at the sites that the architecture names."""
        if site not in self.dropout_sites:
            return x
        return self.dropout(x, None if masks is None else masks[site])  # type: ignore[no-any-return]

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """Site → (units, drop rate), none at rate 0."""
        a = self.architecture
        units = {"pool5": self.fc6.in_features, "fc6": self.fc6.out_features, "fc7": self.fc7.out_features}
        return {site: (units[site], a.dropout) for site in a.dropout_at if a.dropout > 0}

    def initialise(self, seed: int) -> None:
        """Fill parameters and buffers in place; each tensor's draws are keyed by (seed, its name)."""
        a = self.architecture
        starts = self._starts()
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                std, bias = starts[name]
                # He's rule is for what a ReLU follows; before the softmax, small weights start the loss at ln(classes)
                scheme = "gaussian" if a.initialisation == "he" and name == "fc8" else a.initialisation
                initialise_layer(module, name, scheme, std, bias, seed)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def _starts(self) -> dict[str, tuple[float, float]]:
        """Layer → (standard deviation of its weights, value of its biases) under Gaussian initialisation."""
        a = self.architecture
        convs = {f"conv{number}": (layer.std, layer.bias) for number, layer in enumerate(a.convs, 1)}
        hidden = {name: (layer.std, layer.bias) for name, layer in zip(("fc6", "fc7"), a.hidden, strict=True)}
        return {**convs, **hidden, "fc8": (a.output_std, 0.0)}


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def architecture_of(network: Classifier) -> Architecture | None:
    """The row that an AlexNet was built by; None for a network of another kind."""
    return network.architecture if isinstance(network, AlexNet) else None
