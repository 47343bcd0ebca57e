"""Narrow networks whose every layer responds, and torchvision's own network with narrow layers."""

import pytest
import torch
import torchvision

from alexnet.models.registry import create_model


@pytest.fixture(scope="session")
def narrow_network(lively):
    """Variant → its network with an eighth of the filters and units, in evaluation mode."""

    def build(name, num_classes=7, in_channels=3, width=0.125, **settings):
        return lively(
            create_model(name, num_classes=num_classes, in_channels=in_channels, seed=0, width=width, **settings)
        )

    return build


@pytest.fixture(scope="session")
def narrow_torchvision(lively):
    """torchvision's AlexNet whose layers are replaced by layers with an eighth of the filters and units."""

    def build(num_classes=1000):
        with torch.device("meta"):
            network = torchvision.models.alexnet(num_classes=num_classes)
        for number, layer in enumerate(network.features):
            if isinstance(layer, torch.nn.Conv2d):
                inputs = layer.in_channels if number == 0 else layer.in_channels // 8
                network.features[number] = torch.nn.Conv2d(
                    inputs, layer.out_channels // 8, layer.kernel_size, layer.stride, layer.padding
                )
        for number, layer in enumerate(network.classifier):
            if isinstance(layer, torch.nn.Linear):
                outputs = layer.out_features if number == 6 else layer.out_features // 8
                network.classifier[number] = torch.nn.Linear(layer.in_features // 8, outputs)
        return lively(network)

    return build
