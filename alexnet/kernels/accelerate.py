"""Replace the reference layers of a network by fast kernels.

``create_model`` builds reference layers. :func:`accelerate` returns a network of the same class in which some layers
are replaced by the kernels of this package; its argument does not change. The table ``KERNELS`` lists which layer is
replaced by which kernel, and on which devices. Tests compare each kernel with its reference layer: the outputs and
gradients agree to 1e-10 in float64 and 1e-5 in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from alexnet.kernels.blocked import BlockedLinear
from alexnet.kernels.fallback import warn_once
from alexnet.kernels.int8 import LEAST_CHANNELS, Int8Conv2d, Int8Linear
from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.kernels.prepacked import PrepackedConv2d
from alexnet.kernels.selftest import int8_fault, prepacked_fault, space_to_depth_fault
from alexnet.kernels.space_to_depth import SpaceToDepthConv2d
from alexnet.kernels.winograd import WinogradConv2d
from alexnet.models.layers import Conv2d, LocalResponseNorm
from alexnet.runtime.device import DeviceConfig

Network = TypeVar("Network", bound=nn.Module)
Log = Callable[[str], None]


@dataclass(frozen=True)
class Kernel:
    """One replacement: layers of exactly the type ``reference`` become ``fast``, which has the same parameters.

    ``training``, ``inference``: whether the kernel is used for training and for inference. ``devices``: device types on
    which it is used, empty for all. ``fault(config)``: the reason why it cannot be used here, or None.
    """

    name: str
    reference: type[nn.Module]
    fast: type[nn.Module]
    training: bool = True
    inference: bool = True
    devices: tuple[str, ...] = ()
    fault: Callable[[DeviceConfig], str | None] = lambda config: None


KERNELS: tuple[Kernel, ...] = (
    Kernel("local response normalization by blocks", LocalResponseNorm, FastLocalResponseNorm),
    Kernel(
        "prepacked convolutions", Conv2d, PrepackedConv2d, training=False, devices=("cpu",),
        fault=lambda config: prepacked_fault(torch.bfloat16 if config.bf16 else torch.float32),
    ),
    Kernel(
        "convolutions by space-to-depth", Conv2d, SpaceToDepthConv2d, devices=("cuda",),
        fault=lambda config: space_to_depth_fault(config.device),
    ),
    Kernel("Winograd convolutions", Conv2d, WinogradConv2d, devices=("cpu",)),
    Kernel("linear layers by blocks", nn.Linear, BlockedLinear, devices=("cpu",)),
)  # fmt: skip
"""The kernels in order of preference: if there are several for one layer, the first usable one is taken."""


def accelerate(network: Network, config: DeviceConfig, *, training: bool = False, log: Log = warn_once) -> Network:
    """The network with fast kernels for the device of ``config``; with reference layers if ``config.reference``.

    ``training=True``: the result shares all parameters and buffers with ``network``, under the same names, and
    ``network`` must be on the device already. ``training=False``: a copy for inference, in evaluation mode and without
    gradients. In bf16 the copy's weights are rounded once, not for every batch as under autocast; the outputs are
    bit-identical to those of ``network`` under autocast, except where LRN or Winograd kernels are used. With
    ``config.int8``, convolutions and linear layers have int8 weights, and outputs differ by a few hundredths.

    ``log`` receives one line for each kernel that cannot be used here.
    """
    if training:
        return network if config.reference else _replaced(shared_copy(network), config, True, log)
    return _inference_copy(network, config, log)


def _inference_copy(network: Network, config: DeviceConfig, log: Log) -> Network:
    quantized = _int8_layers(network, log) if config.int8 else {}
    rounded = {
        id(weight): nn.Parameter(weight.detach().to(config.device, torch.bfloat16), requires_grad=False)
        for module in network.modules()
        if config.bf16 and isinstance(module, nn.Conv2d | nn.Linear) and module not in quantized
        for weight in module.parameters(recurse=False)
    }
    copies = rounded | {id(layer): other for layer, other in quantized.items()}
    frozen = config.to_device(copy.deepcopy(network, copies)).eval().requires_grad_(False)
    return frozen if config.reference else _replaced(frozen, config, False, log)


def _replaced(network: Network, config: DeviceConfig, training: bool, log: Log) -> Network:
    """Replace children of ``network`` by kernels of the table, in place, and return it."""
    chosen: dict[type[nn.Module], type[nn.Module]] = {}
    present = {type(module) for module in network.children()}
    for kernel in KERNELS:
        used = kernel.training if training else kernel.inference
        fits = not kernel.devices or config.device.type in kernel.devices
        if not (used and fits and kernel.reference in present) or kernel.reference in chosen:
            continue
        if fault := kernel.fault(config):
            log(f"{kernel.name} cannot be used, torch's layers are used instead: {fault}")
        else:
            chosen[kernel.reference] = kernel.fast
    for name, module in list(network.named_children()):
        if type(module) in chosen:
            network.add_module(name, _as(chosen[type(module)], module))
    return network


def shared_copy(module: Network) -> Network:
    """A new module of the same class, with new child modules, which shares all parameters and buffers."""
    other = _as(type(module), module)
    for name, child in module.named_children():
        other.add_module(name, shared_copy(child))
    return other


def _as(kind: type[Network], module: nn.Module) -> Network:
    """A new module of the class ``kind`` that shares the parameters, buffers and settings of ``module``."""
    other = kind.__new__(kind)
    nn.Module.__init__(other)
    own = {name: value for name, value in module.__dict__.items() if name not in other.__dict__}
    other.__dict__.update(own)
    other.__dict__["training"] = module.training
    for attribute in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        other.__dict__[attribute] = copy.copy(module.__dict__[attribute])
    return other


def _int8_layers(network: nn.Module, log: Log) -> dict[nn.Module, nn.Module]:
    """Layer → the same layer with int8 weights, for all large layers; empty if int8 layers cannot be used here."""
    if fault := int8_fault():
        log(f"int8 layers cannot be used, layers in bf16 or fp32 are used instead: {fault}")
        return {}
    layers: dict[nn.Module, nn.Module] = {}
    signed = True
    for module in network.children():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] >= LEAST_CHANNELS:
            layers[module] = Int8Conv2d(module, signed=signed)
        elif isinstance(module, nn.Linear):
            layers[module] = Int8Linear(module, signed=signed)
        signed = output_is_signed(module, signed)
    return layers


def output_is_signed(module: nn.Module, input_is_signed: bool) -> bool:
    """Whether a layer's outputs can be negative, given whether its inputs can be."""
    if isinstance(module, nn.ReLU | nn.Sigmoid):
        return False
    if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.Tanh) or any(True for _ in module.parameters()):
        return True
    return input_is_signed
