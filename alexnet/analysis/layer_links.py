"""How the layers of one network fit together: effects of training on two neighbouring layers, or within one.

* Neighbouring layers. Gradient descent couples the outputs of a layer with the inputs of the next: units with large
  incoming weights have large outgoing ones (S. S. Du, W. Hu and J. D. Lee, "Algorithmic regularization in learning deep
  homogeneous models: layers are automatically balanced", NeurIPS 2018), and units whose incoming weights are alike have
  outgoing weights that are alike or opposite. Both are compared with the same layers after random permutations of the
  units between them.
* Batch normalization stores the mean of each unit's input, roughly the sum of its weights times the mean of the layer
  before. Where the stored and the computed means do not agree, the statistics are not of these weights. (They do
  not show whether the layer *before* is right: after a permutation of its units the agreement is nearly as good.)
* The inputs of fc6 are pixels of feature maps: weights of neighbouring pixels of one map are alike.

All functions take weights in PyTorch's layouts, on the CPU, finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_UNITS = 512  # units that are compared; a wider layer is sampled
PERMUTATIONS = 30
TINY = 1e-6  # of the median norm: a unit with less takes no part
Order = str


@dataclass(frozen=True)
class BatchNorm:
    """The parameters of a batch normalization, each ``(C,)``; ``eps`` is added to the variance."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    eps: float = 1e-5


@dataclass(frozen=True)
class Part:
    """A layer and the batch normalization after it. ``before_activation``: whether that comes before the ReLU.

    ``weight`` ``(out, in / groups, …)``; ``bias`` ``(out,)`` or None.
    """

    name: str
    weight: Tensor
    bias: Tensor | None = None
    groups: int = 1
    norm: BatchNorm | None = None
    before_activation: bool = True


@dataclass(frozen=True)
class Link:
    """The coupling of two layers: correlations, and their distance from those of permuted units in standard deviations.

    ``norms``: rank correlation of the units' incoming and outgoing norms. ``likeness``: correlation of the cosines
    between units' incoming weights with the cosines between their outgoing weights. ``units``: compared units.
    """

    first: str
    second: str
    norms: float
    norms_z: float
    likeness: float
    likeness_z: float
    units: int

    @property
    def strength(self) -> float:
        """The larger of the two distances from permuted units."""
        return max(abs(self.norms_z), abs(self.likeness_z))


def link(first: Part, second: Part) -> Link | None:
    """The coupling of two layers; None if their shapes do not fit or too few units take part."""
    incoming, outgoing = _incoming(first), _outgoing(second, len(first.weight))
    if outgoing is None:
        return None
    into, out = _row_norms(incoming), _row_norms(outgoing)
    used = torch.nonzero((into > TINY * into.median()) & (out > TINY * out.median())).flatten()
    if len(used) > MOST_UNITS:
        used = used[torch.linspace(0, len(used) - 1, MOST_UNITS).long()]
    if len(used) < 8:
        return None
    incoming, outgoing = incoming[used], outgoing[used]
    strengths = into[used] if first.norm is None else torch.hypot(first.norm.scale, first.norm.shift)[used].double()
    norms = _rank_correlation(strengths, out[used])
    one, other = _cosines(incoming), _cosines(outgoing)
    likeness, likeness_z = _permutation_test(one, other)
    return Link(first.name, second.name, norms, norms * math.sqrt(len(used) - 1), likeness, likeness_z, len(used))


def _incoming(part: Part) -> Tensor:
    """``(units, inputs)``: the weights into each unit, with the sign of its batch normalization, in its own group."""
    rows = part.weight.flatten(1)
    if part.groups > 1:  # units of different groups have other inputs: their weights must not be compared
        size = len(rows) // part.groups
        wide = rows.new_zeros(len(rows), rows.shape[1] * part.groups)
        for group in range(part.groups):
            own = slice(group * size, (group + 1) * size)
            wide[own, group * rows.shape[1] : (group + 1) * rows.shape[1]] = rows[own]
        rows = wide
    if part.norm is not None:
        rows = rows * part.norm.scale.sign()[:, None]
    return rows


def _outgoing(part: Part, units: int) -> Tensor | None:
    """``(units, outputs)``: the weights out of each unit of the layer before; None if the shapes do not fit."""
    weight = part.weight
    inputs = weight.shape[1] * part.groups
    if weight.ndim == 2:
        if inputs % units:
            return None
        return weight.reshape(len(weight), units, -1).permute(1, 0, 2).flatten(1)
    if inputs != units:
        return None
    if part.groups == 1:
        return weight.transpose(0, 1).flatten(1)
    size = len(weight) // part.groups
    blocks = [weight[group * size : (group + 1) * size].transpose(0, 1).flatten(1) for group in range(part.groups)]
    wide = weight.new_zeros(units, blocks[0].shape[1] * part.groups)
    for group, block in enumerate(blocks):
        wide[group * len(block) : (group + 1) * len(block), group * block.shape[1] : (group + 1) * block.shape[1]] = (
            block
        )
    return wide


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1).double()
    return norms


