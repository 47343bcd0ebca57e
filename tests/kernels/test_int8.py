"""int8 weights: outputs as near as rounding allows, each image by itself, on CPUs of both kinds."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from alexnet.kernels.accelerate import accelerate, output_is_signed
from alexnet.kernels.int8 import Int8Conv2d, Int8Linear
from alexnet.kernels.prepacked import PrepackedConv2d
from alexnet.kernels.selftest import int8_fault
from alexnet.models.layers import Conv2d, pad
from alexnet.models.registry import create_model
from alexnet.models.variants import VARIANTS
from alexnet.runtime.device import DeviceConfig

CPU = torch.device("cpu")
GEOMETRIES = {  # (channels, filters, kernel, stride, padding, groups)
    "alone": (64, 96, 5, 1, 2, 1),
    "two towers": (96, 256, 5, 1, 2, 2),
    "rounded up": (32, 32, 5, 2, "ceil", 1),
    "Keras's padding": (8, 16, 3, 2, "same", 1),
}
SEVEN_BITS = """\
import pytest, torch
torch.cpu._is_vnni_supported = lambda: False
raise SystemExit(pytest.main(["-n0", "-q", "-p", "no:cacheprovider", {path!r}, "-k", "as_near"]))"""


def a_convolution(geometry):
    torch.manual_seed(0)
    layer = Conv2d(*geometry)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer.requires_grad_(False)


def some_images(signed, *shape):
    """Of several magnitudes, for each has a scale of its own."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    return (x if signed else x.relu()) * torch.tensor([1.0, 1e-3, 40.0]).view(-1, *[1] * len(shape))


def assert_as_near_as_rounding_allows(y, x, layer, signed, apply):
    """No further from ``layer(x)`` than when each factor is off by half a step, all to the same side."""
    weight, levels, largest = layer.weight, 127 if signed else 255, 127 if torch.cpu._is_vnni_supported() else 63
    each = [-1, *[1] * (x.dim() - 1)]
    half_x = x.abs().flatten(1).amax(1).view(each) / levels * (1 + 2**-7) / 2 * torch.ones_like(x)
    half_w = weight.abs().flatten(1).amax(1).view([-1, *[1] * (weight.dim() - 1)]) / largest / 2
    bound = apply(half_x, weight.abs()) + apply(x.abs() + half_x, half_w * torch.ones_like(weight))
    exact = layer(x)
    assert ((y - exact).abs() <= bound + 1e-4 * exact.abs()).all()
    assert (y - exact).norm() < 0.03 * exact.norm()  # and much nearer as a whole, for errors are to both sides


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolutions_are_as_near_as_rounding_allows(name, signed):
    layer = a_convolution(GEOMETRIES[name])
    quantized = Int8Conv2d(layer, signed=signed)
    for side in (13, 27, 13):
        x = some_images(signed, layer.in_channels, side, side).to(memory_format=torch.channels_last)
        padded = pad(x, layer.kernel_size[0], layer.stride[0], layer.pad_rule)

        def apply(images, weight):
            return F.conv2d(images, weight, None, layer.stride, layer.padding, 1, layer.groups)

        y = quantized(x)
        assert y.dtype == torch.float32
        plain = torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        plain.groups, plain.weight, plain.bias = layer.groups, layer.weight, layer.bias
        assert_as_near_as_rounding_allows(y, padded, plain, signed, apply)


@pytest.mark.parametrize("signed", [False, True])
def test_linear_layers_are_as_near_as_rounding_allows(signed):
    torch.manual_seed(0)
    layer = torch.nn.Linear(9216, 100).requires_grad_(False)
    x = some_images(signed, 9216)
    assert_as_near_as_rounding_allows(Int8Linear(layer, signed=signed)(x), x, layer, signed, F.linear)


