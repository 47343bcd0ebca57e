"""The layer table against published figures, and against what a network really does."""

import pytest
import torch

from alexnet.models.registry import build, create_model, get_architecture
from alexnet.models.summary import summarize
from alexnet.models.variants import VARIANTS


def table(name, num_classes=None, in_channels=None, image_size=None):
    row = VARIANTS[name]
    classes, channels = num_classes or row.num_classes, in_channels or row.in_channels
    return summarize(build(name, row.architecture, classes, channels, image_size, device="meta"))


def column(summary, field):
    return {layer.name: getattr(layer, field) for layer in summary.layers}


def test_rows_have_the_papers_names_in_the_papers_order():
    assert [layer.name for layer in table("paper").layers] == [
        "conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8",
    ]  # fmt: skip
    first = [layer.name for layer in table("caffenet").layers][:6]
    assert first == ["conv1", "pool1", "norm1", "conv2", "pool2", "norm2"]
    assert "within_channel_norm2" in column(table("cuda-convnet"), "kind")
    assert [layer.name for layer in table("lenet5").layers] == [
        "conv1", "pool1", "conv2", "pool2", "fc3", "fc4", "fc5",
    ]  # fmt: skip


def test_kinds_are_told_apart():
    kinds = column(table("cuda-convnet"), "kind")
    assert {kinds[name] for name in ("norm1", "within_channel_norm2", "pool1", "conv1", "fc6")} == {
        "local response norm", "within-channel LRN", "max pool", "convolution", "fully connected",
    }  # fmt: skip
    assert column(table("keras"), "kind")["norm3"] == "batch norm"
    assert column(table("lenet5"), "kind")["pool1"] == "average pool"
    assert column(table("torchvision", image_size=256), "kind")["avgpool5"] == "adaptive average pool"
    assert "avgpool5" not in column(table("torchvision"), "kind")


def test_receptive_fields_are_the_known_ones():
    fields, steps = (column(table("paper"), name) for name in ("receptive_field", "step"))
    assert [fields[f"conv{n}"] for n in range(1, 6)] == [11, 51, 99, 131, 163]
    assert (fields["pool1"], fields["pool2"], fields["pool5"]) == (19, 67, 195)
    assert [steps[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")] == [4, 8, 8, 16, 16, 32]
    assert fields["norm1"] == 11
    assert fields["fc6"] is steps["fc6"] is None
    in_map = column(table("cuda-convnet"), "receptive_field")
    assert in_map["within_channel_norm2"] == 51 + 4 * 8  # a 5×5 window over units eight pixels apart


def test_a_receptive_field_is_what_a_unit_depends_on():
    network = create_model(
        "d2l", num_classes=2, in_channels=1, seed=0, hidden=get_architecture("small").hidden
    ).double()
    seen = {}
    for name in ("conv2", "conv3", "conv5"):
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    network(image := torch.randn(1, 1, 224, 224, dtype=torch.float64, requires_grad=True))
    for name, size in (("conv2", 51), ("conv3", 99), ("conv5", 163)):
        middle = seen[name].shape[-1] // 2
        (gradient,) = torch.autograd.grad(seen[name][0, :, middle, middle].sum(), image, retain_graph=True)
        rows = gradient[0, 0].abs().sum(1).nonzero().flatten()
        assert int(rows[-1] - rows[0]) + 1 <= size
        # max pools pass one pixel of nine on, so a particular image may show a little less than all of it
        assert int(rows[-1] - rows[0]) + 1 >= size - 16


@pytest.mark.parametrize(
    ("name", "size", "multiply_adds"),
    [
        ("paper", 224, 724_406_816),
        ("torchvision", 224, 714_188_480),  # torchvision's documentation: 0.71 G
        ("one-tower", 224, 1_135_256_096),
        ("lenet5", 28, 416_520 + 84 * 990),
    ],
)
def test_multiply_adds_are_the_published_ones(name, size, multiply_adds):
    assert table(name, 1000, 1 if name == "lenet5" else 3, size).multiply_adds == multiply_adds


def test_first_convolution_of_the_paper():
    layer = table("paper").layers[0]
    assert layer.shape == (96, 55, 55)
    assert layer.multiply_adds == 105_415_200
    assert layer.parameters == 96 * 363 + 96
    assert layer.activation_bytes == 4 * 96 * 55 * 55


def test_d2l_shapes_are_its_documents():
    shapes = [layer.shape for layer in table("d2l").layers]
    assert [shape[-1] for shape in shapes[:8]] == [54, 26, 26, 12, 12, 12, 12, 5]
    assert shapes[7] == (256, 5, 5)
    assert shapes[8:] == [(4096,), (4096,), (10,)]


WEIGHED = ("convolution", "locally connected", "fully connected")


@pytest.mark.parametrize("name", VARIANTS)
def test_totals_are_the_networks_own(name):
    network = build(name, VARIANTS[name].architecture, 10, 3, None, device="meta")
    summary = summarize(network)
    assert summary.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert summary.activation_bytes == sum(layer.activation_bytes for layer in summary.layers)
    for layer in summary.layers:
        assert bool(layer.parameters) == (layer.kind in (*WEIGHED, "batch norm"))
        assert bool(layer.multiply_adds) == (layer.kind in WEIGHED)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_in_memory_is_left_as_it_was(training):
    network = create_model("small", num_classes=10, in_channels=1, seed=0).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    summary = summarize(network)
    assert summary == table("small")
    assert network.training == training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