def _cosines(rows: Tensor) -> Tensor:
    """The cosines between rows ``(n, n)``, minus their mean, with zeros on the diagonal."""
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    cosines = (unit @ unit.T).double()
    outside = ~torch.eye(len(rows), dtype=torch.bool)
    centred: Tensor = (cosines - cosines[outside].mean()) * outside
    return centred


def _permutation_test(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The correlation of two symmetric matrices, and its distance from those after permutations of the second.

    It is Mantel's test (N. Mantel, Cancer Research 27, 1967).
    """
    scale = float(one.norm() * other.norm())
    if scale == 0:
        return 0.0, 0.0
    found = float((one * other).sum()) / scale
    draws = torch.Generator().manual_seed(0)
    permuted = []
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(one), generator=draws)
        permuted.append(float((one * other[order][:, order]).sum()) / scale)
    sample = torch.tensor(permuted, dtype=torch.float64)
    return found, (found - float(sample.mean())) / max(float(sample.std()), 1e-12)


def _rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    found = float(torch.corrcoef(ranks)[0, 1])
    return found if math.isfinite(found) else 0.0


def stored_mean_agreement(first: Part, second: Part) -> float | None:
    """The correlation of the second layer's stored means with those that its weights give for outputs of the first.

    The second layer is a convolution with a batch normalization before the activation, the first has one too. The input
    of a unit is taken as a Gaussian variable through a ReLU: N(shift, scale²). None where this does not apply.
    """
    if second.norm is None or first.norm is None or not (first.before_activation and second.before_activation):
        return None
    if second.weight.shape[1] * second.groups != len(first.weight) or second.weight.ndim != 4:
        return None
    deviation = first.norm.scale.double().abs().clamp_min(1e-12)
    shift = first.norm.shift.double()
    ratio = shift / deviation
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    active = shift * torch.special.ndtr(ratio) + deviation * density
    sums = second.weight.double().sum(dim=(2, 3))
    size = len(sums) // second.groups
    computed = torch.cat(
        [
            sums[g * size : (g + 1) * size] @ active[g * sums.shape[1] : (g + 1) * sums.shape[1]]
            for g in range(second.groups)
        ]
    )
    if second.bias is not None:
        computed = computed + second.bias.double()
    found = float(torch.corrcoef(torch.stack([computed, second.norm.mean.double()]))[0, 1])
    return found if math.isfinite(found) else None


def input_orders(weight: Tensor, maps: int) -> dict[Order, float]:
    """How alike the weights of neighbouring pixels of one map are, if fc6's inputs are in the order CHW, and if in HWC.

    ``weight`` ``(units, maps · side²)``. The mean correlation of the weights of neighbouring pixels of one map, over
    units and maps, minus the same for two pixels of different maps. Empty if the maps are one pixel.
    """
    side = round((weight.shape[1] / maps) ** 0.5)
    if side < 2 or maps * side * side != weight.shape[1] or maps < 2:
        return {}
    some = weight[:: max(1, len(weight) // 1024)].float()
    some = some - some.mean(dim=0)
    some = some / some.norm(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    orders = {
        "CHW": some.reshape(len(some), maps, side, side),
        "HWC": some.reshape(len(some), side, side, maps).permute(0, 3, 1, 2),
    }
    return {order: _neighbour_likeness(maps_first) for order, maps_first in orders.items()}


def _neighbour_likeness(maps_first: Tensor) -> float:
    """Mean correlation of the columns of neighbouring pixels, minus that of the same pixels in the next map."""
    right = (maps_first[..., :-1] * maps_first[..., 1:]).sum(dim=0).mean()
    down = (maps_first[..., :-1, :] * maps_first[..., 1:, :]).sum(dim=0).mean()
    other = (maps_first * maps_first.roll(1, dims=1)).sum(dim=0).mean()
    return float((right + down) / 2 - other)


def colour_energies(kernels: Tensor) -> tuple[float, float, float]:
    """The shares of the first, second and third input channel in the energy of conv1's kernels ``(N, 3, k, k)``."""
    energy = kernels.double().square().sum(dim=(0, 2, 3))
    first, second, third = (energy / energy.sum()).tolist()
    return first, second, third
