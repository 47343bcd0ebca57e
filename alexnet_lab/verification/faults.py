"""Faults made on purpose in trained networks, and what ``alexnet verify`` says of each.

The *donor* is a network of the same recipe and another seed; some faults take layers from it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.analysis.preprocessing_trials import STRONG_DROPOUT
from alexnet.analysis.verify_report import VerifyReport
from alexnet.api import verify
from alexnet.core.files import read_json, write_json
from alexnet.models.alexnet import AlexNet
from alexnet.models.bundle import save_model
from alexnet.models.classifier import Classifier
from alexnet.runtime.device import resolve_device
from alexnet.weights.load import load_model
from alexnet_lab.results.records import circumstances
from alexnet_lab.verification.digits_2012 import DIGITS_2012, write_digits_2012

State = dict[str, Tensor]
Change = Callable[[Classifier, Classifier], Classifier]
NO_FAULT = "no fault"


@dataclass(frozen=True)
class MadeFault:
    """A fault to make. ``layer``: where (a layer, several, or "settings"); ``what``: in words; ``names``: of the fault
    in the report, one of which must be there; ``change``: (network, donor) → a network with the fault; ``images``:
    whether only images can show it.
    """

    layer: str
    what: str
    names: tuple[str, ...]
    change: Change
    images: bool = False

    @property
    def title(self) -> str:
        """Where and what."""
        return f"{self.layer}: {self.what}" + (", with images" if self.images else "")


def _with_weights(change: Callable[[State, State, Classifier], None]) -> Change:
    """A change of the state dict. The change gets (state dict, that of the donor, network)."""

    def changed(network: Classifier, donor: Classifier) -> Classifier:
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        change(state, dict(donor.state_dict()), network)
        other = deepcopy(network)
        other.load_state_dict(state)
        return other

    return changed


@_with_weights
def exchange_channels(state: State, donor: State, network: Classifier) -> None:
    """RGB and BGR."""
    state["conv1.weight"] = state["conv1.weight"].flip(1)


@_with_weights
def _permute_fc6(state: State, donor: State, network: Classifier) -> None:
    maps = len(state["conv5.weight"])
    weight = state["fc6.weight"]
    state["fc6.weight"] = weight.reshape(len(weight), maps, -1).transpose(1, 2).flatten(1)


@_with_weights
def _not_finite(state: State, donor: State, network: Classifier) -> None:
    state["conv3.weight"].view(-1)[7] = torch.nan


@_with_weights
def _dead_units(state: State, donor: State, network: Classifier) -> None:
    state["conv4.weight"][:3] = 0


@_with_weights
def _constant_bias(state: State, donor: State, network: Classifier) -> None:
    state["fc6.bias"].fill_(0.1)


@_with_weights
def _no_statistics(state: State, donor: State, network: Classifier) -> None:
    state["norm3.running_mean"].zero_()
    state["norm3.running_var"].fill_(1)


def _from_donor(*layers: str) -> Change:
    @_with_weights
    def change(state: State, donor: State, network: Classifier) -> None:
        for name in state:
            if name.split(".")[0] in layers:
                state[name] = donor[name].clone()

    return change


def _again(layer: str) -> Change:
    @_with_weights
    def change(state: State, donor: State, network: Classifier) -> None:
        fresh = deepcopy(network)
        fresh.init_layer(layer, seed=12345)
        state[f"{layer}.weight"] = fresh.state_dict()[f"{layer}.weight"]

    return change


def with_settings(network: Classifier, **changes: Any) -> Classifier:
    """The same weights in a network with other settings: fields of its architecture."""
    assert isinstance(network, AlexNet)
    other = AlexNet(
        replace(network.architecture, **changes), network.num_classes, network.in_channels, network.image_size
    )
    other.load_state_dict(network.state_dict())
    other.created_as, other.info = network.created_as, network.info
    return other.eval()


def _other_dropout(network: Classifier, donor: Classifier) -> Classifier:
    assert isinstance(network, AlexNet)
    return with_settings(
        network, dropout_scaling="test" if network.architecture.dropout_scaling == "train" else "train"
    )


def _other_alpha(network: Classifier, donor: Classifier) -> Classifier:
    assert isinstance(network, AlexNet)
    return with_settings(network, lrn_convention="mean" if network.architecture.lrn_convention == "sum" else "sum")


def _wrong_pixels(network: Classifier, donor: Classifier) -> Classifier:
    other = deepcopy(network)
    count = network.preprocessing.channels
    settings = replace(network.preprocessing, pixel_normalization="channel", mean=(0.0,) * count, std=(1.0,) * count)
    other.info = replace(network.info, preprocessing=settings, mean_image=None)
    return other


_FIRST_THREE = _from_donor("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
EXCHANGED = "RGB and BGR exchanged"
RESET = "statistics of batch normalization reset"
FAULTS = (
    MadeFault("conv3", "a weight is NaN", ("not-finite",), _not_finite),
    MadeFault("conv4", "three units have no weights", ("dead-units",), _dead_units),
    MadeFault(
        "conv4", "initialized again", ("initial-layer", "foreign-layer", "batch-norm-statistics"), _again("conv4")
    ),
    MadeFault("fc6", "initialized again", ("initial-layer", "foreign-layer"), _again("fc6")),
    MadeFault("fc7", "initialized again", ("initial-layer", "foreign-layer"), _again("fc7")),
    MadeFault("conv3", "from another seed", ("foreign-layer",), _from_donor("conv3", "norm3")),
    MadeFault("fc7", "from another seed", ("foreign-layer",), _from_donor("fc7")),
    MadeFault("conv1 to conv3", "from another seed", ("foreign-layer",), _FIRST_THREE),
    MadeFault("fc6", "inputs in the order HWC", ("fc6-order",), _permute_fc6),
    MadeFault("fc6", "all biases 0.1", ("initial-bias",), _constant_bias),
    MadeFault("norm3", RESET, ("batch-norm-statistics",), _no_statistics),
    MadeFault("conv1", EXCHANGED, ("channel-order",), exchange_channels),
    MadeFault("conv1", EXCHANGED, ("channel-order",), exchange_channels, images=True),
    MadeFault(
        "settings", "pixels from 0 to 255 without a mean", ("pixel-normalization", "preprocessing"), _wrong_pixels, True
    ),
    MadeFault("settings", "dropout scaled at the other place", ("dropout-scaling",), _other_dropout, True),
    MadeFault("settings", "α multiplies the other term", ("lrn-alpha",), _other_alpha, True),
)


def applies(fault: MadeFault, network: Classifier, *, images: bool) -> bool:
    """Whether a network has what the fault changes. ``images``: whether there are labelled images for it."""
    if fault.images and not images:
        return False
    if fault.what == RESET:
        return isinstance(getattr(network, "norm3", None), nn.BatchNorm2d)
    if fault.what == EXCHANGED:
        return network.in_channels == 3
    if fault.change is _permute_fc6:
        return network.fc6.in_features > len(network.conv5.weight)  # type: ignore[operator,union-attr,arg-type]
    if not isinstance(network, AlexNet):
        return not fault.images
    if fault.change is _other_dropout:
        return network.architecture.dropout >= STRONG_DROPOUT
    if fault.change is _other_alpha:
        return any("lrn" in layer.ops for layer in network.architecture.convs)
    return True


def with_other_units(network: Classifier, seed: int = 0) -> Classifier:
    """The same function with the hidden units of each layer in another random order; LRN changes it a little.

    Units stay in their group. The layers fit together, and none of them fits to a layer of ``network``: it stands for a
    network of another seed.
    """
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draws = torch.Generator().manual_seed(seed)
    layers = {name: module for name, module in network.named_children() if isinstance(module, nn.Conv2d | nn.Linear)}
    for (name, layer), (following, next_layer) in itertools.pairwise(layers.items()):
        weight, after = state[f"{name}.weight"], state[f"{following}.weight"]
        next_groups = getattr(next_layer, "groups", 1)
        parts = max(getattr(layer, "groups", 1), next_groups)
        size = len(weight) // parts
        order = torch.cat([part * size + torch.randperm(size, generator=draws) for part in range(parts)])
        for key in state:
            if key.split(".")[0] in (name, name.replace("conv", "norm")) and state[key].ndim:
                state[key] = state[key][order]
        inputs = order.chunk(next_groups)  # of each group of the following layer
        pieces = [
            block.reshape(len(block), len(own), -1)[:, own - own.min()]
            for block, own in zip(after.chunk(next_groups), inputs, strict=True)
        ]
        state[f"{following}.weight"] = torch.cat(pieces).reshape(after.shape)
    other = deepcopy(network)
    other.load_state_dict(state)
    return other


def verify_network(network: Classifier, folder: Path, data: str | None = None, **roots: Any) -> VerifyReport:
    """The report for a network that is saved as a model folder, as somebody else's program would."""
    save_model(network, folder)
    return verify(folder, data=data, progress=False, **roots)


