"""The base class of every network of this package: an image classifier whose layers are named modules.

A :class:`Classifier` holds its layers as children (``conv1``, ``relu1``, ``norm1``, ``pool1``, … ``fc8``, the names of
the paper and of Caffe), in the order of its forward pass: in evaluation mode, applying ``named_children()`` one after
another *is* the forward pass. Activations, pools, ``flatten`` and dropout have no parameters, so a state dict has the
keys ``conv1 … fc8`` only. Dropout masks are inputs of the forward pass, so that a training step is a function of its
inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from alexnet.config import MAX_SIDE, TASKS, Head, Preprocessing, Task
from alexnet.core.errors import UserError, unknown
from alexnet.models.layers import AdaptiveAvgPool, Dropout, Masks

MAX_CLASSES, MAX_CHANNELS = 10_000_000, 4096
FLATTEN = "flatten"
POOLS = (nn.MaxPool2d, nn.AvgPool2d, AdaptiveAvgPool)


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """Information that belongs to a network besides its weights.

    ``variant``: the name that the network was created with. ``classes``: the class names in the data, in the order of
    the outputs. ``labels``: class names to show to people, in the same order. ``preprocessing``: how an image becomes
    the network's input. ``mean_image``: ``(H, W, C)`` fp32, 0 … 255, if the pixel normalization subtracts one, else
    None. ``trained_on``: ``(n,)`` int64, content hashes of the training and validation images; they are never counted
    as test images.
    """

    variant: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    mean_image: Tensor | None = None
    trained_on: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64, device="cpu"))

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelInfo:
        """Return the object itself: it is immutable, so copies of a network share it."""
        return self


def mask_at(masks: Masks | None, site: str) -> Tensor | None:
    """The dropout mask of a site, or None if the forward pass received no masks."""
    return None if masks is None else masks[site]


torch.fx.wrap("mask_at")


class Classifier(nn.Module):
    """``(N, in_channels, image_size, image_size)`` float → ``(N, num_classes)`` logits.

    A subclass adds its layers as children in forward order, with ``flatten`` between feature maps and units. The
    networks of other tasks have another ``head``; their forward pass says what they return.
    """

    head: Head = "classifier"

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"a network needs at least one class and one channel, not {num_classes} and {in_channels}")
        if num_classes > MAX_CLASSES or in_channels > MAX_CHANNELS or image_size > MAX_SIDE:
            raise ValueError(
                f"a network takes at most {MAX_CLASSES:,} classes, {MAX_CHANNELS:,} channels and images of "
                f"{MAX_SIDE:,} pixels, not {num_classes}, {in_channels} and {image_size}"
            )
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.created_as = ""  # the variant's name, until `info` is set
        self._info: ModelInfo | None = None

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits ``(N, num_classes)``.

        ``masks``: dropout masks, layer → ``(N, units)`` bool (see ``dropout_sites``). In training mode without masks,
        dropout draws them from torch's global generator, as ``nn.Dropout`` does.
        """
        return self.forward_head(self.forward_features(x), masks=masks)

    def forward_features(self, x: Tensor) -> Tensor:
        """The feature maps that are the input of the classifier head: ``(N, 256, 6, 6)`` for the paper's network."""
        for name, layer in self.named_children():
            if name == FLATTEN:
                break
            x = layer(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False, masks: Masks | None = None) -> Tensor:
        """Logits ``(N, num_classes)`` from the output of :meth:`forward_features`.

        ``pre_logits``: return the input of the last layer, ``(N, units)``, instead. ``masks``: see :meth:`forward`.
        """
        in_head = False
        for name, layer in self.named_children():
            in_head = in_head or name == FLATTEN
            if not in_head or (pre_logits and name == self.last_layer):
                continue
            x = layer(x, mask_at(masks, layer.site)) if isinstance(layer, Dropout) else layer(x)
        return x

    @property
    def last_layer(self) -> str:
        """The name of the linear layer that gives the logits."""
        return next(reversed(self._modules))

    @property
    def class_layers(self) -> tuple[str, ...]:
        """The layers whose outputs belong to the classes."""
        return (self.last_layer,)

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer that gives the logits."""
        layer = self.get_submodule(self.last_layer)
        assert isinstance(layer, nn.Linear)
        return layer

    def reset_classifier(self, num_classes: int, *, seed: int = 0) -> None:
        """Replace the last linear layer by a new one for ``num_classes`` classes, on the same device and dtype.

        Its weights are drawn with the random seed ``seed``, as in :meth:`init_weights`. The class names become "0",
        "1", … Raises ``UserError`` if ``num_classes`` is below 1, and for a network for another task.
        """
        if self.head != "classifier":
            raise UserError(f"this network is for {self.task}: create a new one with the number of classes")
        if num_classes < 1:
            raise UserError(f"num_classes = {num_classes}: a classifier needs at least 1 class")
        old, name = self.classifier, self.last_layer
        layer = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.add_module(name, layer)
        self.num_classes = num_classes
        self.init_layer(name, seed)
        names = tuple(map(str, range(num_classes)))
        self.info = replace(self.info, classes=names, labels=names)

    @property
    def dropout_sites(self) -> dict[str, tuple[int, float]]:
        """Layer with dropout → (units, dropout probability): the input of :func:`~alexnet.models.layers.draw_masks`."""
        return {}

    def init_weights(self, seed: int) -> None:
        """Initialize parameters and buffers in place; each tensor depends on (seed, its name) only."""
        for name, module in self.named_children():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif any(True for _ in module.parameters(recurse=False)):
                self.init_layer(name, seed)

    def init_layer(self, name: str, seed: int) -> None:
        """Initialize the weights and biases of one layer in place, by the network's own rule."""
        raise NotImplementedError

    @property
    def info(self) -> ModelInfo:
        """What belongs to the network besides its weights; until it is set, :func:`default_info`."""
        if self._info is None:
            return default_info(self.created_as, self.num_classes, self.in_channels, self.image_size)
        return self._info

    @info.setter
    def info(self, info: ModelInfo) -> None:
        self._info = info

    @property
    def task(self) -> Task:
        """What the network is for."""
        return TASKS[self.head]

    @property
    def variant(self) -> str:
        """The name that the network was created with."""
        return self.info.variant

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the data, in the order of the outputs."""
        return self.info.classes

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names to show to people, in the order of the outputs."""
        return self.info.labels

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes this network's input."""
        return self.info.preprocessing

    @property
    def mean_image(self) -> Tensor | None:
        """``(H, W, C)`` fp32, 0 … 255; None if the pixel normalization subtracts no mean image."""
        return self.info.mean_image

    @property
    def channel_normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and the standard deviation of each channel, 0 … 255; of a mean image, its average and 1."""
        if self.mean_image is None:
            return self.preprocessing.mean, self.preprocessing.std
        mean = tuple(self.mean_image.double().mean(dim=(0, 1)).tolist())
        return mean, (1.0,) * len(mean)

    @property
    def trained_on(self) -> Tensor:
        """``(n,)`` int64: content hashes of the training and validation images."""
        return self.info.trained_on

    def layer_outputs(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Layer → its output for images ``x``: ``(N, C, H, W)`` or ``(N, units)``, in forward order.

        ``names``: names of modules (``conv1``, ``relu5``, ``fc7``, …); None means all names in :meth:`layer_shapes`.
        Gradients flow through the outputs. Several threads may use one network. Raises ``UserError`` for an unknown
        name.
        """
        wanted = list(self.layer_shapes()) if names is None else list(names)
        known = [name for name, _ in self.named_children()]
        for name in wanted:
            if name not in known:
                raise unknown("layer", name, known)
        outputs: dict[str, Tensor] = {}
        with watch_layers(self, lambda name, module, output: outputs.__setitem__(name, output), wanted):
            self(x)
        return outputs

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Layer → the shape of its output for one image, ``(C, H, W)`` or ``(units,)``, in forward order.

        ``flatten`` and dropout are left out. The network runs once on torch's "meta" device, which computes no values.
        """
        shapes: dict[str, tuple[int, ...]] = {}

        def record(name: str, module: nn.Module, output: Tensor) -> None:
            if not isinstance(module, Dropout | nn.Flatten):
                shapes[name] = tuple(output.shape[1:])

        run_on_meta(self, record)
        return shapes

    def last_hidden_layer(self) -> str:
        """The layer before the last linear layer: ``relu7`` of an AlexNet, the paper's 4096 features (§6.1)."""
        return list(self.layer_shapes())[-2]

    def last_conv_output(self) -> str:
        """The last layer before ``flatten`` that is not a pool: ``relu5`` of an AlexNet. Grad-CAM uses its output."""
        found = ""
        for name, layer in self.named_children():
            if name == FLATTEN:
                break
            if not isinstance(layer, POOLS):
                found = name
        return found


