"""Weights laid out once: the same bits, for predicting only; on narrow vectors, at Winograd's points."""

import copy

import pytest
import torch

from alexnet.kernels import winograd
from alexnet.kernels.prepacked import can_pack
from alexnet.models.layers import Conv2d
from alexnet.models.variants import VARIANTS
from alexnet.runtime.device import DeviceConfig

CPU = torch.device("cpu")
GEOMETRIES = {  # (channels, filters, kernel, stride, padding, groups)
    "the first of the paper's": (3, 96, 11, 4, 0, 1),
    "two towers": (96, 256, 5, 1, 2, 2),
    "rounded up": (3, 32, 5, 2, "ceil", 1),
    "Keras's padding": (8, 16, 3, 2, "same", 1),
}


@pytest.fixture
def wide(monkeypatch):
    """Vectors for which direct convolutions are the fastest."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.fixture
def narrow(monkeypatch):
    """Vectors for which Winograd's are."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def a_convolution(geometry):
    torch.manual_seed(0)
    layer = Conv2d(*geometry)
    torch.nn.init.normal_(layer.weight)
    return layer.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_whatever_the_sizes(wide, name, dtype):
    layer = a_convolution(GEOMETRIES[name]).to(dtype)
    fixed = a_convolution(GEOMETRIES[name]).to(dtype)
    fixed.fix_weights()
    for images, side in ((1, 27), (4, 27), (4, 30), (1, 27)):
        x = torch.randn(images, layer.in_channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected, y = layer(x), fixed(x)
        assert torch.equal(y, expected)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert (fixed.packed is not None) == can_pack(fixed, x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images", [1, 4])
def test_weights_at_the_points_are_kept_for_the_same_bits(narrow, groups, images):
    layer, fixed = (a_convolution((64 * groups, 192, 5, 1, 2, groups)) for _ in range(2))
    fixed.fix_weights()
    x = torch.randn(images, 64 * groups, 27, 27)
    with torch.inference_mode():
        y = fixed(x)
        assert fixed.packed is None
        kept = fixed.at_points
        assert torch.equal(fixed(x), y)
        assert fixed.at_points is kept
        bias, filtering = layer.bias, kept.filtering
        assert torch.equal(y, winograd.convolve(x, layer.weight, bias, 2, groups, filtering))
        layer.plain = True
        torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-3)
        fixed(x[:, :, :4, :4])  # another filtering, or none
        assert torch.equal(fixed(x), y)


def test_keeping_them_makes_it_worth_while_for_one_image(narrow):
    layer = a_convolution((64, 192, 5, 1, 2, 1))
    one = torch.randn(1, 64, 27, 27)
    with torch.inference_mode():
        layer(one)
        assert layer.at_points is None
        assert layer.filtering(one) is None
        layer.fix_weights()
        layer(one)
    assert layer.at_points is not None
    layer(one).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_fixing_them_again_takes_the_weights_as_they_are_then(request, vectors):
    request.getfixturevalue(vectors)
    layer = a_convolution(GEOMETRIES["two towers"])
    layer.fix_weights()
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode():
        before = layer(x)
        layer.weight.mul_(2)  # exact in binary, and so is the bias that follows
        layer.bias.mul_(2)
        layer.fix_weights()
        assert torch.equal(layer(x), 2 * before)


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_weights_that_are_loaded_or_converted_are_no_longer_fixed(request, vectors):
    request.getfixturevalue(vectors)
    layer, other = a_convolution(GEOMETRIES["two towers"]), a_convolution(GEOMETRIES["two towers"])
    torch.nn.init.normal_(other.weight)
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode():
        layer.fix_weights()
        assert not torch.equal(layer(x), other(x))
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other(x))
        layer.fix_weights()
        layer(x)
        layer.double()
        torch.testing.assert_close(layer(x.double()), other.double()(x.double()))


def test_autocast_gives_what_it_gives_without_fixed_weights(wide):
    layer, fixed = a_convolution(GEOMETRIES["two towers"]), a_convolution(GEOMETRIES["two towers"])
    fixed.fix_weights()
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(fixed(x), layer(x))


def test_a_mistake_is_said_as_torch_says_it(wide):
    layer = a_convolution(GEOMETRIES["two towers"])
    layer.fix_weights()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="to have 96 channels, but got 3 channels"):
        layer(torch.zeros(1, 3, 13, 13))


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
def test_a_copy_has_weights_of_its_own(request, vectors):
    request.getfixturevalue(vectors)
    layer = a_convolution(GEOMETRIES["two towers"])
    layer.fix_weights()
    x = torch.randn(2, 96, 13, 13)
    with torch.inference_mode():
        before = layer(x)
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight.zero_()
        changed.bias.zero_()
        assert not changed(x).any()
        assert torch.equal(layer(x), before)


def test_gradients_go_through_a_frozen_network_as_ever(randomised):
    network = randomised("small").float()
    device_config = DeviceConfig(CPU, bf16=False)
    frozen, placed = device_config.freeze(network), device_config.to_device(network).eval()
    slopes = []
    for each in (frozen, placed):
        x = torch.ones(1, network.in_channels, network.image_size, network.image_size, requires_grad=True)
        each(x).sum().backward()
        slopes.append(x.grad)
    assert float(slopes[1].abs().max()) > 0
    assert torch.equal(*slopes)


@pytest.mark.parametrize("vectors", ["wide", "narrow"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_predicts_what_its_plain_path_does(request, randomised, variant, vectors):
    request.getfixturevalue(vectors)
    network = randomised(variant).float()
    frozen, plain = (DeviceConfig(CPU, bf16=False, reference=reference).freeze(network) for plain in (False, True))
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(9, network.in_channels, network.image_size, network.image_size, generator=draws)
    with torch.inference_mode():
        for images in (1, 9, 1):
            ours, theirs = frozen(x[:images]), plain(x[:images])
            assert (ours - theirs).norm() / theirs.norm() < 1e-5  # DESIGN's fourth rule


def test_a_plain_machine_and_double_precision_keep_the_layers_as_they_are(randomised):
    assert not can_pack(a_convolution(GEOMETRIES["two towers"]).double(), torch.zeros(1, 96, 9, 9).double())
    frozen = DeviceConfig(CPU, bf16=False, reference=True).freeze(randomised("small").float())
    assert not any(layer.fixed for layer in frozen.modules() if isinstance(layer, Conv2d))
