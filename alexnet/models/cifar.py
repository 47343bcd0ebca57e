"""The four-layer nets that Krizhevsky trained on CIFAR-10, of which the paper tells in §3.1, §3.3 and figure 1.

They are the files ``layers-18pct.cfg``, ``-conv-local-13pct.cfg`` and ``-conv-local-11pct.cfg`` of cuda-convnet as it
was public in July 2012, each named after the test error it reached; as everywhere in that code, α is divided by the
size of the window, k is 1 and sizes are rounded up. Which net figure 1 shows is not said: here it is the one of 18 %
without its normalizations, once with ReLU and once with tanh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from alexnet.kernels.lrn import LocalResponseNorm
from alexnet.models.alexnet import ACTIVATIONS, Activation, Classifier
from alexnet.models.layers import LocallyConnected, Masks, WithinChannelLRN, initialise_layer, window_count

After = Literal["activation", "max-pool", "average-pool", "in-map", "lrn"]


@dataclass(frozen=True)
class CifarLayer:
    """One layer and what follows it, in order. ``std`` is where its Gaussian weights start; its biases start at 0."""

    kind: Literal["conv", "local"]
    filters: int
    std: float
    ops: tuple[After, ...] = ("activation",)


@dataclass(frozen=True)
class CifarArchitecture:
    """The layers below the one linear layer, whose weights start at N(0, 0.01²)."""

    layers: tuple[CifarLayer, ...]
    image_size: int
    activation: Activation = "relu"


EIGHTEEN_PERCENT = CifarArchitecture(
    layers=(
        CifarLayer("conv", 32, 1e-4, ("max-pool", "activation", "in-map")),
        CifarLayer("conv", 32, 0.01, ("activation", "average-pool", "in-map")),
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

    Layers are named by kind and number: ``conv1``, ``local3``, ``fc5``.
    """

    def __init__(
        self, architecture: CifarArchitecture, num_classes: int, in_channels: int, image_size: int | None
    ) -> None:
        super().__init__(num_classes, in_channels, architecture.image_size if image_size is None else image_size)
        self.architecture = architecture
        channels, side = in_channels, self.image_size
        for number, layer in enumerate(architecture.layers, 1):
            self.add_module(f"{layer.kind}{number}", _make(layer, channels, side))
            channels = layer.filters
            for what in layer.ops:
                if what == "max-pool":
                    self.add_module(f"pool{number}", nn.MaxPool2d(3, 2, ceil_mode=True))
                if what == "average-pool":
                    self.add_module(f"pool{number}", nn.AvgPool2d(3, 2, ceil_mode=True))
                if what.endswith("pool"):
                    side = window_count(side, 3, 2, ceil=True)
                if what == "in-map":
                    self.add_module(f"in_map{number}", WithinChannelLRN(size=3, alpha=5e-5, beta=0.75))
                if what == "lrn":
                    self.add_module(f"norm{number}", LocalResponseNorm(9, 1e-3, 0.75, 1.0, "mean", groups=1))
        if side < 1:
            pools = sum(what.endswith("pool") for layer in architecture.layers for what in layer.ops)
            smallest = 3 * 2 ** (pools - 1)
            raise ValueError(f"an image of {self.image_size} pixels is too small: give at least {smallest}")
        self.last = f"fc{len(architecture.layers) + 1}"
        self.add_module(self.last, nn.Linear(channels * side**2, num_classes))

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits; ``masks`` is there because every classifier takes it, and unused: these nets have no dropout."""
        modules = dict(self.named_children())
        for number, layer in enumerate(self.architecture.layers, 1):
            x = modules[f"{layer.kind}{number}"](x)
            for what in layer.ops:
                match what:
                    case "activation":
                        x = ACTIVATIONS[self.architecture.activation](x)
                    case "max-pool" | "average-pool":
                        x = modules[f"pool{number}"](x)
                    case "in-map":
                        x = modules[f"in_map{number}"](x)
                    case "lrn":
                        x = modules[f"norm{number}"](x)
        return modules[self.last](x.flatten(1))  # type: ignore[no-any-return]

    def initialise(self, seed: int) -> None:
        """Gaussian weights with each layer's own deviation, biases 0."""
        for number, layer in enumerate(self.architecture.layers, 1):
            self._start(f"{layer.kind}{number}", layer.std, seed)
        self._start(self.last, 0.01, seed)

    def _start(self, name: str, std: float, seed: int) -> None:
        layer = self.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear | LocallyConnected)
        initialise_layer(layer, name, "gaussian", std, 0.0, seed)


def _make(layer: CifarLayer, channels: int, side: int) -> nn.Module:
    if layer.kind == "local":
        return LocallyConnected(channels, layer.filters, side)
    return nn.Conv2d(channels, layer.filters, 5, padding=2)
