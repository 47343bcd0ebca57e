"""Which network a file holds: shapes, the order of operations, and settings that the file states."""

from dataclasses import replace

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.models.registry import build, get_architecture, get_variant
from alexnet.models.variants import VARIANTS
from alexnet.weights.foreign import ForeignLayer, ForeignOp, ForeignWeights
from alexnet.weights.identify import identify, name_layers

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None]

OP_KINDS = {"activation": "activation", "lrn": "lrn", "batch-norm": "batch-norm", "pool": "pool"}


def foreign(name, framework="torch", *, classes=None, channels=None, size=None, describe=False, **overrides):
    """The weights of a variant as a file of a framework would hold them, without memory for the numbers."""
    row = get_variant(name)
    architecture = get_architecture(name, **overrides)
    network = build(name, architecture, classes or row.num_classes, channels or row.in_channels, size, device="meta")
    layers = []
    for layer_name, layer in network.named_children():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layers.append(
                ForeignLayer(layer_name, "batch-norm", layer.weight, layer.bias, layer.running_mean, layer.running_var)
            )
        elif hasattr(layer, "weight"):
            layers.append(
                ForeignLayer(layer_name, "conv" if layer.weight.ndim == 4 else "linear", layer.weight, layer.bias)
            )
    weights = ForeignWeights(framework, framework, tuple(layers))
    return replace(weights, ops=operations(architecture)) if describe else weights


def operations(architecture):
    """The operations of an architecture as a file would describe them, without settings."""
    ops = []
    for layer in architecture.convs:
        ops += [ForeignOp("conv"), *(ForeignOp(OP_KINDS[op]) for op in layer.ops if op in OP_KINDS)]
    for _ in range(2):
        ops += [ForeignOp("linear"), ForeignOp("activation"), ForeignOp("dropout")]
    return (*ops, ForeignOp("linear"))


@pytest.mark.parametrize("width", [1.0, 0.25])
@pytest.mark.parametrize("name", ALEXNETS)
def test_every_variant_with_its_name(name, width):
    weights = foreign(name, **({"width": width} if width != 1 else {}))
    found = identify(weights, name)
    assert found.variant == name
    network = build(name, found.architecture, found.num_classes, found.in_channels, found.image_size, device="meta")
    expected = {f"{layer.name}.weight": layer.weight.shape for layer in weights.layers}
    assert {key: network.state_dict()[key].shape for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "framework", "expected"),
    [
        ("torchvision", "torchvision", "torchvision"),
        ("paper-half", "torch", "paper-half"),
        ("small", "alexnet", "small"),
    ],
)
def test_shapes_and_frameworks_that_decide(name, framework, expected):
    assert identify(foreign(name, framework)).variant == expected


@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (21841, 4)])
def test_classes_and_channels_are_free(classes, channels):
    found = identify(foreign("torchvision", "torchvision", classes=classes, channels=channels))
    assert (found.num_classes, found.in_channels) == (classes, channels)


def test_caffe_files_of_equal_shapes_are_decided_by_the_order_of_operations():
    with pytest.raises(
        UserError, match="equal shapes: bvlc-alexnet, caffenet; name the right one: alexnet convert FILE"
    ):
        identify(foreign("caffenet", "caffe"))
    for name in ("bvlc-alexnet", "caffenet"):
        found = identify(foreign(name, "caffe", describe=True))
        assert found.variant == name
        assert "the order of its operations is in the file" in found.reasons


def test_a_name_decides_against_the_order_and_says_so():
    found = identify(foreign("caffenet", "caffe", describe=True), "bvlc-alexnet")
    assert found.variant == "bvlc-alexnet"
    order = "after conv1: found activation, pool, lrn, bvlc-alexnet has activation, lrn, pool"
    assert found.assumptions[0] == f"{order}; --variant bvlc-alexnet decided"


def with_settings(weights, kind, number=0, **settings):
    """The weights with settings of the operation ``number`` of a kind."""
    places = [place for place, op in enumerate(weights.ops) if op.kind == kind]
    ops = list(weights.ops)
    ops[places[number]] = replace(ops[places[number]], settings=settings)
    return replace(weights, ops=tuple(ops))


