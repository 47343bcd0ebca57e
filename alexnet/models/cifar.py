"""The four-layer networks that Krizhevsky trained on CIFAR-10. The paper describes them in §3.1, §3.3 and figure 1.

They are the files ``layers-18pct.cfg``, ``-conv-local-13pct.cfg`` and ``-conv-local-11pct.cfg`` of cuda-convnet as
published in July 2012. Each is named after its test error. As everywhere in that code, α is divided by the size of the
window, k is 1 and sizes are rounded up. The paper does not say which network figure 1 shows. Here it is the network of
18 % without its normalizations, once with ReLU and once with tanh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from alexnet.models.alexnet import ACTIVATIONS, Activation
from alexnet.models.classifier import FLATTEN, Classifier
from alexnet.models.layers import LocallyConnected, LocalResponseNorm, WithinChannelLRN, init_layer, window_count

OUTPUT_STD = 0.01
CifarOp = Literal["activation", "max-pool", "average-pool", "within-channel-lrn", "lrn"]


@dataclass(frozen=True)
class CifarLayer:
    """One layer and what follows it, in order. ``std`` is where its Gaussian weights start; its biases start at 0."""

    kind: Literal["conv", "local"]
    filters: int
    std: float
    ops: tuple[CifarOp, ...] = ("activation",)


@dataclass(frozen=True)
class CifarArchitecture:
    """The layers below the one linear layer, whose weights start at N(0, 0.01²)."""

    layers: tuple[CifarLayer, ...]
    image_size: int
    activation: Activation = "relu"


EIGHTEEN_PERCENT = CifarArchitecture(
    layers=(
        CifarLayer("conv", 32, 1e-4, ("max-pool", "activation", "within-channel-lrn")),
        CifarLayer("conv", 32, 0.01, ("activation", "average-pool", "within-channel-lrn")),
        CifarLayer("conv", 64, 0.01, ("activation", "average-pool")),
    ),
    image_size=32,
)

THIRTEEN_PERCENT = CifarArchitecture(
    layers=(
        CifarLayer("conv", 64, 1e-4, ("activation", "max-pool")),
        CifarLayer("conv", 64, 0.01, ("activation", "max-pool")),
        CifarLayer("local", 32, 0.04),
        CifarLayer("local", 32, 0.04),
    ),
    image_size=24,
)

ELEVEN_PERCENT = CifarArchitecture(
    layers=(
        CifarLayer("conv", 64, 1e-4, ("activation", "max-pool", "lrn")),
        CifarLayer("conv", 64, 0.01, ("activation", "lrn", "max-pool")),
        CifarLayer("local", 64, 0.04),
        CifarLayer("local", 32, 0.04),
    ),
    image_size=24,
)

FIGURE_1 = tuple(
    CifarArchitecture(
        layers=(
            CifarLayer("conv", 32, 1e-4, ("max-pool", "activation")),
            CifarLayer("conv", 32, 0.01, ("activation", "average-pool")),
            CifarLayer("conv", 64, 0.01, ("activation", "average-pool")),
        ),
        image_size=32,
        activation=activation,
    )
    for activation in ("relu", "tanh")
)


class CifarNet(Classifier):
    """``(N, in_channels, image_size, image_size)`` → ``(N, num_classes)`` logits.

    Layers are named by kind and number: ``conv1``, ``local3``, ``fc5``. There is no dropout.
    """

    def __init__(
        self, architecture: CifarArchitecture, num_classes: int, in_channels: int, image_size: int | None
    ) -> None:
        super().__init__(num_classes, in_channels, architecture.image_size if image_size is None else image_size)
        self.architecture = architecture
        channels, side = in_channels, self.image_size
        for number, layer in enumerate(architecture.layers, 1):
            self.add_module(f"{layer.kind}{number}", _build(layer, channels, side))
            channels = layer.filters
            for operation in layer.ops:
                self._add_operation(number, operation)
                if operation.endswith("pool"):
                    side = window_count(side, 3, 2, ceil=True)
        if side < 1:
            pools = sum(operation.endswith("pool") for layer in architecture.layers for operation in layer.ops)
            smallest = 3 * 2 ** (pools - 1)
            raise ValueError(f"an image of {self.image_size} pixels is too small: give at least {smallest}")
        self.add_module(FLATTEN, nn.Flatten())
        self.add_module(f"fc{len(architecture.layers) + 1}", nn.Linear(channels * side**2, num_classes))

    def _add_operation(self, number: int, operation: CifarOp) -> None:
        activation = self.architecture.activation
        match operation:
            case "activation":
                self.add_module(f"{activation}{number}", ACTIVATIONS[activation]())
            case "max-pool":
                self.add_module(f"pool{number}", nn.MaxPool2d(3, 2, ceil_mode=True))
            case "average-pool":
                self.add_module(f"pool{number}", nn.AvgPool2d(3, 2, ceil_mode=True))
            case "within-channel-lrn":
                self.add_module(f"within_channel_norm{number}", WithinChannelLRN(size=3, alpha=5e-5, beta=0.75))
            case "lrn":
                self.add_module(f"norm{number}", LocalResponseNorm(9, 1e-3, 0.75, 1.0, "mean", groups=1))

    def init_layer(self, name: str, seed: int) -> None:
        """Gaussian weights with the layer's own standard deviation, biases 0."""
        layer = self.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear | LocallyConnected)
        stds = {f"{row.kind}{number}": row.std for number, row in enumerate(self.architecture.layers, 1)}
        init_layer(layer, name, "gaussian", stds.get(name, OUTPUT_STD), 0.0, seed)


def _build(layer: CifarLayer, channels: int, side: int) -> nn.Module:
    if layer.kind == "local":
        return LocallyConnected(channels, layer.filters, side)
    return nn.Conv2d(channels, layer.filters, 5, padding=2)
