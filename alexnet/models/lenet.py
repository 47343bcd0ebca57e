"""LeNet-5, the network that AlexNet is compared with most often.

This is the form in the textbook *Dive into Deep Learning* (§7.6), after LeCun, Bottou, Bengio and Haffner (1998), with
sigmoid units and average pools.
"""

from __future__ import annotations

from torch import nn

from alexnet.models.classifier import FLATTEN, Classifier
from alexnet.models.layers import init_layer


class LeNet5(Classifier):
    """``(N, in_channels, image_size, image_size)`` → ``(N, num_classes)`` logits. It has no dropout."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int | None = None) -> None:
        super().__init__(num_classes, in_channels, 28 if image_size is None else image_size)
        side = (self.image_size // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"an image of {self.image_size} pixels is too small for lenet5: give at least 12")
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)  # (N, 6, 28, 28)
        self.sigmoid1 = nn.Sigmoid()
        self.pool1 = nn.AvgPool2d(2)  # (N, 6, 14, 14)
        self.conv2 = nn.Conv2d(6, 16, 5)  # (N, 16, 10, 10)
        self.sigmoid2 = nn.Sigmoid()
        self.pool2 = nn.AvgPool2d(2)  # (N, 16, 5, 5)
        self.add_module(FLATTEN, nn.Flatten())  # (N, 400)
        self.fc3 = nn.Linear(16 * side**2, 120)
        self.sigmoid3 = nn.Sigmoid()
        self.fc4 = nn.Linear(120, 84)
        self.sigmoid4 = nn.Sigmoid()
        self.fc5 = nn.Linear(84, num_classes)

    def init_layer(self, name: str, seed: int) -> None:
        """Xavier-uniform weights and torch's default biases, as in the textbook."""
        layer = self.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        init_layer(layer, name, "xavier", 0.0, 0.0, seed)
