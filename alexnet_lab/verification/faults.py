"""Faults made on purpose in a trained network: what ``alexnet verify`` says of them.

The other network of a pair was trained from another seed; some faults take layers from it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet.analysis.verify import VerifyReport, verify_weights
from alexnet.models.bundle import save_model
from alexnet.models.classifier import Classifier
from alexnet.report.tables import markdown_table
from alexnet.weights.load import load_model

State = dict[str, Tensor]


def _exchange_channels(state: State, donor: State, network: Classifier) -> None:
    state["conv1.weight"] = state["conv1.weight"].flip(1)


def _permute_fc6(state: State, donor: State, network: Classifier) -> None:
    maps = len(state["conv5.weight"])
    weight = state["fc6.weight"]
    state["fc6.weight"] = weight.reshape(len(weight), maps, -1).transpose(1, 2).flatten(1)


def _not_finite(state: State, donor: State, network: Classifier) -> None:
    state["conv3.weight"].view(-1)[7] = torch.nan


def _dead_units(state: State, donor: State, network: Classifier) -> None:
    state["conv4.weight"][:3] = 0


def _constant_bias(state: State, donor: State, network: Classifier) -> None:
    state["fc6.bias"].fill_(0.1)


def _no_statistics(state: State, donor: State, network: Classifier) -> None:
    state["norm3.running_mean"].zero_()
    state["norm3.running_var"].fill_(1)


def _from_donor(*layers: str) -> Callable[[State, State, Classifier], None]:
    def change(state: State, donor: State, network: Classifier) -> None:
        for name in state:
            if name.split(".")[0] in layers:
                state[name] = donor[name].clone()

    return change


def _again(layer: str) -> Callable[[State, State, Classifier], None]:
    def change(state: State, donor: State, network: Classifier) -> None:
        fresh = deepcopy(network)
        fresh.init_layer(layer, seed=12345)
        state[f"{layer}.weight"] = fresh.state_dict()[f"{layer}.weight"]

    return change


FAULTS: Mapping[str, tuple[str, tuple[str, ...], Callable[[State, State, Classifier], None]]] = {
    "a weight is NaN": ("conv3", ("not-finite",), _not_finite),
    "three units have no weights": ("conv4", ("dead-units",), _dead_units),
    "initialized again": ("conv4", ("initial-layer", "foreign-layer", "batch-norm-statistics"), _again("conv4")),
    "initialized again ": ("fc6", ("initial-layer", "foreign-layer"), _again("fc6")),
    "initialized again  ": ("fc7", ("initial-layer", "foreign-layer"), _again("fc7")),
    "from another seed": ("conv3", ("foreign-layer",), _from_donor("conv3", "norm3")),
    "from another seed ": ("fc7", ("foreign-layer",), _from_donor("fc7")),
    "from another seed  ": (
        "conv1 to conv3",
        ("foreign-layer",),
        _from_donor("conv1", "norm1", "conv2", "norm2", "conv3", "norm3"),
    ),
    "inputs in the order HWC": ("fc6", ("fc6-order",), _permute_fc6),
    "all biases 0.1": ("fc6", ("initial-bias",), _constant_bias),
    "statistics of batch normalization reset": ("norm3", ("batch-norm-statistics",), _no_statistics),
    "RGB and BGR exchanged": ("conv1", ("channel-order",), _exchange_channels),
}
"""What was done → the layer, the names of the fault in the report, the change."""


def with_fault(network: Classifier, donor: Classifier, fault: str) -> State:
    """The state dict of a network with a fault. ``donor``: a network of another seed."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    FAULTS[fault][2](state, dict(donor.state_dict()), network)
    return state


def with_other_units(network: Classifier, seed: int = 0) -> Classifier:
    """The same function with the hidden units of each layer in another random order; for layers without groups.

    Its layers fit together, and none of them fits to a layer of ``network``: it stands for a network of another seed.
    """
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    draws = torch.Generator().manual_seed(seed)
    layers = [name for name, module in network.named_children() if isinstance(module, nn.Conv2d | nn.Linear)]
    for name, following in itertools.pairwise(layers):
        weight, after = state[f"{name}.weight"], state[f"{following}.weight"]
        order = torch.randperm(len(weight), generator=draws)
        for key in state:
            if key.split(".")[0] in (name, name.replace("conv", "norm")) and state[key].ndim:
                state[key] = state[key][order]
        apart = after.reshape(len(after), len(weight), -1)[:, order]
        state[f"{following}.weight"] = apart.reshape(after.shape)
    other = deepcopy(network)
    other.load_state_dict(state)
    return other


def verify_state(network: Classifier, state: State, folder: Path) -> VerifyReport:
    """The report for a network with other weights, saved as a model folder as somebody else's program would."""
    changed = deepcopy(network)
    changed.load_state_dict(state)
    save_model(changed, folder)
    return verify_weights(folder)


def applies(fault: str, network: Classifier) -> bool:
    """Whether a network has what the fault changes."""
    names = dict(network.named_modules())
    if fault == "statistics of batch normalization reset":
        return "norm3" in names and hasattr(names["norm3"], "running_mean")
    if fault == "RGB and BGR exchanged":
        return network.in_channels == 3
    if fault == "inputs in the order HWC":
        return network.fc6.in_features > len(network.conv5.weight)  # type: ignore[operator,union-attr,arg-type]
    return True


def sensitivity(pairs: Mapping[str, tuple[Path, Path]]) -> str:
    """The table fault × network in Markdown. ``pairs``: name → a run and one of another seed."""
    rows = []
    for fault, (layer, expected, _) in FAULTS.items():
        cells = []
        for one, other in pairs.values():
            network, donor = load_model(one), load_model(other)
            if not applies(fault, network):
                cells.append("–")
                continue
            with tempfile.TemporaryDirectory() as folder:
                report = verify_state(network, with_fault(network, donor, fault), Path(folder) / "model")
            found = set(report.faults) & set(expected)
            other_faults = set(report.faults) - set(expected)
            missed = f"found as {', '.join(sorted(other_faults))}" if other_faults else "cannot be known"
            cells.append("found" if found else missed)
        rows.append((f"{layer}: {fault.strip()}", *cells))
    healthy = [verify_weights(one) for one, _ in pairs.values()]
    rows.append(("no fault", *(report.summary.partition(":")[0] for report in healthy)))
    return markdown_table(("fault", *pairs), rows)
