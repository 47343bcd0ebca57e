"""Tests of the kernels that use private torch operations: once per process, each is compared with the reference.

Private operations may change or disappear in a new torch version. A kernel that raises an exception, or differs from
the reference by more than its bound, is not used: inference is then slower, but predictions stay correct. The bounds
are relative to the largest output: 1e-5 in fp32 and 2e-2 in bf16; int8 is compared in fp32 with the same arithmetic on
dequantized weights and inputs.
"""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.core.errors import one_line
from alexnet.kernels import int8, prepacked, space_to_depth
from alexnet.models.layers import Conv2d, LocalResponseNorm

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@functools.cache
def prepacked_fault(dtype: torch.dtype) -> str | None:
    """The reason why prepacked convolutions in ``dtype`` do not work; None if they work, or torch has none."""
    try:
        if dtype not in prepacked.packable_dtypes():
            return None  # this build of torch has none: its ordinary ones are used, without a message
        layer, x = _layer(dtype), _input().to(dtype)
        with torch.no_grad():
            found = prepacked.convolve(layer, x, prepacked.pack(layer, x.shape))
            return _difference(found, layer(x), BOUNDS[dtype])
    except Exception as error:
        return one_line(error)


@functools.cache
def int8_fault() -> str | None:
    """The reason why int8 layers cannot be used here, in a few words; None if they can."""
    try:
        layer, x = _layer(torch.float32), _input().relu()
        with torch.no_grad():
            convolution = int8.Int8Conv2d(layer, signed=False)
            weight = int8.rounded_weight(layer.weight)
            expected = F.conv2d(int8.rounded_input(x, signed=False), weight, layer.bias, padding=1, groups=2)
            fault = _difference(convolution(x), expected, BOUNDS[torch.float32])
            flat = x.flatten(1)
            linear = torch.nn.Linear(flat.shape[1], 24)
            quantized = int8.Int8Linear(linear, signed=False)
            expected = F.linear(int8.rounded_input(flat, signed=False), int8.rounded_weight(linear.weight), linear.bias)
            return fault or _difference(quantized(flat), expected, BOUNDS[torch.float32])
    except Exception as error:
        return one_line(error)


@functools.cache
def triton_lrn_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why the Triton kernels of local response normalization do not work on a GPU; None if they do."""
    try:
        from alexnet.kernels import triton_lrn

        x = _input().to(device, dtype)
        reference = x.double().requires_grad_()
        with torch.inference_mode(mode=False), torch.enable_grad():
            ours = x.clone().requires_grad_()
            found = triton_lrn.normalize(ours, 5, 2, 0.1, 0.75, 2.0)
            expected = LocalResponseNorm(5, 0.1, 0.75, 2.0, "sum", 2)(reference)
            gradients = [torch.autograd.grad(y.sum(), at)[0] for y, at in ((found, ours), (expected, reference))]
        bound = BOUNDS.get(dtype, BOUNDS[torch.bfloat16])
        return _difference(found, expected, bound) or _difference(gradients[0], gradients[1], bound)
    except Exception as error:
        return one_line(error)


@functools.cache
def space_to_depth_fault(device: torch.device) -> str | None:
    """The reason why convolutions by space-to-depth do not work on a device; None if they do."""
    try:
        layer = Conv2d(3, 16, 11, 4, "ceil").to(device)
        x = torch.randn((2, 3, 30, 30), generator=torch.Generator().manual_seed(1)).to(device)
        with torch.no_grad():
            found = space_to_depth.convolve(x.bfloat16(), copy.deepcopy(layer).bfloat16())
            return _difference(found, layer.double()(x.double()), BOUNDS[torch.bfloat16])
    except Exception as error:
        return one_line(error)


def _layer(dtype: torch.dtype) -> Conv2d:
    generator = torch.Generator().manual_seed(0)
    layer = Conv2d(16, 32, 3, padding=1, groups=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype).to(memory_format=torch.channels_last)


def _input() -> Tensor:
    x = torch.randn((2, 16, 9, 9), generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def _difference(found: Tensor, expected: Tensor, bound: float) -> str | None:
    """A message if the difference, relative to the largest expected value, is above ``bound``; else None."""
    apart = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    return None if apart <= bound else f"it differs from the reference by {apart:.1e}, more than {bound:.0e}"
