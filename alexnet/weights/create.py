"""``create_model`` and ``list_models``: networks by name, with new or with trained weights."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any

import torch

from alexnet.core.errors import UserError, unknown
from alexnet.models import registry
from alexnet.models.classifier import Classifier
from alexnet.runtime.progress import make_reporter
from alexnet.weights.hub import is_hub_name
from alexnet.weights.load import check_exists, is_foreign_file, is_local_model, is_meant_as_path, load_model
from alexnet.weights.zoo import full_name, list_weights

UNTRAINED = "untrained:"


def create_model(
    name: str,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
    **overrides: Any,
) -> Classifier:
    """A network by name: new, with the weight initialization of its authors, or with trained weights.

    ``weights``: None, or ``"untrained:3"``, for a new network (of random seed 3); ``"imagenet"`` for the published
    weights of this variant, see ``alexnet list weights``; or a weights file or model folder. An existing path wins over
    a name. With trained weights, ``num_classes`` other than theirs replaces the last layer by a new one, and they
    decide everything else. ``weights_root``, ``progress``: see :func:`~alexnet.weights.load.load_model`.

    ``num_classes``, ``in_channels``, ``image_size`` (pixels): None means the values of the variant's authors (``d2l``:
    10 classes and 1 channel). ``seed``: random seed of new weights; None draws one from torch's global generator, so
    the weights depend on ``torch.manual_seed``. ``overrides``: fields of the architecture, e.g. ``dropout=0`` or
    ``norm_layer="batch"``. Returns a module in training mode: ``(N, in_channels, image_size, image_size)`` float →
    ``(N, num_classes)`` logits. Raises ``ValueError`` (a :class:`~alexnet.core.errors.UserError`) for an unknown name,
    for an ``image_size`` that is too small, and for weights of another network.
    """
    if isinstance(weights, str) and weights.startswith(UNTRAINED):
        if seed is not None:
            raise UserError(f"weights={weights!r} has a seed: leave out seed={seed}")
        seed, weights = _seed(weights), None
    if weights is None:
        return registry.create_model(
            name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, seed=seed, **overrides
        )
    registry.get_variant(name)
    if overrides:
        raise UserError(f"the weights decide the architecture: leave out {', '.join(overrides)}")
    network = _trained(name, weights, weights_root, progress)
    for field, wanted in (("in_channels", in_channels), ("image_size", image_size)):
        if wanted not in (None, found := getattr(network, field)):
            raise UserError(f"{field}={wanted}: the weights are for {found}; leave it out")
    if num_classes not in (None, network.num_classes):
        network.reset_classifier(num_classes, seed=int(torch.randint(2**62, ()).item()) if seed is None else seed)
    return network.train()


def list_models(pattern: str = "*", *, with_weights: bool = False) -> list[str]:
    """The names of all variants that match a shell pattern such as ``"cifar-*"``, in the order of the table.

    ``with_weights``: the names of trained weights instead, such as ``"torchvision/imagenet"``: each is a MODEL for
    ``load_model`` and for the commands. The pattern may then match the name or its variant.
    """
    if not with_weights:
        return registry.list_models(pattern)
    return [
        name
        for name, weights in list_weights().items()
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(weights.variant, pattern)
    ]


def _seed(weights: str) -> int:
    word = weights.removeprefix(UNTRAINED)
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise UserError(f"weights={weights!r}: give a whole number after the colon, as in untrained:3")
    return int(word)


def _trained(name: str, weights: Path | str, weights_root: Path | str | None, progress: bool | None) -> Classifier:
    """The network with trained weights. Raises ``UserError`` if it is not of the variant ``name``."""
    named = list_weights()
    meant = (f"{name}/{weights}", full_name(str(weights)))
    published = next((known for known in meant if known in named), None)
    reporter = make_reporter(progress)
    if not is_local_model(weights) and not is_hub_name(weights):
        if published is None and not os.path.exists(weights):  # noqa: PTH110 – never raises
            if is_meant_as_path(weights):
                check_exists(weights)
            known = [each.rpartition("/")[2] for each, row in named.items() if row.variant == name]
            if known:
                raise unknown("weights", str(weights), known)
            raise UserError(f"weights={str(weights)!r} is no path, and there are no trained weights of {name}")
        if published and (other := named[published].variant) != name:
            raise UserError(f"{published} are weights of {other}, not of {name}")
        weights = published or weights
    elif published:
        reporter.log(f"note: {weights} is a path here and is used; the weights of that name are not")
    stated = name if is_foreign_file(Path(weights)) else None
    network = load_model(weights, variant=stated, weights_root=weights_root, reporter=reporter)
    if network.variant != name:
        raise UserError(f"{weights} are weights of {network.variant}, not of {name}")
    return network
