"""Stock PyTorch: the same networks built from torch's own layers. Ours are compared with them.

They are contiguous and fp32, with ``nn.LocalResponseNorm`` and ``nn.Dropout``. With the same weights they compute the
same outputs as ours; a test checks this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from alexnet.models.alexnet import Activation, AlexNet, Architecture, ConvLayer
from alexnet.models.classifier import Classifier
from alexnet.models.layers import Dropout, WithinChannelLRN, padding_amounts
from alexnet.models.registry import create_model

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class ColumnNorm(nn.LocalResponseNorm):
    """``nn.LocalResponseNorm`` inside each of ``groups`` columns, as in cuda-convnet; torch has no such layer."""

    def __init__(self, groups: int, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__(size, alpha, beta, k)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` → same shape."""
        images, channels, *sides = x.shape
        columns = x.reshape(images * self.groups, channels // self.groups, *sides)
        return super().forward(columns).reshape(x.shape)


def network_of(variant: str) -> Classifier:
    """Our network of a variant, with its authors' image size, classes and channels. Raises ``UserError``."""
    return create_model(variant, seed=0)


def stock_network(network: Classifier) -> nn.Module:
    """``network`` built from torch's layers, with copies of its weights, in its data type and its mode.

    AlexNets are built again. The baselines already consist of torch's layers, so they are copied.
    """
    return _rebuilt(network) if isinstance(network, AlexNet) else copy.deepcopy(network)


def _rebuilt(network: AlexNet) -> nn.Sequential:
    a, size, channels = network.architecture, network.image_size, network.in_channels
    layers: list[nn.Module] = []
    for layer, next_size in zip(a.convs, a.map_sizes(size), strict=True):
        layers += _convolution(a, layer, channels, size)
        size, channels = next_size, layer.filters
    if a.adaptive_pool is not None:
        layers.append(nn.AdaptiveAvgPool2d(a.adaptive_pool))
        size = a.adaptive_pool
    units = [channels * size**2, *(hidden.units for hidden in a.hidden)]
    layers.append(nn.Flatten())
    layers += _dropout(a, "pool5")
    layers += [nn.Linear(units[0], units[1]), ACTIVATIONS[a.activation](), *_dropout(a, "fc6")]
    layers += [nn.Linear(units[1], units[2]), ACTIVATIONS[a.activation](), *_dropout(a, "fc7")]
    layers.append(nn.Linear(units[2], network.num_classes))
    stock = nn.Sequential(*layers).to(network.fc8.weight.dtype)
    stock.load_state_dict(dict(zip(stock.state_dict(), _in_order(network), strict=True)))
    for parameter, ours in zip(stock.parameters(), network.parameters(), strict=True):
        parameter.requires_grad_(ours.requires_grad)  # a batch norm without scale has a constant one
    return stock.train(network.training)


def _convolution(a: Architecture, layer: ConvLayer, channels: int, size: int) -> list[nn.Module]:
    before, after = padding_amounts(size, layer.kernel, layer.stride, layer.padding)
    even = before if before == after else 0
    conv = nn.Conv2d(channels, layer.filters, layer.kernel, layer.stride, even, groups=layer.groups)
    layers: list[nn.Module] = [conv] if before == after else [nn.ZeroPad2d((before, after, before, after)), conv]
    for operation in layer.ops:
        match operation:
            case "activation":
                layers.append(ACTIVATIONS[a.activation]())
            case "lrn":
                alpha = a.lrn_alpha * (a.lrn_size if a.lrn_convention == "sum" else 1)
                layers.append(ColumnNorm(a.lrn_groups, a.lrn_size, alpha, a.lrn_beta, a.lrn_k))
            case "within-channel-lrn":
                layers.append(WithinChannelLRN(size=5, alpha=1e-3, beta=0.75))
            case "batch-norm":
                layers.append(nn.BatchNorm2d(layer.filters, a.batch_norm_eps, a.batch_norm_momentum))
            case "pool":
                layers.append(nn.MaxPool2d(a.pool_kernel, a.pool_stride, ceil_mode=a.pool_ceil_mode))
    return layers


def _dropout(a: Architecture, site: str) -> list[nn.Module]:
    if site not in a.dropout_at or not a.dropout:
        return []
    return [nn.Dropout(a.dropout) if a.dropout_scaling == "train" else Dropout(a.dropout, "test")]


def _in_order(network: AlexNet) -> Iterable[Tensor]:
    """The tensors of a network in the order of its forward pass."""
    return network.state_dict().values()
