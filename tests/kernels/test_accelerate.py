"""Fast kernels from outside: the network that was given stays reference, and shares or keeps its parameters."""

import copy

import pytest
import torch
from torch import nn

from alexnet.kernels import accelerate as table
from alexnet.kernels.accelerate import KERNELS, accelerate
from alexnet.kernels.blocked import BlockedLinear
from alexnet.kernels.lrn import FastLocalResponseNorm
from alexnet.kernels.prepacked import PrepackedConv2d
from alexnet.kernels.winograd import WinogradConv2d
from alexnet.models.capabilities import narrow_network
from alexnet.models.layers import Conv2d, LocalResponseNorm, draw_masks
from alexnet.models.variants import VARIANTS
from alexnet.runtime.device import DeviceConfig

CPU = DeviceConfig(torch.device("cpu"), bf16=False)
REFERENCE = DeviceConfig(torch.device("cpu"), bf16=False, reference=True)
BF16 = DeviceConfig(torch.device("cpu"), bf16=True)


def images(network, count=3, dtype=torch.float32):
    draws = torch.Generator().manual_seed(0)
    side = network.image_size
    return torch.randn(count, network.in_channels, side, side, generator=draws, dtype=torch.float64).to(dtype)


def types(network):
    return [type(layer) for layer in network.children()]


def test_a_network_for_training_shares_parameters_buffers_and_names():
    for name in ("paper", "batchnorm", "lenet5"):
        network = CPU.to_device(narrow_network(name))
        before = types(network)
        fast = accelerate(network, CPU, training=True)
        assert type(fast) is type(network)
        assert list(fast.state_dict()) == list(network.state_dict())
        assert [name for name, _ in fast.named_children()] == [name for name, _ in network.named_children()]
        for ours, theirs in zip(fast.parameters(), network.parameters(), strict=True):
            assert ours is theirs
        for ours, theirs in zip(fast.buffers(), network.buffers(), strict=True):
            assert ours is theirs
        assert types(network) == before
        assert (fast.variant, fast.classes) == (network.variant, network.classes)