def test_settings_that_the_file_states_are_taken():
    weights = foreign("caffenet", "caffe", describe=True)
    weights = with_settings(weights, "lrn", alpha=3e-5, k=1.0, size=5, beta=0.75, convention="sum")
    weights = with_settings(weights, "pool", kernel=3, stride=2, ceil_mode=False)
    found = identify(weights)
    assert (found.architecture.lrn_alpha, found.architecture.lrn_convention) == (3e-5, "sum")
    assert "lrn_alpha is 3e-05 in the file, 0.0001 in caffenet" in found.assumptions
    # at 227 pixels both roundings give 6 × 6 maps: the variant's own stays
    assert not any("pool" in line for line in found.assumptions)
    same = identify(
        with_settings(foreign("caffenet", "caffe", describe=True), "lrn", alpha=float(torch.tensor(1e-4)), k=1)
    )
    assert same.assumptions == ()


def test_an_alpha_of_the_other_convention_with_the_same_effect_is_no_difference():
    """2e-5 of the sum of five squares is 1e-4 of their mean."""
    weights = foreign("caffenet", "caffe", describe=True)
    found = identify(with_settings(weights, "lrn", alpha=2e-5, k=1.0, size=5, beta=0.75, convention="sum"))
    assert (found.architecture.lrn_alpha, found.architecture.lrn_convention) == (2e-5, "sum")
    assert not any("lrn" in line for line in found.assumptions)


def test_paddings_that_are_the_same_zeros_are_the_same():
    weights = foreign("keras", "keras", describe=True)
    found = identify(with_settings(weights, "conv", number=2, padding=1, stride=1))
    assert found.assumptions == ()
    found = identify(with_settings(weights, "conv", number=0, padding=2, stride=4), "keras")
    assert "conv1: padding is 2 in the file, 'same' in keras" in found.assumptions


def test_the_epsilon_of_batch_normalization_is_the_files():
    found = identify(with_settings(foreign("keras", "keras", describe=True), "batch-norm", eps=1e-5))
    assert found.architecture.batch_norm_eps == 1e-5


def test_the_image_size_follows_from_fc6():
    found = identify(foreign("caffenet", "caffe", size=259, describe=True))
    assert found.architecture.map_sizes(found.image_size)[-1] == 7
    assert any("the smallest that give the 7 × 7 maps of fc6" in line for line in found.assumptions)
    stated = replace(foreign("caffenet", "caffe", size=259, describe=True), image_size=259)
    assert identify(stated).image_size == 259


def test_both_sides_are_listed():
    weights = foreign("torchvision", "torchvision")
    wide = [torch.empty(100, *layer.weight.shape[1:], device="meta") for layer in weights.layers]
    layers = [
        replace(layer, weight=weight) if layer.name == "conv2" else layer
        for layer, weight in zip(weights.layers, wide, strict=True)
    ]
    with pytest.raises(UserError) as caught:
        identify(replace(weights, layers=tuple(layers)))
    assert caught.value.line == "FILE holds the weights of no variant; the nearest is torchvision: 1 difference"
    assert caught.value.details == ("conv2 (conv2): found 100 × 64 × 5 × 5, expected 192 × 64 × 5 × 5",)


def test_fc6_that_fits_no_square_of_maps():
    weights = foreign("caffenet", "caffe")
    odd = tuple(
        replace(layer, weight=torch.empty(4096, 9217, device="meta")) if layer.name == "fc6" else layer
        for layer in weights.layers
    )
    with pytest.raises(UserError) as caught:
        identify(replace(weights, layers=odd), "caffenet")
    assert "fc6: found 9217 inputs for 256 feature maps" in caught.value.details


def test_other_numbers_of_layers():
    weights = foreign("torchvision", "torchvision")
    with pytest.raises(UserError, match="5 convolutions, 2 linear layers and 0 batch normalizations"):
        name_layers(replace(weights, layers=weights.layers[:-1]))
    with pytest.raises(UserError, match="variant 'lenet5' is no AlexNet"):
        identify(weights, "lenet5")
    with pytest.raises(UserError, match="unknown variant 'torchvison': did you mean 'torchvision'"):
        identify(weights, "torchvison")
