"""A table of checks: which PyTorch features work with the reference networks.

The features are compilation, export, per-image gradients and second derivatives. Each check takes a narrow network of a
variant and returns None if the feature works, else a short reason. Tests run the whole table, and the documentation
shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from alexnet.models.classifier import Classifier
from alexnet.models.registry import create_model, get_architecture, get_variant

# Image side in pixels; the other AlexNets use 80, the CIFAR-10 networks their own size.
SMALLEST = {"small": 28, "lenet5": 28}


@dataclass(frozen=True)
class Capability:
    """One row of the table: the name of a PyTorch feature, and its check."""

    name: str
    check: Callable[[Classifier], str | None]


def narrow_network(variant: str) -> Classifier:
    """A network with the structure of a variant, but few filters and units and small images, so that it runs fast."""
    row = get_variant(variant)
    architecture = get_architecture(variant)
    side = SMALLEST.get(variant, None if architecture is None else 80)
    if architecture is None:
        return create_model(variant, num_classes=5, image_size=side, seed=0)
    hidden = tuple(replace(layer, units=16) for layer in architecture.hidden)
    return create_model(
        variant, num_classes=5, in_channels=row.in_channels, image_size=side, seed=0, width=0.1, hidden=hidden
    )


def _images(network: Classifier, count: int = 2) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(count, network.in_channels, network.image_size, network.image_size, generator=draws)


def _compiles(network: Classifier) -> str | None:
    network = network.eval()
    x = _images(network)
    try:
        found = torch.compile(network, fullgraph=True, backend="aot_eager")(x)
    finally:
        torch._dynamo.reset()
    return _apart(found, network(x))


def _exports(network: Classifier) -> str | None:
    network = network.eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network, (_images(network, 3),), dynamic_shapes={"x": {0: batch}})
    x = _images(network, 7)
    return _apart(program.module()(x), network(x))


def _per_image_gradients(network: Classifier, training: bool) -> str | None:
    network = network.train(training)
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    buffers = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, (weights, buffers), image[None])
        return logits.square().sum()

    found = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, _images(network))
    wrong = [name for name, value in found.items() if not bool(value.isfinite().all())]
    return f"not finite: {wrong[0]}" if wrong else None


def _evaluation_gradients(network: Classifier) -> str | None:
    return _per_image_gradients(network, training=False)


def _training_gradients(network: Classifier) -> str | None:
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return None  # in training mode batch normalization uses the whole batch: per-image gradients do not exist
    return _per_image_gradients(network, training=True)


def _double_backward(network: Classifier) -> str | None:
    network = network.eval().double()
    x = _images(network).double().requires_grad_(True)
    (first,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    second = torch.autograd.grad(first.square().sum(), [x, *weights], allow_unused=True)
    missing = second[0] is None or not bool(second[0].isfinite().all())
    return "no second derivative" if missing else None


def _apart(found: Tensor, expected: Tensor) -> str | None:
    distance = float((found - expected).abs().max())
    return None if distance <= 1e-4 * max(1.0, float(expected.abs().max())) else f"outputs differ by {distance:.1e}"


CAPABILITIES: tuple[Capability, ...] = (
    Capability("torch.compile(fullgraph=True)", _compiles),
    Capability("torch.export, dynamic batch", _exports),
    Capability("vmap(grad), evaluation mode", _evaluation_gradients),
    Capability("vmap(grad), training mode", _training_gradients),
    Capability("double backward", _double_backward),
)
