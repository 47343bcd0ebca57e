"""A training that starts from the weights of another network: transfer learning (Yosinski et al. 2014, NIPS).

The network of the training gets the layers of the other network, from the first to the last that fits. Layers after
that one, and the last layer if the classes differ, are new. The pixels are normalized as for the other network, because
its first layer was trained on such numbers. Frozen layers are not changed by the training: neither their weights and
biases nor the running averages of their batch normalization.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.config import NO_INIT, Preprocessing, Recipe
from alexnet.core.errors import UserError, unknown
from alexnet.core.files import sha256_json
from alexnet.core.schema import to_json
from alexnet.core.tensors import digest_tensors
from alexnet.models.alexnet import architecture_of
from alexnet.models.bundle import load_model as load_bundle
from alexnet.models.bundle import save_model
from alexnet.models.classifier import Classifier
from alexnet.recipes.photos import for_weights
from alexnet.runtime.log import Reporter
from alexnet.runtime.run import Run
from alexnet.weights.hub import is_hub_name
from alexnet.weights.load import is_local_model, load_model
from alexnet.weights.zoo import is_weights_name


@dataclass(frozen=True)
class Transferred:
    """The layers of a network that came from another one, and those that are new, in forward order."""

    copied: tuple[str, ...]
    new: tuple[str, ...]


def absolute_model(model: Path | str) -> str:
    """A MODEL as ``train.init`` holds it: a path as an absolute path, a name as it is; "none" for none."""
    text = str(model)
    if text == NO_INIT or ((is_weights_name(text) or is_hub_name(text)) and not Path(text).exists()):
        return text
    return str(Path(text).expanduser().absolute())


@dataclass(frozen=True)
class Init:
    """The weights that a training starts from.

    ``network``: in evaluation mode on the CPU; None if there are none, and if the run has finished and the MODEL is
    gone. ``digest``: see :func:`weights_digest`, "" if there are none.
    """

    network: Classifier | None = None
    digest: str = ""

    def fit_recipe(self, recipe: Recipe, run: Run) -> Recipe:
        """The recipe for the network of these weights, see ``for_weights``."""
        if self.network is not None:
            return for_weights(recipe, self.network.variant, self.network.last_layer)
        if self.digest:
            begun = run.recipe
            return for_weights(recipe, begun.model.variant, next((rule.layer for rule in begun.optim.rules), ""))
        return recipe


def open_init(model: str, run: Run, weights_root: Path | str | None, reporter: Reporter) -> Init:
    """The weights of ``train.init``, also of the same MODEL that is gone since ``run`` began with it.

    An unfinished run has a copy of it, and of a finished one only the digest is needed. Raises ``UserError``.
    """
    if model == NO_INIT:
        return Init()
    gone = not (is_weights_name(model) or is_hub_name(model) or is_local_model(model))
    if gone and (run.folder / "run.json").is_file() and run.recipe.train.init == model:
        if run.finished:
            return Init(None, str(run.description.get("init", "")))
        if (run.init_folder / "model.json").is_file():
            network = load_bundle(run.init_folder)
            return Init(network, weights_digest(network))
    network = load_model(model, weights_root=weights_root, reporter=reporter)
    return Init(network, weights_digest(network))


def keep_init(init: Classifier, run: Run) -> None:
    """Write a copy of ``init`` into the run folder unless it is there, so that resuming needs nothing else.

    Raises ``OSError``.
    """
    try:
        if weights_digest(load_bundle(run.init_folder)) == weights_digest(init):
            return
    except UserError:
        pass  # there is no copy, or it is damaged
    save_model(init, run.init_folder)


def weights_digest(network: Classifier) -> str:
    """The sha256 of a network: of every tensor, its name, shape and dtype, and of what else predictions depend on."""
    architecture = architecture_of(network)
    tensors = network.state_dict() | ({} if network.mean_image is None else {"mean_image": network.mean_image})
    identity = {
        "variant": network.variant,
        "architecture": None if architecture is None else to_json(architecture),
        "classes": list(network.classes),
        "preprocessing": to_json(network.preprocessing),
        "tensors": digest_tensors(tensors),
    }
    return sha256_json(identity)


def layers_of(network: Classifier) -> dict[str, list[str]]:
    """Layer with parameters → names of its tensors in the state dict, in forward order."""
    tensors: dict[str, list[str]] = {}
    for name in network.state_dict():
        tensors.setdefault(name.rpartition(".")[0], []).append(name)
    return {name: tensors[name] for name, _ in network.named_children() if name in tensors}


def transfer_weights(network: Classifier, init: Classifier) -> Transferred:
    """Copy the layers of ``init`` that fit into ``network``, in place; see :func:`fitting_tensors` for which they are.

    Raises ``UserError`` if the first layer does not fit.
    """
    fitting = fitting_tensors(network, init)
    state = network.state_dict()
    with torch.no_grad():
        for tensors in fitting.values():
            for name, value in tensors.items():
                state[name].copy_(value)
    return _transferred(network, fitting)


def transferred_layers(network: Classifier, init: Classifier) -> Transferred:
    """Which layers of ``network`` come from ``init``. Raises ``UserError`` if the first layer does not fit."""
    return _transferred(network, fitting_tensors(network, init))


def _transferred(network: Classifier, fitting: Mapping[str, object]) -> Transferred:
    return Transferred(tuple(fitting), tuple(layer for layer in layers_of(network) if layer not in fitting))


def fitting_tensors(network: Classifier, init: Classifier) -> dict[str, dict[str, Tensor]]:
    """Layer → its tensors in ``init``, up to the first layer that has another shape in ``network``.

    A layer whose outputs belong to the classes fits if both networks have the same classes in the same order. If the
    numbers of input channels differ, the weights of the first layer are converted, see :func:`convert_channels`. Raises
    ``UserError`` if the first layer does not fit.
    """
    ours, theirs = network.state_dict(), init.state_dict()
    layers, of_init = layers_of(network), layers_of(init)
    first = next(iter(layers))
    fitting: dict[str, dict[str, Tensor]] = {}
    for layer, names in layers.items():
        if layer in network.class_layers and network.classes != init.classes:
            break
        if names != of_init.get(layer):
            break
        values = {name: theirs[name] for name in names}
        weight = f"{layer}.weight"
        if layer == first and network.in_channels != init.in_channels:
            values[weight] = convert_channels(values[weight], network.in_channels, init.preprocessing.std)
        values = {name: _as_convolution(value, ours[name]) for name, value in values.items()}
        if any(values[name].shape != ours[name].shape for name in names):
            break
        fitting[layer] = values
    if not fitting:
        shapes = [_shape(tensors.get(f"{first}.weight")) for tensors in (ours, theirs)]
        raise UserError(
            f"the weights do not fit: {first} of {network.variant} has weights of shape {shapes[0]}, {first} of the "
            f"given {init.variant} has shape {shapes[1]}; choose --set model.variant={init.variant}, other weights "
            "with --from, or --from none"
        )
    return fitting


def _as_convolution(weight: Tensor, like: Tensor) -> Tensor:
    """The weights of a linear layer as those of a convolution of equal meaning, if ``like`` is a convolution's.

    Its input is the flattened maps ``(C, H, W)``, so ``(units, C · H · W)`` becomes ``(units, C, H, W)`` (Long et al.
    2015, section 3.1).
    """
    linear = weight.ndim == 2 and like.ndim == 4 and weight.numel() == like.numel() and len(weight) == len(like)
    return weight.view(like.shape) if linear else weight


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))


def convert_channels(weight: Tensor, channels: int, std: Sequence[float]) -> Tensor:
    """The weights of a first convolution ``(filters, C, k, k)`` for images of ``channels`` channels.

    A grey image is a colour image of three equal channels x. Channel c has the input (x − mean_c)/std_c, so the weight
    for one channel normalized by the mean of the standard deviations is the sum over c of w_c · mean(std)/std_c. (The
    difference between the means of the channels is ignored.) For colour images, a grey filter gets a third in each
    channel. ``std``: of the channels of ``weight``, 0 … 255; empty for a normalization that divides by none.
    """
    if channels == 1:
        scale = weight.new_tensor([sum(std) / len(std) / value for value in std] if std else [1.0] * weight.shape[1])
        return (weight * scale[None, :, None, None]).sum(dim=1, keepdim=True)
    return (weight / channels).repeat(1, channels, 1, 1)


def transferred_preprocessing(preprocessing: Preprocessing, init: Classifier) -> Preprocessing:
    """``preprocessing`` with the pixel normalization of the weights ``init``.

    A mean image becomes its average in each channel, so that any crop of images of any size can be used. For images
    with another number of channels, means and standard deviations are averaged.
    """
    source = init.preprocessing
    mean, std = init.channel_normalization
    if len(mean) != preprocessing.channels:
        mean = (sum(mean) / len(mean),) * preprocessing.channels
        std = (sum(std) / len(std),) * preprocessing.channels
    kind = "channel" if init.mean_image is not None else source.pixel_normalization
    return dataclasses.replace(preprocessing, pixel_normalization=kind, mean=mean, std=std)


def started_from(model: str, copied: Sequence[str], new: Sequence[str], frozen: Sequence[str]) -> str:
    """Where the layers of a training come from, as one line."""
    layers = [(f"copied from {model}: ", copied), ("frozen: ", frozen), ("new: ", new)]
    return "; ".join(f"{words}{', '.join(names)}" for words, names in layers if names)


def frozen_layers(network: Classifier, names: Sequence[str]) -> tuple[str, ...]:
    """The layers that ``train.freeze`` names, in forward order, each with the normalization after it.

    ``names``: layers, ``conv2``, or ranges, ``conv1-conv3``. Raises ``UserError`` for an unknown layer, a range from a
    later to an earlier layer, and if no layer is left to train.
    """
    layers = list(layers_of(network))
    frozen: set[str] = set()
    for name in names:
        first, dash, last = name.partition("-")
        last = last if dash else first
        for end in (first, last):
            if end not in layers:
                raise unknown("layer in train.freeze", end, layers)
        if layers.index(first) > layers.index(last):
            raise UserError(f"train.freeze={name}: {first} comes after {last}, write {last}-{first}")
        frozen |= set(layers[layers.index(first) : layers.index(last) + 1])
    children = dict(network.named_children())
    for layer, following in itertools.pairwise(layers):
        if layer in frozen and isinstance(children[following], nn.BatchNorm2d):
            frozen.add(following)
    if frozen and len(frozen) == len(layers):
        raise UserError("train.freeze names every layer: leave at least one to train")
    return tuple(layer for layer in layers if layer in frozen)


def check_frozen(names: Sequence[str], network: Classifier, transferred: Transferred) -> None:
    """Raise ``UserError`` if ``train.freeze`` names a layer that is new, so that its weights are random."""
    if new := [layer for layer in frozen_layers(network, names) if layer in transferred.new]:
        raise UserError(
            f"train.freeze: {new[0]} cannot be frozen, because it is new and has random weights; layers that can be "
            f"frozen: {', '.join(transferred.copied)}"
        )


def freeze(network: nn.Module, layers: Sequence[str]) -> None:
    """Exclude layers from training: no gradient is computed for their parameters."""
    for layer in layers:
        network.get_submodule(layer).requires_grad_(False)


def use_frozen_averages(network: nn.Module, layers: Sequence[str]) -> None:
    """Let frozen batch normalizations use their running averages, without changing them."""
    for layer in layers:
        module = network.get_submodule(layer)
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