@dataclass(frozen=True)
class Column:
    """A trained network to make faults in.

    ``name``: for people. ``model``: its run or model folder; ``donor``: that of another seed, None for the same network
    with its units in another order. ``data``: labelled images, None without those faults that only images show.
    """

    name: str
    model: Path
    donor: Path | None = None
    data: str | None = None


def measure_column(column: Column, faults: Sequence[MadeFault] = FAULTS, **roots: Any) -> dict[str, Any]:
    """Make each fault and verify it. ``faults`` of the result: title → what was expected and found, None if it does not
    apply.
    """
    network = load_model(column.model)
    donor = load_model(column.donor) if column.donor else with_other_units(network)
    rows: dict[str, Any] = {}
    for fault in (None, *faults):
        title = fault.title if fault else NO_FAULT
        if fault and not applies(fault, network, images=column.data is not None):
            rows[title] = None
            continue
        changed = fault.change(network, donor) if fault else network
        data = column.data if fault is None or fault.images else None
        with tempfile.TemporaryDirectory() as folder:
            report = verify_network(changed, Path(folder) / "model", data, **roots)
        rows[title] = {"expected": list(fault.names) if fault else [], "found": list(report.faults)}
    return {
        "name": column.name,
        "donor": "another seed" if column.donor else "the same network, its units in another order",
        "images": column.data is not None,
        "faults": rows,
    }


def measure_faults(columns: Sequence[Column], folder: Path, **roots: Any) -> Iterator[dict[str, Any]]:
    """:func:`measure_column` for each, and for the network of ``digits_2012``.

    Each is written to a file in ``folder`` and not measured again.
    """
    place = circumstances(resolve_device("cpu", "fp32"))
    for column in (*columns, None):
        name = column.name if column else DIGITS_2012
        file = folder / f"{name.replace(' ', '-')}.json"
        if not file.exists():
            with tempfile.TemporaryDirectory() as made:
                column = column or Column(name, *write_digits_2012(Path(made)))
                write_json(file, {**measure_column(column, **roots), **place})
        yield read_json(file)


def in_words(row: Mapping[str, Any] | None) -> str:
    """A cell of the table: what the report said of a fault."""
    if row is None:
        return "–"
    if not row["expected"]:
        return f"suspicious: {', '.join(row['found'])}" if row["found"] else "consistent"
    if set(row["found"]) & set(row["expected"]):
        return "found"
    return f"found as {', '.join(sorted(row['found']))}" if row["found"] else "cannot be known"