def test_layers_are_replaced_as_the_table_says():
    network = CPU.to_device(narrow_network("paper"))
    fast, frozen = accelerate(network, CPU, training=True), accelerate(network, CPU)
    assert (type(fast.conv1), type(fast.norm1), type(fast.fc6)) == (
        WinogradConv2d,
        FastLocalResponseNorm,
        BlockedLinear,
    )
    assert (type(frozen.conv1), type(frozen.norm1), type(frozen.fc6)) == (
        PrepackedConv2d, FastLocalResponseNorm, BlockedLinear,
    )  # fmt: skip
    assert (type(network.conv1), type(network.norm1), type(network.fc6)) == (Conv2d, LocalResponseNorm, nn.Linear)
    assert accelerate(network, REFERENCE, training=True) is network
    assert types(accelerate(network, REFERENCE)) == types(network)
    assert {kernel.reference for kernel in KERNELS} == {Conv2d, LocalResponseNorm, nn.Linear}


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_step_has_the_reference_s_gradients(capability, monkeypatch):
    """Fourth rule: whole networks forward 1e-5 in fp32, gradients 1e-9 in float64."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in VARIANTS:
        network = CPU.to_device(narrow_network(name)).train()
        fast = accelerate(network, CPU, training=True).train()
        masks = draw_masks(network.dropout_sites, 3, 0, 0, torch.device("cpu"))
        with torch.no_grad():
            averages = copy.deepcopy(dict(network.named_buffers()))
            ours = fast(images(network), masks)
            network.load_state_dict({**network.state_dict(), **averages})
            theirs = network(images(network), masks)
        assert (ours - theirs).norm() / theirs.norm() < 1e-5, name
        found = []
        for each in (fast, network):
            each.double().zero_grad(set_to_none=True)
            network.load_state_dict({**network.state_dict(), **averages})
            each(images(network, dtype=torch.float64), masks).square().sum().backward()
            found.append({key: value.grad.clone() for key, value in each.named_parameters() if value.requires_grad})
        for key, value in found[1].items():
            assert (found[0][key] - value).norm() <= 1e-9 * value.norm() + 1e-12, (name, key)


def test_in_bf16_the_gradient_is_no_further_from_float64_than_stock_autocast_s():
    for name in ("paper", "cuda-convnet", "torchvision"):
        network = narrow_network(name).eval()
        x = images(network)
        exact = copy.deepcopy(network).double()
        exact(x.double()).square().sum().backward()
        wanted = torch.cat([parameter.grad.flatten() for parameter in exact.parameters()])
        distances = []
        for each in (accelerate(BF16.to_device(copy.deepcopy(network)), BF16, training=True), copy.deepcopy(network)):
            with torch.autocast("cpu", torch.bfloat16):
                logits = each.eval()(x)
            logits.float().square().sum().backward()
            found = torch.cat([parameter.grad.flatten() for parameter in each.parameters()]).double()
            distances.append(float((found - wanted).norm()))
        assert distances[0] <= 1.2 * distances[1], name


def test_a_network_for_inference_is_a_copy_without_gradients():
    network = CPU.to_device(narrow_network("batchnorm")).train()
    frozen = accelerate(network, BF16)
    assert not frozen.training
    assert network.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert frozen.conv1.weight.dtype == torch.bfloat16
    assert network.conv1.weight.dtype == torch.float32
    x = images(network)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen(x), copy.deepcopy(network).eval()(x))  # rounded once or for each batch: the same bits


def test_a_kernel_with_a_fault_is_not_used_and_one_line_says_so(monkeypatch):
    network, lines = narrow_network("paper"), []
    faulty = [
        table.Kernel(kernel.name, kernel.reference, kernel.fast, kernel.training, kernel.inference, kernel.devices,
                     lambda config: "RuntimeError: the operation is gone")
        if kernel.fast is PrepackedConv2d else kernel
        for kernel in KERNELS
    ]  # fmt: skip
    monkeypatch.setattr(table, "KERNELS", tuple(faulty))
    frozen = accelerate(network, CPU, log=lines.append)
    assert type(frozen.conv1) is WinogradConv2d
    fault = "RuntimeError: the operation is gone"
    assert lines == [f"prepacked convolutions cannot be used, torch's layers are used instead: {fault}"]


def test_the_self_tests_find_no_fault_here_and_find_one_in_a_wrong_kernel(monkeypatch):
    from alexnet.kernels import int8, prepacked, selftest

    assert selftest.prepacked_fault(torch.float32) is None
    assert selftest.prepacked_fault(torch.bfloat16) is None
    assert selftest.int8_fault() is None
    right = prepacked.convolve
    monkeypatch.setattr(prepacked, "convolve", lambda *given: right(*given) * 1.01)
    monkeypatch.setattr(int8, "_scaled", lambda y, scale, bias: y)
    selftest.prepacked_fault.cache_clear()
    selftest.int8_fault.cache_clear()
    try:
        if torch.float32 in prepacked.packable_dtypes():
            assert "differs from the reference" in selftest.prepacked_fault(torch.float32)
        assert "differs from the reference" in selftest.int8_fault()
    finally:
        selftest.prepacked_fault.cache_clear()
        selftest.int8_fault.cache_clear()


@pytest.mark.parametrize("bf16", [False, True])
def test_a_frozen_copy_gives_the_same_bits_and_leaves_the_module_alone(bf16):
    torch.manual_seed(0)
    config = DeviceConfig(torch.device("cpu"), bf16)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    frozen, images = accelerate(module, config), torch.randn(4, 3, 8, 8)
    with torch.inference_mode(), config.autocast():
        assert torch.equal(frozen(images), config.to_device(module).eval()(images))
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert frozen[0].weight.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert frozen[1].weight.dtype == torch.float32
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert frozen[4].weight.data_ptr() != module[4].weight.data_ptr()
