"""What each layer makes of images: its outputs by name, on the way through a network that is not changed for it.

Names are Caffe's, which the field has kept: ``conv1``, ``relu1``, ``norm1``, ``pool1``, … ``fc6``, ``relu6``, ``fc7``,
``relu7``, ``fc8``; a network of other units has ``tanh1`` or ``sigmoid1``. Modules tell by hooks, and activations,
which are functions, by a mode of torch's that sees every function call; what is kept is a copy, so that a layer which
works in place cannot disturb it.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alexnet.core.errors import unknown
from alexnet.models.alexnet import Classifier
from alexnet.models.summary import KINDS

Visit = Callable[[str, Tensor], Tensor]
"""Given a layer's name and output, what the next layer is to get."""

ACTIVATIONS: Mapping[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu",
    torch.tanh: "tanh", torch.tanh_: "tanh", torch.sigmoid: "sigmoid", torch.sigmoid_: "sigmoid",
}  # fmt: skip


@contextlib.contextmanager
def visiting(network: Classifier, visit: Visit) -> Iterator[None]:
    """A context in which every layer's output goes through ``visit``, in the order of the layers."""
    walk = _Walk(visit)
    kinds = tuple(KINDS)
    modules: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, kinds)
    }

    here = threading.get_ident()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if threading.get_ident() != here:  # another thread's images on the same network
            return output
        return walk.module(modules[module], output)

    handles = [module.register_forward_hook(note) for module in modules]
    try:
        with walk:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Walk(TorchFunctionMode):
    """Names what passes by: numbered layers by their own names, the others with the number of the last one."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit, self._number = visit, ""

    def module(self, name: str, output: Tensor) -> Tensor:
        """A module's output."""
        if digits := re.search(r"\d+$", name):
            self._number = digits[0]
        return self._visit(name if digits else name + self._number, output)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every function of torch's: activations tell, all others do their work."""
        output = function(*args, **(kwargs or {}))
        if (name := ACTIVATIONS.get(function)) and self._number:
            return self._visit(name + self._number, output)
        return output


def layer_shapes(network: Classifier) -> dict[str, tuple[int, ...]]:
    """Layer → the shape of its output for one image, ``(maps, H, W)`` or ``(units,)``, in order.

    The network is run once on torch's "meta" device, where tensors have no numbers.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Tensor) -> Tensor:
        shapes[name] = tuple(output.shape[1:])
        return output

    state = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    kind = next(network.parameters()).dtype
    # Two images, because batch norm in training mode may refuse one.
    images = torch.empty(2, network.in_channels, network.image_size, network.image_size, dtype=kind, device="meta")
    with torch.no_grad(), visiting(network, note):
        torch.func.functional_call(network, state, images)
    return shapes


def layer_outputs(network: Classifier, images: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Layer → its output for ``images`` ``(N, C, S, S)``: ``(N, maps, H, W)`` or ``(N, units)``, in order.

    ``names``: the layers wanted, all if None. Gradients flow through them. Raises ``UserError`` for an unknown one.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        if names is None or name in names:
            outputs[name] = output.clone()  # what comes next may work in place
            return outputs[name] if torch.is_grad_enabled() else output
        return output

    with visiting(network, keep):
        network(images)
    for name in names or ():
        if name not in outputs:
            raise unknown("layer", name, layer_shapes(network))
    return outputs


class WithTap(nn.Module):
    """A network in which one layer's output goes through a module, ``tap``, for tools that hook modules.

    The same logits for the same images. Raises ``UserError`` for a layer that the network does not have.
    """

    def __init__(self, network: Classifier, name: str) -> None:
        super().__init__()
        if name not in (known := layer_shapes(network)):
            raise unknown("layer", name, known)
        self.network, self.name, self.tap = network, name, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, C, S, S)``."""
        with visiting(self.network, self._through):
            logits: Tensor = self.network(images)
        return logits

    def _through(self, name: str, output: Tensor) -> Tensor:
        if name != self.name:
            return output
        tapped: Tensor = self.tap(output.clone())  # what comes next may work in place
        return tapped


def last_hidden_layer(network: Classifier) -> str:
    """The layer that the last linear one reads: ``relu7`` of an AlexNet, the paper's 4096-dimensional features."""
    return list(layer_shapes(network))[-2]


def last_maps(network: Classifier) -> str:
    """The last layer of maps that is no pool: ``relu5`` of an AlexNet, where Grad-CAM looks."""
    return next(
        name
        for name, shape in reversed(layer_shapes(network).items())
        if len(shape) == 3 and not name.startswith(("pool", "adapt"))
    )
