"""The table of variants: every published AlexNet by name, with its source.

Each row is the complete network. Sources use one name for different things: the order of normalization and pool, what α
multiplies, where dropout is, how sizes are rounded, how weights are initialized. Each of these is a value in this
table, so no other code depends on the name of a variant. To add a variant, add a row to ``VARIANTS``; a package of your
own can add one through the entry-point group ``alexnet.variants`` (see ``registry.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from alexnet.models.alexnet import Architecture, ConvLayer, LayerOp, LinearLayer
from alexnet.models.cifar import EIGHTEEN_PERCENT, ELEVEN_PERCENT, FIGURE_1, THIRTEEN_PERCENT, CifarNet
from alexnet.models.classifier import Classifier
from alexnet.models.lenet import LeNet5


@dataclass(frozen=True)
class Variant:
    """One row: a network, its source, and the classes and channels that its authors gave it.

    ``architecture``: the row of an :class:`~alexnet.models.alexnet.AlexNet`. A network of another class has None there
    and ``network`` instead: a function of (classes, channels, image size or None) that builds it.
    """

    architecture: Architecture | None
    source: str
    num_classes: int = 1000
    in_channels: int = 3
    network: Callable[[int, int, int | None], Classifier] | None = None


LRN_POOL: tuple[LayerOp, ...] = ("activation", "lrn", "pool")
POOL_LRN: tuple[LayerOp, ...] = ("activation", "pool", "lrn")
POOL: tuple[LayerOp, ...] = ("activation", "pool")
BN: tuple[LayerOp, ...] = ("batch-norm", "activation")
BN_POOL: tuple[LayerOp, ...] = ("batch-norm", "activation", "pool")
POOL_BN: tuple[LayerOp, ...] = ("activation", "pool", "batch-norm")
ACTIVATION_BN: tuple[LayerOp, ...] = ("activation", "batch-norm")
ACTIVATION_BN_POOL: tuple[LayerOp, ...] = ("activation", "batch-norm", "pool")

PAPER = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding="ceil", ops=LRN_POOL),
        ConvLayer(256, 5, padding=2, groups=2, ops=LRN_POOL, bias=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=1),
    ),
    hidden=(LinearLayer(4096, bias=1), LinearLayer(4096, bias=1)),
    dropout_scaling="test",
)

CUDA_CONVNET = replace(
    PAPER,
    convs=(
        ConvLayer(96, 11, stride=4, padding="ceil", ops=("lrn", "activation", "pool")),
        ConvLayer(256, 5, padding=2, groups=2, ops=("activation", "lrn", "within-channel-lrn", "pool"), bias=1),
        ConvLayer(384, 3, padding=1, std=0.03),
        ConvLayer(384, 3, padding=1, groups=2, std=0.03, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, std=0.03, bias=1),
    ),
    pool_ceil_mode=True,
    lrn_convention="mean",
    lrn_groups=2,
)

PAPER_HALF = replace(
    PAPER,
    convs=(
        ConvLayer(48, 11, stride=4, padding="ceil", ops=LRN_POOL),
        ConvLayer(128, 5, padding=2, ops=LRN_POOL, bias=1),
        ConvLayer(192, 3, padding=1),
        ConvLayer(192, 3, padding=1, bias=1),
        ConvLayer(256, 3, padding=1, ops=POOL, bias=1),
    ),
)

BVLC_ALEXNET = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, ops=LRN_POOL),
        ConvLayer(256, 5, padding=2, groups=2, ops=LRN_POOL, bias=0.1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=0.1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=0.1),
    ),
    hidden=(LinearLayer(4096, std=0.005, bias=0.1), LinearLayer(4096, std=0.005, bias=0.1)),
    image_size=227,
    pool_ceil_mode=True,
    lrn_k=1.0,
    lrn_convention="mean",
)

CAFFENET = replace(
    BVLC_ALEXNET,
    convs=(
        ConvLayer(96, 11, stride=4, ops=POOL_LRN),
        ConvLayer(256, 5, padding=2, groups=2, ops=POOL_LRN, bias=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1, groups=2, bias=1),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=1),
    ),
    hidden=(LinearLayer(4096, std=0.005, bias=1), LinearLayer(4096, std=0.005, bias=1)),
)

ONE_TOWER = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding=2, ops=POOL),
        ConvLayer(256, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=227,
    dropout_at=("pool5", "fc6"),
    initialisation="torch",
)

TORCHVISION = replace(
    ONE_TOWER,
    convs=(
        ConvLayer(64, 11, stride=4, padding=2, ops=POOL),
        ConvLayer(192, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=224,
    adaptive_pool=6,
)

D2L = replace(
    ONE_TOWER,
    convs=(
        ConvLayer(96, 11, stride=4, padding=1, ops=POOL),
        ConvLayer(256, 5, padding=2, ops=POOL),
        ConvLayer(384, 3, padding=1),
        ConvLayer(384, 3, padding=1),
        ConvLayer(256, 3, padding=1, ops=POOL),
    ),
    image_size=224,
    dropout_at=("fc6", "fc7"),
    initialisation="xavier",
)

KERAS = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding="same", ops=ACTIVATION_BN_POOL),
        ConvLayer(256, 5, padding="same", ops=ACTIVATION_BN_POOL),
        ConvLayer(384, 3, padding="same", ops=ACTIVATION_BN),
        ConvLayer(384, 3, padding="same", ops=ACTIVATION_BN),
        ConvLayer(256, 3, padding="same", ops=ACTIVATION_BN_POOL),
    ),
    batch_norm_eps=1e-3,
    batch_norm_momentum=0.01,  # Keras counts the other way: its momentum 0.99 keeps 99 % of the old average
    initialisation="glorot",
)

BATCHNORM = Architecture(
    convs=(
        ConvLayer(96, 11, stride=4, padding=2, ops=BN_POOL),
        ConvLayer(256, 5, padding=2, ops=BN_POOL),
        ConvLayer(384, 3, padding=1, ops=BN),
        ConvLayer(384, 3, padding=1, ops=BN),
        ConvLayer(256, 3, padding=1, ops=BN_POOL),
    ),
    initialisation="he",
    output_std=0.001,
)

NVIDIA_BATCHNORM = replace(
    BVLC_ALEXNET,
    convs=(
        ConvLayer(96, 11, stride=4, ops=POOL_BN, bias=0.01),
        ConvLayer(256, 5, padding=2, groups=2, ops=POOL_BN, bias=0.01),
        ConvLayer(384, 3, padding=1, ops=ACTIVATION_BN, bias=0.01),
        ConvLayer(384, 3, padding=1, groups=2, ops=ACTIVATION_BN, bias=0.01),
        ConvLayer(256, 3, padding=1, groups=2, ops=POOL, bias=0.01),
    ),
    batch_norm_eps=1e-4,
    batch_norm_affine=False,
    output_bias=0.01,
)

SMALL = replace(
    BATCHNORM,
    convs=(
        ConvLayer(32, 5, padding=2, ops=BN_POOL),
        ConvLayer(64, 3, padding=1, ops=BN_POOL),
        ConvLayer(128, 3, padding=1, ops=BN),
        ConvLayer(128, 3, padding=1, ops=BN),
        ConvLayer(128, 3, padding=1, ops=BN_POOL),
    ),
    hidden=(LinearLayer(512), LinearLayer(512)),
    image_size=28,
)

TRUNK = replace(
    BATCHNORM,
    convs=(
        ConvLayer(64, 5, stride=2, padding=2, ops=BN_POOL),
        ConvLayer(128, 5, padding=2, ops=BN_POOL),
        ConvLayer(256, 3, padding=1, ops=BN),
        ConvLayer(256, 3, padding=1, ops=BN),
        ConvLayer(256, 3, padding=1, ops=BN_POOL),
    ),
    hidden=(LinearLayer(512), LinearLayer(512)),
    image_size=64,
    adaptive_pool=1,
)

VARIANTS: Mapping[str, Variant] = {
    "paper": Variant(PAPER, "Krizhevsky, Sutskever and Hinton, NIPS 2012, as the text describes it"),
    "cuda-convnet": Variant(
        CUDA_CONVNET, "the network that the authors trained: layers-145.cfg of their released code"
    ),
    "paper-half": Variant(PAPER_HALF, "the authors' network for one GPU, with about as many parameters (paper §3.2)"),
    "bvlc-alexnet": Variant(BVLC_ALEXNET, "Caffe's bvlc_alexnet"),
    "caffenet": Variant(CAFFENET, "Caffe's bvlc_reference_caffenet: pool before normalization"),
    "one-tower": Variant(ONE_TOWER, "the AlexNet of many tutorials: 227 pixels, one column, no normalization"),
    "torchvision": Variant(TORCHVISION, "torchvision.models.alexnet, after Krizhevsky 2014"),
    "d2l": Variant(D2L, "Dive into Deep Learning §8.1, for Fashion-MNIST", num_classes=10, in_channels=1),
    "keras": Variant(KERAS, 'an AlexNet of tutorials in Keras: "same" padding, batch norm after ReLU'),
    "batchnorm": Variant(
        BATCHNORM, "recommended for new trainings: one column, conv → batch norm → ReLU (Ioffe and Szegedy 2015)"
    ),
    "nvidia-batchnorm": Variant(
        NVIDIA_BATCHNORM,
        "NVIDIA's alexnet_bn for large batches: batch norm before conv2 to conv5, without scale",
    ),
    "small": Variant(SMALL, "this project's own network for images of 28 to 64 pixels", num_classes=10, in_channels=1),
    "trunk": Variant(TRUNK, "this project's own network to start other trainings from: photographs of 64 to 96 pixels"),
    "lenet5": Variant(
        None, "LeNet-5 as in Dive into Deep Learning §7.6 (baseline)", num_classes=10, in_channels=1, network=LeNet5
    ),
    "cifar-18pct": Variant(
        None,
        "the authors' network for CIFAR-10 with 18 % error: three convolutions (baseline)",
        10,
        network=partial(CifarNet, EIGHTEEN_PERCENT),
    ),
    "cifar-13pct": Variant(
        None,
        "the authors' network with 13 % error, paper §3.3: two locally connected layers (baseline)",
        10,
        network=partial(CifarNet, THIRTEEN_PERCENT),
    ),
    "cifar-11pct": Variant(
        None,
        "the authors' network with 11 % error, paper §3.3: with LRN, and wider (baseline)",
        10,
        network=partial(CifarNet, ELEVEN_PERCENT),
    ),
    "cifar-relu": Variant(
        None,
        "cifar-18pct without normalization, for the paper's figure 1 (baseline)",
        10,
        network=partial(CifarNet, FIGURE_1[0]),
    ),
    "cifar-tanh": Variant(
        None, "cifar-relu with tanh instead of ReLU (baseline)", 10, network=partial(CifarNet, FIGURE_1[1])
    ),
}