def default_info(variant: str, num_classes: int, in_channels: int, image_size: int) -> ModelInfo:
    """The information of a new network: classes "0", "1", …; pixels scaled to 0 … 1, images at the network's size."""
    names = tuple(map(str, range(num_classes)))
    channels = 1 if in_channels == 1 else 3
    zeros, scales = (0.0,) * channels, (255.0,) * channels
    return ModelInfo(
        variant, names, names,
        Preprocessing(1 if in_channels == 1 else 3, image_size, image_size, image_size, "unit", zeros, scales),
    )  # fmt: skip


Record = Callable[[str, nn.Module, Tensor], None]


@contextmanager
def watch_layers(network: nn.Module, record: Record, names: Collection[str] | None = None) -> Iterator[None]:
    """A context in which ``record(name, module, output)`` is called after each child of ``network`` that runs.

    ``names``: only these children. Calls from other threads that use the same network are not recorded.
    """
    thread = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def call(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == thread:
                record(name, module, output)

        return call

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in network.named_children()
        if names is None or name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """A context in which a network is in evaluation mode; afterwards it is in the mode in which it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def run_on_meta(network: Classifier, record: Record) -> None:
    """Run the network once on torch's "meta" device, where tensors have shapes but no values; see `watch_layers`.

    The network itself does not change. The batch has two images, because batch normalization in training mode can fail
    with one.
    """
    state = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    dtype = next((p.dtype for p in network.parameters() if p.dtype.is_floating_point), torch.float32)
    side = network.image_size
    images = torch.empty(2, network.in_channels, side, side, dtype=dtype, device="meta")
    with torch.no_grad(), watch_layers(network, record):
        torch.func.functional_call(network, state, images)
