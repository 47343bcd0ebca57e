"""The table: how many parameters, under which names, from which numbers they start, and that every row runs."""

import math

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.core.schema import to_json
from alexnet.models.bundle import architecture_from_json
from alexnet.models.registry import build, create_model, get_architecture
from alexnet.models.variants import VARIANTS

PARAMETERS = {  # 1000 classes and 3 channels, except where the second line says 10 and 1
    "paper": 60_965_224, "cuda-convnet": 60_965_224, "paper-half": 59_798_312, "bvlc-alexnet": 60_965_224,
    "caffenet": 60_965_224, "one-tower": 62_378_344, "torchvision": 61_100_840, "keras": 62_381_096,
    "batchnorm": 62_381_096, "trunk": 2_594_280, "nvidia-batchnorm": 60_967_464,
    "d2l": 46_764_746, "small": 919_754, "lenet5": 61_706,
    "cifar-18pct": 89_578, "cifar-13pct": 1_116_490, "cifar-11pct": 2_112_970, "cifar-relu": 89_578,
    "cifar-tanh": 89_578,
}  # fmt: skip
GREY = ("d2l", "small", "lenet5")
CIFAR = ("cifar-18pct", "cifar-13pct", "cifar-11pct", "cifar-relu", "cifar-tanh")
SMALLEST = {
    "paper": 64, "cuda-convnet": 52, "paper-half": 64, "bvlc-alexnet": 55, "caffenet": 55, "one-tower": 63,
    "torchvision": 63, "d2l": 65, "keras": 57, "batchnorm": 63, "small": 15, "trunk": 29, "lenet5": 12,
    "nvidia-batchnorm": 55, "cifar-18pct": 12, "cifar-13pct": 6, "cifar-11pct": 6, "cifar-relu": 12, "cifar-tanh": 12,
}  # fmt: skip
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def test_the_tables_here_cover_the_table():
    assert set(PARAMETERS) == set(SMALLEST) == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts(name):
    classes, channels = 10 if name in GREY + CIFAR else 1000, 1 if name in GREY else 3
    row = VARIANTS[name]
    assert (row.num_classes, row.in_channels) == (classes, channels)
    network = build(name, row.architecture, classes, channels, None, device="meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    floating = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    averages = {"keras": 2752, "batchnorm": 2752, "nvidia-batchnorm": 2240, "small": 960, "trunk": 1920}
    assert floating == averages.get(name, 0)


@pytest.mark.parametrize("name", [name for name, row in VARIANTS.items() if row.architecture])
def test_state_keys_are_the_papers_names(name):
    keys = build(name, get_architecture(name), 10, 3, None, device="meta").state_dict().keys()
    assert [key for key in keys if not key.startswith("norm")] == [
        f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")
    ]
    norms = {key.split(".")[0] for key in keys if key.startswith("norm")}
    count = {"keras": 5, "batchnorm": 5, "nvidia-batchnorm": 4, "small": 5, "trunk": 5}.get(name, 0)
    assert norms == {f"norm{n}" for n in range(1, count + 1)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_at_its_own_and_its_smallest_size(name, channels, slim):
    for image_size, images in ((None, 1), (SMALLEST[name], 2)):  # batch norm on 1×1 maps needs two
        network = create_model(name, num_classes=7, in_channels=channels, image_size=image_size, seed=0, **slim(name))
        side = network.image_size
        logits = network(100 * torch.randn(images, channels, side, side))
        assert logits.shape == (images, 7)
        torch.nn.functional.cross_entropy(logits, torch.full((images,), 6)).backward()
        for key, parameter in ((key, each) for key, each in network.named_parameters() if each.requires_grad):
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", VARIANTS)
def test_below_the_smallest_size_the_error_names_it(name):
    for size in (SMALLEST[name] - 1, 1, 0, -5):
        with pytest.raises(ValueError, match=rf"{name}.* {size} pixels .* {SMALLEST[name]}$"):
            create_model(name, num_classes=10, in_channels=3, image_size=size)


def constants(std, bias, **differences):
    """Layer → (σ, bias), the same everywhere but in the layers that are named."""
    return {layer: differences.get(layer, (std, bias)) for layer in LAYERS}


ONES = dict.fromkeys(("conv2", "conv4", "conv5", "fc6", "fc7"), (0.01, 1.0))
GAUSSIAN = {
    "paper": constants(0.01, 0.0, **ONES),  # paper §5
    "paper-half": constants(0.01, 0.0, **ONES),
    # layers-145.cfg: initW, initB
    "cuda-convnet": constants(0.01, 0.0, **{**ONES, "conv3": (0.03, 0.0), "conv4": (0.03, 1.0), "conv5": (0.03, 1.0)}),
    # Caffe's train_val.prototxt: weight_filler, bias_filler
    "bvlc-alexnet": constants(
        0.01, 0.0, conv2=(0.01, 0.1), conv4=(0.01, 0.1), conv5=(0.01, 0.1), fc6=(0.005, 0.1), fc7=(0.005, 0.1)
    ),
    "caffenet": constants(0.01, 0.0, **{**ONES, "fc6": (0.005, 1.0), "fc7": (0.005, 1.0)}),
}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussian_starts(name, slim):
    network = create_model(name, num_classes=1000, seed=1, **slim(name))
    for layer, (std, bias) in GAUSSIAN[name].items():
        module = network.get_submodule(layer)
        weight, count = module.weight.detach(), module.weight.numel()
        assert abs(float(weight.std()) - std) < 5 * std / math.sqrt(2 * count), layer
        assert abs(float(weight.mean())) < 5 * std / math.sqrt(count), layer
        assert (module.bias == bias).all(), layer


def glorot(weight):
    fan_in = weight[0].numel()
    return math.sqrt(6 / (fan_in + len(weight) * weight[0][0].numel()))


def within_fan_in(weight):
    return 1 / math.sqrt(weight[0].numel())


UNIFORM = {  # name → (bound of the weights, bound of the biases)
    "one-tower": (within_fan_in, within_fan_in),
    "torchvision": (within_fan_in, within_fan_in),
    "d2l": (glorot, within_fan_in),
    "lenet5": (glorot, within_fan_in),
    "keras": (glorot, lambda weight: 0.0),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_starts(name, slim):
    network = create_model(name, num_classes=100, seed=1, **slim(name))
    for layer, module in network.named_children():
        if not isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            continue
        for values, bound in zip((module.weight.detach(), module.bias.detach()), UNIFORM[name], strict=True):
            limit, count = bound(module.weight), values.numel()
            assert values.abs().max() <= limit * (1 + 1e-6), layer
            # the variance of a uniform variable is bound²/3, that of its square 4/45 bound⁴
            assert abs(float(values.square().mean()) - limit**2 / 3) <= 5 * limit**2 * math.sqrt(4 / 45 / count), layer


@pytest.mark.parametrize("name", ["batchnorm", "small"])
def test_he_starts(name, slim):
    network = create_model(name, num_classes=100, seed=1, **slim(name))
    for layer in LAYERS:
        module = network.get_submodule(layer)
        # He's rule is for what a ReLU follows; what is before the softmax starts small
        std, count = 0.001 if layer == "fc8" else math.sqrt(2 / module.weight[0].numel()), module.weight.numel()
        assert abs(float(module.weight.detach().std()) - std) < 5 * std / math.sqrt(2 * count), layer
        assert (module.bias == 0).all()


@pytest.mark.parametrize(("name", "size"), [("batchnorm", 63), ("small", 28)])
def test_the_first_loss_is_that_of_guessing(name, size):
    network = create_model(name, num_classes=10, in_channels=3, image_size=size, seed=1)
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(network(images), torch.arange(8))
    assert abs(loss.item() - math.log(10)) < 0.25


@pytest.mark.parametrize("name", ["keras", "batchnorm"])
def test_batch_norm_starts_as_the_identity_with_the_papers_or_keras_constants(name, slim):
    network = create_model(name, num_classes=10, seed=0, **slim(name))
    norm = network.norm1
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert (norm.running_mean == 0).all()
    assert (norm.running_var == 1).all()
    assert norm.num_batches_tracked == 0
    assert (norm.eps, norm.momentum) == {"keras": (1e-3, pytest.approx(0.01)), "batchnorm": (1e-5, 0.1)}[name]


def test_nvidias_batch_norm_has_no_scale_and_shift(slim):
    network = create_model("nvidia-batchnorm", num_classes=10, seed=0, **slim("nvidia-batchnorm"))
    names = [name for name, _ in network.named_children()]
    assert names[:9] == ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3"]
    assert names[9:17] == ["relu3", "norm3", "conv4", "relu4", "norm4", "conv5", "relu5", "pool5"]
    for name in ("norm1", "norm4"):
        norm = network.get_submodule(name)
        assert (norm.eps, norm.momentum, norm.weight.requires_grad, norm.bias.requires_grad) == (
            1e-4,
            0.1,
            False,
            False,
        )
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    assert network.fc8.bias.unique().tolist() == [pytest.approx(0.01)]


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_a_function_of_the_seed(name, slim):
    one, same, other = (
        create_model(name, num_classes=10, seed=seed, **slim(name, 8)).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    weights = [key for key in one if key.endswith("weight") and not key.startswith("norm")]
    assert not any(torch.equal(one[key], other[key]) for key in weights)


def test_without_a_seed_torchs_generator_governs():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append([create_model("small", num_classes=10, in_channels=1).conv1.weight for _ in range(2)])
    assert torch.equal(weights[0][0], weights[1][0])
    assert torch.equal(weights[0][1], weights[1][1])
    assert not torch.equal(weights[0][0], weights[0][1])
    assert not torch.equal(weights[0][0], weights[2][0])


def test_a_given_seed_leaves_torchs_generator_alone():
    before = torch.random.get_rng_state()
    create_model("small", num_classes=10, in_channels=1, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "differences", "line"),
    [
        ("papr", {}, "unknown variant 'papr': did you mean 'paper'?"),
        ("paper", {"dropuot": 0.1}, "unknown field of an architecture 'dropuot': did you mean 'dropout'?"),
        ("paper", {"activation": "rely"}, "unknown value of activation 'rely': did you mean 'relu'?"),
        ("paper", {"norm_layer": "bacth"}, "unknown norm_layer 'bacth': did you mean 'batch'?"),
        ("lenet5", {"dropout": 0.1}, "variant 'lenet5' does not have these fields: "),
    ],
)
def test_mistakes_name_the_remedy(name, differences, line):
    with pytest.raises(UserError) as caught:
        create_model(name, num_classes=10, **differences)
    assert caught.value.line.startswith(line)


def ops(architecture):
    return [layer.ops for layer in architecture.convs]


def test_normalizations_are_exchanged_where_the_published_forms_have_them():
    bare = [("activation", "pool"), ("activation", "pool"), ("activation",), ("activation",), ("activation", "pool")]
    for name in ("paper", "cuda-convnet", "bvlc-alexnet", "torchvision", "keras", "batchnorm"):
        assert ops(get_architecture(name, norm_layer="none")) == bare
        assert ops(get_architecture(name, norm_layer="lrn")) == ops(get_architecture("paper"))
        assert ops(get_architecture(name, norm_layer="batch")) == ops(get_architecture("batchnorm"))
    assert get_architecture("paper", norm_layer="lrn") == get_architecture("paper")


def test_columns_are_those_of_the_paper():
    assert get_architecture("paper", groups=2) == get_architecture("paper")
    assert get_architecture("torchvision", groups=1) == get_architecture("torchvision")
    one = build("paper", get_architecture("paper", groups=1), 1000, 3, None, device="meta")
    assert sum(parameter.numel() for parameter in one.parameters()) == PARAMETERS["one-tower"]


def test_width_multiplies_filters_and_hidden_units():
    half = get_architecture("paper", width=0.5)
    assert [layer.filters for layer in half.convs] == [48, 128, 192, 192, 128]
    assert [layer.units for layer in half.hidden] == [2048, 2048]
    odd = get_architecture("small", width=0.3, groups=2)
    assert [layer.filters for layer in odd.convs] == [8, 16, 40, 40, 40]
    assert create_model("small", num_classes=10, in_channels=3, width=0.3, groups=2)(
        torch.zeros(2, 3, 28, 28)
    ).shape == (2, 10)


@pytest.mark.parametrize("sizes", [(0, 3), (10, 0), (-1, 3)])
def test_no_network_without_classes_or_channels(sizes):
    with pytest.raises(ValueError, match="at least one class and one channel"):
        create_model("paper", num_classes=sizes[0], in_channels=sizes[1])


def test_a_later_field_of_an_architecture_is_in_json_only_if_it_is_used():
    """The hash of weights that a training began with holds this JSON: it must not change for older networks."""
    later = {"batch_norm_affine", "output_bias"}
    for name, row in VARIANTS.items():
        if row.architecture is not None:
            written = to_json(row.architecture)
            assert later & written.keys() == (later if name == "nvidia-batchnorm" else set())
            assert architecture_from_json(written) == row.architecture
