"""Convert weights from and to ``torchvision.models.alexnet``.

The ``torchvision`` variant is the same network, so only the keys of the state dict change. In torchvision the keys are
the positions of the layers in two ``nn.Sequential`` (torchvision/models/alexnet.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alexnet.core.errors import UserError

# our name, torchvision's name, shape of the weight (None: depends on the number of channels or classes)
LAYERS: tuple[tuple[str, str, tuple[int | None, ...]], ...] = (
    ("conv1", "features.0", (64, None, 11, 11)),
    ("conv2", "features.3", (192, 64, 5, 5)),
    ("conv3", "features.6", (384, 192, 3, 3)),
    ("conv4", "features.8", (256, 384, 3, 3)),
    ("conv5", "features.10", (256, 256, 3, 3)),
    ("fc6", "classifier.1", (4096, 9216)),
    ("fc7", "classifier.4", (4096, 4096)),
    ("fc8", "classifier.6", (None, 4096)),
)


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``torchvision`` variant's state dict under torchvision's keys; the tensors are shared, not copied.

    Raises ``UserError`` listing every key that is missing, unexpected or of another shape.
    """
    return _rename(state, {ours: theirs for ours, theirs, _ in LAYERS}, "the torchvision variant")


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ``torchvision.models.alexnet`` under our keys; the tensors are shared, not copied.

    Raises ``UserError`` as :func:`to_torchvision` does.
    """
    return _rename(state, {theirs: ours for ours, theirs, _ in LAYERS}, "torchvision.models.alexnet")


def _rename(state: Mapping[str, Tensor], names: Mapping[str, str], network: str) -> dict[str, Tensor]:
    keys = {f"{old}.{part}": f"{new}.{part}" for old, new in names.items() for part in ("weight", "bias")}
    problems = [f"missing: {key}" for key in keys if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in keys]
    problems += _wrong_shapes(state, list(names))
    if problems:
        raise UserError(f"these are not the weights of {network}: {len(problems)} differences", problems)
    return {new: state[old] for old, new in keys.items()}


def _wrong_shapes(state: Mapping[str, Tensor], layers: list[str]) -> list[str]:
    """A line for each tensor of another shape; a bias must have one number for each of its weight's outputs."""
    problems = []
    for layer, (_, _, wanted) in zip(layers, LAYERS, strict=True):
        weight, bias = state.get(f"{layer}.weight"), state.get(f"{layer}.bias")
        outputs = wanted[0]
        if weight is not None:
            shape = tuple(weight.shape)
            outputs = outputs or next(iter(shape), None)
            if len(shape) != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, shape, strict=True)):
                problems.append(f"{layer}.weight: {shape}, expected {_spell(wanted)}")
        if bias is not None and (bias.dim() != 1 or outputs not in (None, len(bias))):
            problems.append(f"{layer}.bias: {tuple(bias.shape)}, expected {_spell((outputs,))}")
    return problems


def _spell(shape: tuple[int | None, ...]) -> str:
    return str(shape).replace("None", "any")
