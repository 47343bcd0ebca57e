"""Prepacked weights: the same bits, for inference only; with AVX2, weights transformed for Winograd's algorithm."""

import copy

import pytest
import torch

from alexnet.kernels import prepacked, winograd
from alexnet.kernels.accelerate import accelerate
from alexnet.kernels.prepacked import PrepackedConv2d, can_pack
from alexnet.models.layers import Conv2d
from alexnet.models.variants import VARIANTS
from alexnet.runtime.device import DeviceConfig

CPU = torch.device("cpu")
GEOMETRIES = {  # (channels, filters, kernel, stride, padding, groups)
    "the first of the paper's": (3, 96, 11, 4, 0, 1),
    "two columns": (96, 256, 5, 1, 2, 2),
    "rounded up": (3, 32, 5, 2, "ceil", 1),
    "Keras's padding": (8, 16, 3, 2, "same", 1),
}


@pytest.fixture
def wide(monkeypatch):
    """A CPU with AVX-512, where direct convolutions are the fastest."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.fixture
def narrow(monkeypatch):
    """A CPU with AVX2, where Winograd's are."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def convolution(name, kind=Conv2d):
    torch.manual_seed(0)
    layer = kind(*GEOMETRIES.get(name, name))
    torch.nn.init.normal_(layer.weight)
    return layer.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_for_all_sizes(wide, name, dtype):
    layer, packed = convolution(name).to(dtype), convolution(name, PrepackedConv2d).to(dtype)
    for images, side in ((1, 27), (4, 27), (4, 30), (1, 27)):
        x = torch.randn(images, layer.in_channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected, y = layer(x), packed(x)
        assert torch.equal(y, expected)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert (packed.packed is not None) == can_pack(packed, x)
        assert not packed.broken


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images", [1, 4])
def test_transformed_weights_are_kept_and_give_the_same_bits(narrow, groups, images):
    shape = (64 * groups, 192, 5, 1, 2, groups)
    layer, packed = convolution(shape), convolution(shape, PrepackedConv2d)
    x = torch.randn(images, 64 * groups, 27, 27)
    with torch.inference_mode():
        y = packed(x)
        assert packed.packed is None
        kept = packed.transformed
        assert torch.equal(packed(x), y)
        assert packed.transformed is kept
        assert torch.equal(y, winograd.convolve(x, layer.weight, layer.bias, 2, groups, kept.filtering))
        torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-3)
        packed(x[:, :, :4, :4])  # another filtering, or none
        assert torch.equal(packed(x), y)


def test_kept_weights_pay_for_one_image_too(narrow):
    layer = convolution((64, 192, 5, 1, 2, 1), PrepackedConv2d)
    one = torch.randn(1, 64, 27, 27)
    assert layer.filtering(one) is None
    layer(one).sum().backward()  # gradients are recorded: nothing is prepared
    assert layer.transformed is None
    assert layer.weight.grad is not None
    with torch.inference_mode():
        layer(one)
    assert layer.transformed is not None


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_weights_changed_in_place_are_noticed(request, vectors):
    request.getfixturevalue(vectors)
    layer = convolution("two columns", PrepackedConv2d)
    x = torch.randn(2, 96, 13, 13)
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)  # exact in binary, and so is the bias
        layer.bias.mul_(2)
        assert torch.equal(layer(x), 2 * before)


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_weights_that_are_loaded_replaced_or_converted_are_noticed(request, vectors):
    request.getfixturevalue(vectors)
    layer, other = convolution("two columns", PrepackedConv2d), convolution("two columns", PrepackedConv2d)
    torch.nn.init.normal_(other.weight)
    x = torch.randn(2, 96, 13, 13)
    with torch.no_grad():
        assert not torch.equal(layer(x), other(x))
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other(x))
        layer.weight.data = torch.zeros_like(layer.weight)
        assert torch.equal(layer(x), layer.bias.view(1, -1, 1, 1).expand(2, 256, 13, 13))
        layer.load_state_dict(other.state_dict())
        layer.double()
        torch.testing.assert_close(layer(x.double()), other.double()(x.double()))


def test_autocast_gives_the_same_bits(wide):
    layer, packed = convolution("two columns"), convolution("two columns", PrepackedConv2d)
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(packed(x), layer(x))


def test_a_mistake_has_torch_s_error(wide):
    layer = convolution("two columns", PrepackedConv2d)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="to have 96 channels, but got 3 channels"):
        layer(torch.zeros(1, 3, 13, 13))
    assert not layer.broken


def test_an_operation_that_fails_costs_speed_and_not_the_prediction(wide, monkeypatch, capsys):
    layer, packed = convolution("two columns"), convolution("two columns", PrepackedConv2d)

    def fail(*given):
        raise RuntimeError("mkldnn::something is gone")

    monkeypatch.setattr(prepacked, "pack", fail)
    monkeypatch.setattr("alexnet.kernels.fallback._warned", set())
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode():
        assert torch.equal(packed(x), layer(x))
        assert torch.equal(packed(x), layer(x))
    assert packed.broken
    assert capsys.readouterr().err.count("mkldnn::something is gone") == 1


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_a_copy_has_weights_of_its_own(request, vectors):
    request.getfixturevalue(vectors)
    layer = convolution("two columns", PrepackedConv2d)
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode():
        before = layer(x)
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight.zero_()
        changed.bias.zero_()
        assert not changed(x).any()
        assert torch.equal(layer(x), before)


def test_gradients_go_through_a_network_for_inference(randomised):
    network = randomised("small").float()
    config = DeviceConfig(CPU, bf16=False)
    fast, reference = accelerate(network, config), config.to_device(network).eval()
    slopes = []
    for each in (fast, reference):
        x = torch.ones(1, network.in_channels, network.image_size, network.image_size, requires_grad=True)
        each(x).sum().backward()
        slopes.append(x.grad)
    assert float(slopes[1].abs().max()) > 0
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_every_variant_predicts_like_its_reference(request, randomised, vectors):
    request.getfixturevalue(vectors)
    for variant in VARIANTS:
        network = randomised(variant).float()
        fast, slow = (accelerate(network, DeviceConfig(CPU, bf16=False, reference=r)) for r in (False, True))
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(9, network.in_channels, network.image_size, network.image_size, generator=draws)
        with torch.inference_mode():
            for images in (1, 9, 1):
                ours, theirs = fast(x[:images]), slow(x[:images])
                assert (ours - theirs).norm() / theirs.norm() < 1e-5, variant  # DESIGN's fourth rule


def test_double_precision_and_the_reference_keep_their_layers(randomised):
    layer = convolution("two columns").double()
    assert not can_pack(layer, torch.zeros(1, 96, 9, 9).double())
    network = accelerate(randomised("small").float(), DeviceConfig(CPU, bf16=False, reference=True))
    assert not any(isinstance(layer, PrepackedConv2d) for layer in network.modules())
