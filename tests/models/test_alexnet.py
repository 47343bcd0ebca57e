"""Whole networks, in float64, against the same networks written out with library functions and nothing of ours.

The two columns of ``cuda-convnet`` are computed as two columns: each with its own filters, its own normalization and
its own pools, meeting only where the original's meet (``layers-145.cfg``).
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet.models.layers import draw_masks
from alexnet.models.registry import create_model, get_architecture
from alexnet.models.variants import VARIANTS

CLASSES = 5


def pixels(network, images=2):
    """What the 2012 code sees: 0 to 255 less the mean."""
    shape = (images, network.in_channels, network.image_size, network.image_size)
    return 60 * torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def flat(x):
    return x.flatten(1)


def fully_connected(x, w, keep):
    """fc6, fc7, fc8 in evaluation; ``keep`` is what hidden units are multiplied by there."""
    x = keep * F.relu(F.linear(x, w["fc6.weight"], w["fc6.bias"]))
    x = keep * F.relu(F.linear(x, w["fc7.weight"], w["fc7.bias"]))
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


def paper(x, w):
    """The paper's text: α on the sum (so torch's α is five times it), over all maps; two groups as two products."""

    def grouped(x, layer, padding):
        halves = zip(x.chunk(2, 1), w[f"{layer}.weight"].chunk(2), w[f"{layer}.bias"].chunk(2), strict=True)
        return torch.cat([F.conv2d(maps, weight, bias, padding=padding) for maps, weight, bias in halves], 1)

    def norm(x):
        return F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)

    x = F.relu(F.conv2d(F.pad(x, (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], stride=4))
    x = F.max_pool2d(norm(x), 3, 2)
    x = F.max_pool2d(norm(F.relu(grouped(x, "conv2", 2))), 3, 2)
    x = F.relu(F.conv2d(x, w["conv3.weight"], w["conv3.bias"], padding=1))
    x = F.relu(grouped(x, "conv4", 1))
    x = F.max_pool2d(F.relu(grouped(x, "conv5", 1)), 3, 2)
    return fully_connected(flat(x), w, keep=0.5)


def paper_half(x, w):
    def conv(x, layer, **options):
        return F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], **options))

    def norm_pool(x):
        return F.max_pool2d(F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0), 3, 2)

    x = norm_pool(conv(F.pad(x, (0, 3, 0, 3)), "conv1", stride=4))
    x = norm_pool(conv(x, "conv2", padding=2))
    x = conv(conv(x, "conv3", padding=1), "conv4", padding=1)
    return fully_connected(flat(F.max_pool2d(conv(x, "conv5", padding=1), 3, 2)), w, keep=0.5)


def cuda_convnet(x, w):
    """Columns a and b, as ``layers-145.cfg`` lists them."""

    def own(layer, column):
        """A column's filters and biases: the first or the second half."""
        weights, biases = w[f"{layer}.weight"], w[f"{layer}.bias"]
        half = len(weights) // 2
        return weights.split(half)[column], biases.split(half)[column]

    def cmrnorm(x):  # scale is divided by size; minDiv 2
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0)

    def rnorm(x):  # 5×5 inside the map, zeros outside, scale divided by 25
        return x * (1 + 1e-3 * F.avg_pool2d(x * x, 5, 1, 2, count_include_pad=True)) ** -0.75

    image = F.pad(x, (0, 3, 0, 3))
    pool1, pool2, pool3 = [], [], []
    for column in (0, 1):
        conv1 = F.conv2d(image, *own("conv1", column), stride=4)  # no neuron here: the norm sees negative responses
        pool1.append(F.relu(F.max_pool2d(cmrnorm(conv1), 3, 2, ceil_mode=True)))
    for column in (0, 1):
        conv2 = F.relu(F.conv2d(pool1[column], *own("conv2", column), padding=2))
        pool2.append(F.max_pool2d(rnorm(cmrnorm(conv2)), 3, 2, ceil_mode=True))
    for column in (0, 1):
        weight, bias = own("conv3", column)  # of both columns: two weight matrices, summed, one bias
        from_a, from_b = weight.split(128, 1)
        conv3 = F.conv2d(pool2[0], from_a, bias, padding=1) + F.conv2d(pool2[1], from_b, padding=1)
        conv4 = F.relu(F.conv2d(F.relu(conv3), *own("conv4", column), padding=1))
        conv5 = F.conv2d(conv4, *own("conv5", column), padding=1)
        pool3.append(F.relu(F.max_pool2d(conv5, 3, 2, ceil_mode=True)))
    hidden = torch.cat([flat(pool3[0]), flat(pool3[1])], 1)
    for layer in ("fc6", "fc7"):  # each column's units see both columns; dropout is ×0.5 in a test
        hidden = torch.cat([0.5 * F.relu(F.linear(hidden, *own(layer, column))) for column in (0, 1)], 1)
    return F.linear(hidden, w["fc8.weight"], w["fc8.bias"])


