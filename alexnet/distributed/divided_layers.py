"""Processes that divide layers among them: fully connected layers (hybrid), or the two columns of 2012.

* **hybrid** (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, 2014): the
  convolutions are data parallel, because they have few parameters and most of the work. fc6 is divided by its units
  and fc7 by its inputs, because they have nearly all parameters: their activations are exchanged, and their gradients
  are not. The last layer is data parallel again.
* **columns** (Krizhevsky, Sutskever and Hinton 2012, §3.2 and figure 2): both processes have the whole batch, and
  half of the filters and units of each layer. They exchange their outputs only before conv3 and the fully
  connected layers. For networks whose other convolutions have two groups, and whose normalization stays inside them.

Each process keeps the whole tensors, but only its part of a divided one is current. :meth:`DividedGroup.gather` brings
the parts together for evaluations and checkpoints, which have the form of one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.core.errors import UserError
from alexnet.distributed.process_group import ProcessGroup, Sum, exchange
from alexnet.models.layers import Conv2d, Dropout, LocalResponseNorm, at_least_fp32, pad

COLUMNS = 2


class DividedGroup(ProcessGroup):
    """A group in which some parameters are divided: ``divided`` has each with the axis along which it is."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.divided: dict[Tensor, int] = {}
        self.images = 0

    def start_step(self, images: int) -> None:
        """See :class:`~alexnet.runtime.group.Group`."""
        self.images = images

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See :class:`~alexnet.runtime.group.Group`. The gradient of a divided parameter is complete already."""
        super().add_gradients([parameter for parameter in parameters if parameter not in self.divided])

    def everywhere(self, flag: Tensor) -> Tensor:
        """See :class:`~alexnet.runtime.group.Group`."""
        return self.reduce(flag.double()) == self.size

    def gather(self, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`~alexnet.runtime.group.Group`."""
        for parameter, axis in self.divided.items():
            state = optimizer.state.get(parameter, {}).values()
            for tensor in (parameter.data, *(value for value in state if value.shape == parameter.shape)):
                whole = tensor.transpose(0, axis)
                parts = self.all_rows(whole[self.share(len(whole))], self.shares(len(whole)))
                whole.copy_(torch.cat(parts))

    def own_rows(self, partial: Tensor, images: int) -> Tensor:
        """The rows of this process of the sum of ``partial`` ``(images, …)`` over all processes."""
        if not self.scatters:
            return self.reduce(partial.clone())[self.share(images)]
        counts = self.shares(images)
        padded = partial.new_zeros((self.size * max(counts), *partial.shape[1:]))
        for rank, rows in enumerate(torch.split(partial, counts)):
            padded[rank * max(counts) : rank * max(counts) + len(rows)] = rows
        own = partial.new_empty((max(counts), *partial.shape[1:]))
        with exchange():
            dist.reduce_scatter_tensor(own, padded)
        return own[: counts[self.rank]]


