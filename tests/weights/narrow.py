"""A narrow ``torchvision.models.alexnet`` with random weights to which every layer responds, and photographs."""

import copy
import functools

import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn


@functools.cache
def _network(divisor, classes):
    torch.manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.alexnet(num_classes=classes)
    for part in (network.features, network.classifier):
        for place, layer in enumerate(part):
            last = part is network.classifier and place == 6
            if isinstance(layer, nn.Conv2d):
                inputs = 3 if layer.in_channels == 3 else layer.in_channels // divisor
                sizes = (layer.kernel_size, layer.stride, layer.padding)
                part[place] = nn.Conv2d(inputs, layer.out_channels // divisor, *sizes)
            elif isinstance(layer, nn.Linear):
                outputs = classes if last else layer.out_features // divisor
                part[place] = nn.Linear(layer.in_features // divisor, outputs)
    return lively(network).eval()


def narrow_torchvision(divisor=32, classes=10):
    return copy.deepcopy(_network(divisor, classes))


def lively(network):
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.uniform_(-0.2, 0.2)
    return network


@functools.cache
def photographs():
    return [Image.fromarray(image) for image in load_sample_images().images]