def caffe(norm_before_pool):
    """bvlc_alexnet (relu, norm, pool) or caffenet (relu, pool, norm); pools round up and α is divided by the size."""

    def forward(x, w):
        def conv(x, layer, **options):
            return F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], **options))

        def norm(x):
            return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

        def pool(x):
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        def norm_and_pool(x):
            return pool(norm(x)) if norm_before_pool else norm(pool(x))

        x = norm_and_pool(conv(x, "conv1", stride=4))
        x = norm_and_pool(conv(x, "conv2", padding=2, groups=2))
        x = conv(x, "conv3", padding=1)
        x = conv(x, "conv4", padding=1, groups=2)
        x = pool(conv(x, "conv5", padding=1, groups=2))
        return fully_connected(flat(x), w, keep=1)

    return forward


BY_HAND = [
    ("paper", None, paper),
    ("paper-half", None, paper_half),
    ("cuda-convnet", None, cuda_convnet),
    ("bvlc-alexnet", None, caffe(norm_before_pool=True)),
    ("bvlc-alexnet", 224, caffe(norm_before_pool=True)),  # 54 → 27, where rounding down gives 26
    ("caffenet", None, caffe(norm_before_pool=False)),
    ("caffenet", 224, caffe(norm_before_pool=False)),
]


@pytest.mark.parametrize(("name", "image_size", "by_hand"), BY_HAND, ids=[f"{n}-{s or 'own'}" for n, s, _ in BY_HAND])
def test_network_is_the_one_written_by_hand(name, image_size, by_hand, randomised):
    network = randomised(name, image_size)
    x, weights = pixels(network), dict(network.named_parameters())
    ours, theirs = network(x), by_hand(x, weights)
    assert ours.std() > 0.1  # images differ in what comes out, so there is something to compare
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    wanted = [weights[layer] for layer in ("conv1.weight", "conv2.weight", "conv5.bias", "fc6.weight")]
    grads = [torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


def test_the_networks_written_by_hand_are_four_networks(randomised):
    network = randomised("paper")
    x, weights = pixels(network, 1), dict(network.named_parameters())
    with torch.no_grad():
        outputs = [forward(x, weights) for forward in (paper, cuda_convnet, caffe(True), caffe(False))]
    differences = [(a - b).abs().max() for i, a in enumerate(outputs) for b in outputs[:i]]
    assert min(differences) > 1e-3


def relu_convolutions(channels, *rows):
    """Convolution (filters, kernel, stride, padding), ReLU, and a 3/2 pool where the row ends in True."""
    layers = []
    for filters, kernel, stride, padding, pooled in rows:
        layers += [nn.Conv2d(channels, filters, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        channels = filters
    return layers


TAIL = ((256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False), (256, 3, 1, 1, True))


def d2l(units):
    """The textbook's network, line by line."""
    return nn.Sequential(
        *relu_convolutions(1, (96, 11, 4, 1, True), *TAIL), nn.Flatten(),
        nn.Linear(6400, units), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(units, units), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(units, CLASSES),
    )  # fmt: skip


def one_tower(units):
    """The widespread retelling in one column, line by line."""
    return nn.Sequential(
        *relu_convolutions(3, (96, 11, 4, 2, True), *TAIL), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(256 * 6 * 6, units), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(units, units), nn.ReLU(),
        nn.Linear(units, CLASSES),
    )  # fmt: skip


def batchnorm(units, features=9216):
    layers = []
    for layer in relu_convolutions(3, (96, 11, 4, 2, True), *TAIL):
        layers += [layer, nn.BatchNorm2d(layer.out_channels)] if isinstance(layer, nn.Conv2d) else [layer]
    head = [nn.Linear(features, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, CLASSES)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def lenet5(units):
    """Dive into Deep Learning §7.6."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2, 2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2, 2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, CLASSES),
    )  # fmt: skip


@pytest.mark.parametrize("sequential", [d2l, one_tower, batchnorm, lenet5], ids=lambda build: build.__name__)
def test_network_is_its_documents_sequence(sequential, randomised):
    network = randomised(sequential.__name__.replace("_", "-"))
    theirs = sequential(64).double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), network.state_dict().values(), strict=True)))
    x = pixels(network) / 60
    with torch.no_grad():
        ours = network(x)
        assert ours.std() > 0.01
        torch.testing.assert_close(ours, theirs(x), rtol=1e-10, atol=1e-10)


def test_batch_norm_learns_as_torchs(randomised):
    network, theirs = randomised("batchnorm", 96, dropout=0).train(), batchnorm(64, 1024).double()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), network.state_dict().values(), strict=True)))
    x = pixels(network, 3)
    torch.testing.assert_close(network(x), theirs(x), rtol=1e-10, atol=1e-10)
    for (key, ours), other in zip(network.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10, msg=key)


def test_d2l_has_its_documents_shapes(slim):
    network = create_model("d2l", num_classes=10, in_channels=1, seed=0, **slim("d2l"))
    sides = []
    for layer in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"):
        network.get_submodule(layer).register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(1, 1, 224, 224))
    assert sides == [54, 26, 26, 12, 12, 12, 12, 5]
    assert network.fc6.in_features == 6400


@pytest.mark.parametrize("name", ["paper", "torchvision", "d2l"])
def test_masks_are_inputs_of_the_step(name, slim):
    network = create_model(name, num_classes=CLASSES, in_channels=1, seed=0, image_size=96, **slim(name)).train()
    x = torch.randn(4, 1, 96, 96)
    sites = network.dropout_sites
    assert list(sites) == (["pool5", "fc6"] if name == "torchvision" else ["fc6", "fc7"])
    masks = [draw_masks(sites, 4, seed=0, step=step, device=x.device) for step in (1, 1, 2)]
    assert all(masks[0][site].shape == (4, units) for site, (units, _) in sites.items())
    with torch.no_grad():
        state = torch.random.get_rng_state()
        outputs = [network(x, mask) for mask in masks]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])
        nothing = {site: torch.zeros(4, units, dtype=torch.bool) for site, (units, _) in sites.items()}
        blind = network(x, nothing)
        assert torch.equal(blind, blind[:1].expand(4, -1))  # what was dropped cannot be told apart


def test_kept_units_are_scaled_as_the_architecture_says(randomised):
    x = torch.randn(3, 3, 96, 96, dtype=torch.float64)
    for scaling, trained in (("train", 2.0), ("test", 1.0)):
        network = randomised("paper", 96, dropout_scaling=scaling).train()
        weights = dict(network.named_parameters())
        features = []
        network.fc6.register_forward_hook(lambda _, inputs, __, kept=features: kept.append(inputs[0]))
        masks = draw_masks(network.dropout_sites, 3, seed=1, step=0, device=x.device)
        with torch.no_grad():
            ours = network(x, masks)
            hidden = features[0]
            for layer in ("fc6", "fc7"):
                hidden = F.relu(F.linear(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
                hidden = hidden * masks[layer] * trained
            expected = F.linear(hidden, weights["fc8.weight"], weights["fc8.bias"])
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_without_masks_torchs_generator_draws_them_and_without_dropout_nothing_does(slim):
    x = torch.randn(2, 3, 64, 64)
    network = create_model("paper", num_classes=CLASSES, image_size=64, seed=0, **slim("paper")).train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(network(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    plain = create_model("paper", num_classes=CLASSES, image_size=64, seed=0, dropout=0, **slim("paper")).train()
    assert plain.dropout_sites == {}
    assert torch.equal(plain(x), plain.eval()(x))


def test_torchvision_averages_maps_only_when_they_have_another_side(slim):
    network = create_model("torchvision", num_classes=CLASSES, seed=0, **slim("torchvision")).eval()
    changed = []
    network.avgpool5.register_forward_hook(lambda _, given, output: changed.append(output is not given[0]))
    with torch.no_grad():
        for side in (224, 63, 256):
            assert network(torch.randn(1, 3, side, side)).shape == (1, CLASSES)
    assert changed == [False, True, True]


@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("tanh", torch.tanh), ("sigmoid", F.sigmoid)])
def test_the_activation_is_the_one_that_is_named(activation, function, randomised):
    network = randomised("d2l", 80, activation=activation)
    seen = {}
    network.conv2.register_forward_hook(lambda _, __, output: seen.update(conv2=output))
    network.conv3.register_forward_hook(lambda _, inputs, __: seen.update(conv3=inputs[0]))
    with torch.no_grad():
        network(pixels(network, 1))
    assert torch.equal(seen["conv3"], F.max_pool2d(function(seen["conv2"]), 3, 2))


@pytest.mark.parametrize("name", ["paper", "cuda-convnet", "bvlc-alexnet", "keras", "small"])
def test_map_sizes_are_those_of_the_network(name, slim):
    architecture = get_architecture(name)
    for size in range(architecture.smallest_image(), architecture.smallest_image() + 9):
        network = create_model(
            name, num_classes=CLASSES, in_channels=1, image_size=size, seed=0, **slim(name, 2)
        ).eval()
        with torch.no_grad():
            network(torch.zeros(1, 1, size, size))  # fc6 fits what comes
        assert network.fc6.in_features == architecture.convs[4].filters * architecture.map_sizes(size)[-1] ** 2


RAISE_ON_CUDA = (  # under use_deterministic_algorithms, by torch's documentation; a CPU would not tell
    "adaptive_avg_pool", "adaptive_max_pool", "pool3d", "fractional_max_pool", "max_unpool", "reflection_pad",
    "replication_pad", "upsample", "grid_sampler", "cumsum", "histc", "bincount", "kthvalue", "median", "put_",
    "nll_loss2d", "scatter", "index_add", "index_put", "embedding_bag", "ctc_loss",
)  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_has_no_operation_that_raises_on_a_gpu(name, slim):
    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.add(str(function))
            return function(*args, **(kwargs or {}))

    network = create_model(name, num_classes=CLASSES, seed=0, in_channels=3, **slim(name)).train()
    images = torch.randn(2, 3, network.image_size, network.image_size)
    masks = draw_masks(network.dropout_sites, 2, 0, 0, torch.device("cpu"))
    with Names() as names:
        network(images, masks).square().sum().backward()
    assert any("convolution_backward" in seen for seen in names.seen)
    assert [seen for seen in names.seen if any(word in seen for word in RAISE_ON_CUDA)] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_at_its_own_size_has_deterministic_algorithms_only(name, slim):
    network = create_model(name, num_classes=CLASSES, seed=0, in_channels=3, **slim(name)).train()
    images = torch.randn(2, 3, network.image_size, network.image_size, generator=torch.Generator().manual_seed(3))
    masks = draw_masks(network.dropout_sites, 2, 0, 0, torch.device("cpu"))
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            network.zero_grad()
            network(images, masks).square().sum().backward()
            gradients.append([each.grad.clone() for each in network.parameters() if each.requires_grad])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
