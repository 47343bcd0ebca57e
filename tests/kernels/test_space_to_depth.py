"""Convolutions by space-to-depth against the ordinary ones: outputs, gradients, every first layer of the variants."""

import pytest
import torch

from alexnet.kernels import space_to_depth
from alexnet.kernels.accelerate import KERNELS, shared_copy
from alexnet.kernels.selftest import space_to_depth_fault
from alexnet.kernels.space_to_depth import SpaceToDepthConv2d, convolve, pays
from alexnet.models.layers import Conv2d

LAYERS = [  # channels, filter, stride, padding, side of the image
    (3, 11, 4, 0, 224),
    (3, 11, 4, 0, 227),
    (3, 11, 4, 2, 224),
    (3, 11, 4, "ceil", 224),
    (3, 11, 4, "same", 224),
    (1, 11, 4, 1, 63),
    (3, 5, 2, 2, 33),
    (2, 3, 3, 0, 10),
    (2, 2, 3, 0, 12),  # pixels that are in no window
    (4, 8, 4, 0, 20),
]


def both(dtype, channels, kernel, stride, padding, side):
    torch.manual_seed(0)
    layer = Conv2d(channels, 6, kernel, stride, padding).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, side, side).to(dtype).to(memory_format=torch.channels_last)
    found = []
    for function in (layer, lambda image: convolve(image, layer)):
        image = x.clone().requires_grad_()
        layer.zero_grad()
        y = function(image)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
        found.append([y.detach(), image.grad, layer.weight.grad, layer.bias.grad])
    return found


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_and_gradients_are_the_reference_s(layer, dtype, limit):
    for expected, found in zip(*both(dtype, *layer), strict=True):
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) <= limit


def test_the_result_is_channels_last_and_the_convolution_has_a_stride_of_1(monkeypatch):
    seen = []
    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(
        space_to_depth.F, "conv2d", lambda x, weight, bias: seen.append((x, weight)) or convolution(x, weight, bias)
    )
    y = convolve(torch.randn(2, 3, 224, 224), Conv2d(3, 6, 11, 4, 2))
    ((x, weight),) = seen
    assert (x.shape, weight.shape) == ((2, 48, 57, 57), (6, 48, 3, 3))
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in (x, weight, y))


def test_an_image_smaller_than_the_filter_is_refused():
    with pytest.raises(RuntimeError, match="smaller than a filter of 11"):
        convolve(torch.randn(1, 3, 9, 9), Conv2d(3, 6, 11, 4))


@pytest.mark.parametrize(
    ("layer", "used"),
    [((3, 11, 4), True), ((1, 11, 4), True), ((3, 5, 2), False), ((96, 5, 1), False), ((48, 11, 4), False)],
)
def test_it_pays_by_a_count_of_products_in_blocks_of_eight_channels(layer, used):
    """3 channels, 11 × 11, stride 4: 8 · 121 = 968 products for an output, and 48 · 9 = 432."""
    assert pays(*layer) == used


@pytest.mark.parametrize("bf16", [False, True])
def test_it_is_used_in_bf16_only(bf16, monkeypatch):
    called = []
    monkeypatch.setattr(space_to_depth, "convolve", lambda x, layer: called.append(layer) or convolve(x, layer))
    layer = Conv2d(3, 6, 11, 4)
    fast = shared_copy(layer)
    fast.__class__ = SpaceToDepthConv2d
    x = torch.randn(2, 3, 32, 32)
    if bf16:
        layer, fast, x = layer.bfloat16(), fast.bfloat16(), x.bfloat16()
    torch.testing.assert_close(fast(x), layer(x), rtol=2e-2, atol=2e-2)
    assert bool(called) == bf16


def test_it_is_for_gpus_and_tested_once_before_it_is_used():
    assert space_to_depth_fault(torch.device("cpu")) is None
    assert space_to_depth_fault(torch.device("cuda:99"))
    (kernel,) = (kernel for kernel in KERNELS if kernel.fast is SpaceToDepthConv2d)
    assert (kernel.devices, kernel.reference) == (("cuda",), Conv2d)