@pytest.mark.skipif(sys.platform != "linux", reason="instructions are hidden from oneDNN by a variable, on Linux")
def test_sums_do_not_overflow_where_products_are_added_in_sixteen_bits():
    """The tests above once more, on a CPU without VNNI, where whole numbers of eight bits would be cut off."""
    hidden = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    code = SEVEN_BITS.format(path=__file__)
    done = subprocess.run([sys.executable, "-c", code], env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


@pytest.mark.parametrize("name", GEOMETRIES)
def test_an_image_s_answer_does_not_depend_on_those_beside_it(name):
    layer = a_convolution(GEOMETRIES[name])
    quantized = Int8Conv2d(layer, signed=False)
    x = some_images(False, layer.in_channels, 13, 13).to(memory_format=torch.channels_last)
    assert torch.equal(quantized(x)[1:2], quantized(x[1:2].contiguous(memory_format=torch.channels_last)))


def test_what_is_no_number_stays_none_and_in_its_image():
    linear = torch.nn.Linear(64, 8)
    for layer, shape in ((Int8Conv2d(a_convolution(GEOMETRIES["alone"]), signed=False), (64, 9, 9)),
                         (Int8Linear(linear, signed=False), (64,))):  # fmt: skip
        x = torch.ones(3, *shape)
        x[1].view(-1)[5] = torch.nan
        x[2].view(-1)[5] = torch.inf
        y = layer(x)
        assert y[0].isfinite().all()
        assert not y[1:].isfinite().any()


def test_an_image_of_zeros_gives_the_biases():
    layer = a_convolution(GEOMETRIES["two towers"])
    y = Int8Conv2d(layer, signed=False)(torch.zeros(1, 96, 5, 5))
    torch.testing.assert_close(y[0, :, 2, 2], layer.bias)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_predicts_nearly_what_its_reference_does(randomised, variant, bf16):
    architecture = VARIANTS[variant].architecture
    small = architecture is not None and architecture.image_size > 96
    network = randomised(variant, 96 if small else None).float()
    device_config = DeviceConfig(CPU, bf16=bf16, int8=True)
    frozen = accelerate(network, device_config)
    reference = accelerate(network, DeviceConfig(CPU, bf16=False, reference=True))
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(9, network.in_channels, network.image_size, network.image_size, generator=draws)
    with torch.inference_mode(), device_config.autocast():
        ours, one = frozen(x), frozen(x[4:5])
    with torch.inference_mode():
        theirs = reference(x)
    assert (ours.float() - theirs).norm() < 0.06 * theirs.norm()
    assert (ours.float() - theirs).norm() > 1e-4 * theirs.norm()  # something was rounded
    assert torch.equal(ours[4:5], one) or bf16  # what is left in bf16 may be summed in another order


def test_all_layers_but_the_first_have_int8_weights_and_the_network_keeps_its_own():
    network = create_model("torchvision", num_classes=10, image_size=63, seed=0)
    frozen = accelerate(network, DeviceConfig(CPU, bf16=False, int8=True))
    kinds = {name: type(getattr(frozen, name)) for name in ("conv1", "conv2", "conv5", "fc6", "fc8")}
    assert kinds == dict(zip(kinds, (PrepackedConv2d, Int8Conv2d, Int8Conv2d, Int8Linear, Int8Linear), strict=True))
    assert not any(isinstance(module, Int8Conv2d | Int8Linear) for module in network.modules())


def test_layers_have_the_names_that_they_had():
    network = create_model("small", in_channels=3, seed=0).eval()
    frozen = accelerate(network, DeviceConfig(CPU, bf16=False, int8=True))
    with torch.inference_mode():
        outputs = frozen.layer_outputs(torch.zeros(2, 3, 28, 28), list(network.layer_shapes()))
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == network.layer_shapes()


@pytest.mark.parametrize(
    ("variant", "overrides", "signed"),
    [
        ("paper", {}, {"conv1"}),
        ("keras", {}, {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6"}),  # batch norm after ReLU
        ("small", {"activation": "tanh"}, {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}),
        ("lenet5", {}, {"conv1"}),
    ],
)
def test_which_layers_read_negative_numbers(variant, overrides, signed):
    side = 28 if variant in ("small", "lenet5") else 80
    network = create_model(variant, num_classes=10, in_channels=1, image_size=side, seed=0, **overrides).eval()
    found, negative = set(), True
    for name, module in network.named_children():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and negative:
            found.add(name)
        negative = output_is_signed(module, negative)
    assert found == signed
    inputs = {}
    for name, module in network.named_children():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(0.01)  # as after training: some outputs are negative
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda _, given, __, name=name: inputs.update({name: given[0]}))
    with torch.inference_mode():
        network(torch.randn(4, 1, side, side))
    assert {name for name, given in inputs.items() if bool((given < 0).any())} == signed


def test_the_probe_finds_no_fault_here_and_a_fault_costs_int8_only(monkeypatch, randomised):
    assert int8_fault() is None
    network, lines = randomised("small").float(), []
    monkeypatch.setattr("alexnet.kernels.accelerate.int8_fault", lambda: "RuntimeError: gone")
    frozen = accelerate(network, DeviceConfig(CPU, bf16=False, int8=True), log=lines.append)
    assert lines == ["int8 layers cannot be used, layers in bf16 or fp32 are used instead: RuntimeError: gone"]
    x = torch.randn(2, network.in_channels, network.image_size, network.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(x), network.eval()(x), rtol=1e-4, atol=1e-4)
