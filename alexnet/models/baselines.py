"""The networks that AlexNet is compared with, as classes of their own: a table of them by name, and LeNet-5.

LeNet-5 as the textbook *Dive into Deep Learning* (§7.6) has it, after LeCun, Bottou, Bengio and Haffner (1998): sigmoid
units and average pools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from alexnet.models.alexnet import Classifier
from alexnet.models.cifar import EIGHTEEN_PERCENT, ELEVEN_PERCENT, FIGURE_1, THIRTEEN_PERCENT, CifarNet
from alexnet.models.layers import Masks, initialise_layer


class LeNet5(Classifier):
    """``(N, in_channels, image_size, image_size)`` → ``(N, num_classes)`` logits."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int | None = None) -> None:
        super().__init__(num_classes, in_channels, 28 if image_size is None else image_size)
        side = (self.image_size // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"an image of {self.image_size} pixels is too small for lenet5: give at least 12")
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.AvgPool2d(2)
        self.fc3 = nn.Linear(16 * side**2, 120)
        self.fc4 = nn.Linear(120, 84)
        self.fc5 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits; ``masks`` is there because every classifier takes it, and unused: LeNet has no dropout."""
        x = self.pool(torch.sigmoid(self.conv1(x)))  # (N, 6, 28, 28) → (N, 6, 14, 14)
        x = self.pool(torch.sigmoid(self.conv2(x)))  # (N, 16, 10, 10) → (N, 16, 5, 5)
        x = torch.sigmoid(self.fc3(x.flatten(1)))  # (N, 400) → (N, 120)
        x = torch.sigmoid(self.fc4(x))  # (N, 84)
        return self.fc5(x)  # type: ignore[no-any-return]  # (N, num_classes)

    def initialise(self, seed: int) -> None:
        """Xavier-uniform weights, biases by torch's rule, as the textbook's trainer leaves them."""
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d | nn.Linear):
                initialise_layer(module, name, "xavier", 0.0, 0.0, seed)


BASELINES: Mapping[str, Callable[[int, int, int | None], Classifier]] = {
    "lenet5": LeNet5,
    "cifar-18pct": partial(CifarNet, EIGHTEEN_PERCENT),
    "cifar-13pct": partial(CifarNet, THIRTEEN_PERCENT),
    "cifar-11pct": partial(CifarNet, ELEVEN_PERCENT),
    "cifar-relu": partial(CifarNet, FIGURE_1[0]),
    "cifar-tanh": partial(CifarNet, FIGURE_1[1]),
}
"""Name → a network of (classes, channels, image size, None for its own)."""