class HybridGroup(DividedGroup):
    """Data parallel convolutions, and fully connected layers that are divided; see the top of this module."""

    def prepare(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        """See :class:`~alexnet.runtime.group.Group`."""
        super().prepare(network, copies)
        first, second = divided_linear_layers(network)
        names = [name for name, _ in network.named_children()]
        between = [network.get_submodule(name) for name in names[names.index(first) : names.index(second)]]
        self._wide = {module.site for module in between if isinstance(module, Dropout)}
        for name, axis in ((first, 0), (second, 1)):
            layer = network.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            self.divided[layer.weight] = axis
            if axis == 0 and layer.bias is not None:
                self.divided[layer.bias] = 0
            for copy in copies:
                copy.add_module(name, (LinearByUnits, LinearByInputs)[axis](layer, self))

    def masks(self, masks: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
        """See :class:`~alexnet.runtime.group.Group`: between the divided layers, all images have some units."""
        return {
            site: mask[:, self.share(mask.shape[1])] if site in self._wide else mask[part]
            for site, mask in masks.items()
        }


class _DividedLinear(nn.Module):
    """A linear layer whose weight and bias belong to another module, of which this process does a part."""

    def __init__(self, layer: nn.Linear, group: DividedGroup) -> None:
        super().__init__()
        self.weight, self.bias, self.group = layer.weight, layer.bias, group


class LinearByUnits(_DividedLinear):
    """A linear layer of which this process has some units, for the images of all: ``(n, inputs)`` → ``(B, units)``."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.group.share(len(self.weight))
        return F.linear(_GatherRows.apply(at_least_fp32(x), self.group), self.weight[own], self.bias[own])


class LinearByInputs(_DividedLinear):
    """A linear layer of which this process has some inputs, for all images: ``(B, inputs)`` → ``(n, units)``."""

    def forward(self, x: Tensor) -> Tensor:
        partial = F.linear(x, self.weight[:, self.group.share(self.weight.shape[1])])
        total: Tensor = _AddRows.apply(at_least_fp32(partial), self.group)
        return total + self.bias


class _GatherRows(torch.autograd.Function):
    """The rows of all processes; the gradient of a row is the sum of those in all processes."""

    @staticmethod
    def forward(context: Any, own: Tensor, group: DividedGroup) -> Tensor:
        context.group, context.images = group, group.images
        return torch.cat(group.all_rows(own, group.shares(group.images)))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.group.own_rows(gradient, context.images), None


class _AddRows(torch.autograd.Function):
    """The rows of this process of the sum over all processes; the inverse of :class:`_GatherRows`."""

    @staticmethod
    def forward(context: Any, own: Tensor, group: DividedGroup) -> Tensor:
        context.group, context.images = group, group.images
        return group.own_rows(own, group.images)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.cat(context.group.all_rows(gradient, context.group.shares(context.images))), None


class ColumnGroup(DividedGroup):
    """Two processes with the two columns of 2012; see the top of this module.

    Both processes compute the same loss, and the exchanges add their gradients. So each loss is multiplied by 1/2.
    """

    weight = 1 / COLUMNS

    def part(self, count: int) -> slice:
        """Both processes have all images."""
        return slice(count)

    def totals(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~alexnet.runtime.group.Group`: both processes count the same predictions."""
        total_loss, total_right = super().totals(loss, right)
        return total_loss, total_right / COLUMNS

    def masks(self, masks: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
        """See :class:`~alexnet.runtime.group.Group`: each process has half of the units."""
        return {site: mask[:, self.share(mask.shape[1])] for site, mask in masks.items()}

    def prepare(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        """See :class:`~alexnet.runtime.group.Group`."""
        check_columns(network)
        layers = [(name, module) for name, module in network.named_children()]
        last = layers[-1][0]
        is_first = True
        for name, module in layers:
            if isinstance(module, Conv2d | nn.Linear):
                assert module.bias is not None
                self.divided[module.weight] = int(name == last)
                if name != last:
                    self.divided[module.bias] = 0
            for copy in copies:
                if isinstance(module, Conv2d):
                    copy.add_module(name, ColumnConv2d(module, self, gathers=module.groups == 1 and not is_first))
                elif isinstance(module, nn.Linear):
                    copy.add_module(name, (ColumnHead if name == last else ColumnLinear)(module, self))
                elif isinstance(module, LocalResponseNorm):
                    copy.add_module(name, half_norm(module))
            is_first = is_first and not isinstance(module, Conv2d)


def half_norm(norm: LocalResponseNorm) -> LocalResponseNorm:
    """The normalization of one column."""
    return LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k, norm.convention, norm.groups // COLUMNS)


class ColumnConv2d(nn.Module):
    """Half of the filters of a convolution. ``gathers``: their input is the maps of both columns."""

    def __init__(self, layer: Conv2d, group: DividedGroup, *, gathers: bool) -> None:
        super().__init__()
        assert layer.bias is not None
        self.weight, self.bias, self.group, self.gathers = layer.weight, layer.bias, group, gathers
        self.stride, self.padding, self.pad_rule = layer.stride, layer.padding, layer.pad_rule
        self.groups = max(1, layer.groups // COLUMNS)

    def forward(self, x: Tensor) -> Tensor:
        if self.gathers:
            x = _GatherColumns.apply(x, self.group)
        x = pad(x, self.weight.shape[2], self.stride[0], self.pad_rule)
        own = self.group.share(len(self.weight))
        return F.conv2d(x, self.weight[own], self.bias[own], self.stride, self.padding, 1, self.groups)


class ColumnLinear(_DividedLinear):
    """Half of the units of a linear layer, whose input is that of both columns."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.group.share(len(self.weight))
        return F.linear(_GatherColumns.apply(x, self.group), self.weight[own], self.bias[own])


class ColumnHead(_DividedLinear):
    """The last layer: the sum of what both columns contribute; the bias is added in the first process only."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.group.share(self.weight.shape[1])
        partial = F.linear(x, self.weight[:, own], self.bias * float(self.group.is_first))
        total: Tensor = Sum.apply(at_least_fp32(partial), self.group)
        return total


class _GatherColumns(torch.autograd.Function):
    """The channels or units of both columns, ``(N, C / 2, …)`` → ``(N, C, …)``; gradients are added."""

    @staticmethod
    def forward(context: Any, own: Tensor, group: DividedGroup) -> Tensor:
        context.group = group
        parts = group.all_rows(own.transpose(0, 1).contiguous(), [own.shape[1]] * COLUMNS)
        return torch.cat(parts).transpose(0, 1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own = context.group.own_rows(gradient.transpose(0, 1).contiguous(), gradient.shape[1])
        return own.transpose(0, 1), None


def divided_linear_layers(network: nn.Module) -> tuple[str, str]:
    """The names of the two linear layers that hybrid training divides. Raises ``UserError`` if there are none."""
    linear = [name for name, module in network.named_children() if isinstance(module, nn.Linear)]
    if len(linear) < 3:
        raise UserError("--parallel hybrid divides two hidden fully connected layers, and this network has fewer")
    return linear[0], linear[1]


def check_columns(network: nn.Module) -> None:
    """Raise ``UserError`` for a network that is not made of two columns."""
    children = [*network.named_children()]
    convolutions = [module for _, module in children if isinstance(module, nn.Conv2d)]
    reason = ""
    if any(isinstance(module, LocalResponseNorm) and module.groups % COLUMNS for _, module in children):
        reason = "its local response normalization crosses the columns"
    elif not any(conv.groups == COLUMNS for conv in convolutions) or any(
        conv.groups > COLUMNS for conv in convolutions
    ):
        reason = "its convolutions do not have two groups"
    elif any(isinstance(module, nn.BatchNorm2d) for _, module in children):
        reason = "it has batch normalization"
    elif any(
        module.weight.shape[0] % COLUMNS for _, module in children[:-1] if isinstance(module, nn.Conv2d | nn.Linear)
    ):
        reason = "a layer has an odd number of filters or units"
    if reason:
        raise UserError(
            f"--parallel columns is for the variant cuda-convnet: this network cannot be divided, because {reason}"
        )
