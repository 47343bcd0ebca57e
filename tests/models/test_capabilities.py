"""Every variant is made of ordinary layers: it compiles, exports, and can be differentiated in every way of torch.

Narrow networks, one thread. The table of what works is in ``docs/variants/index.md``; ``CAPABILITIES`` is its source.
"""

import warnings

import pytest
import torch
from torch.func import functional_call, grad, vmap

from alexnet.models.capabilities import CAPABILITIES, narrow_network
from alexnet.models.layers import draw_masks
from alexnet.models.variants import VARIANTS

INDUCTOR = ("paper", "small")  # compiled by inductor too; the others with its front half, aot_eager


def images(network, count=2):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(count, network.in_channels, network.image_size, network.image_size, generator=draws)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: capability.name)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can(name, capability):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations inside export and compile
        assert capability.check(narrow_network(name)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", INDUCTOR)
def test_two_variants_compile_through_inductor(name):
    network = narrow_network(name).eval()
    x = images(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(network, fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["paper", "lenet5"])
def test_gradients_of_each_image_are_those_of_the_image_alone(name):
    network = narrow_network(name).eval().double()
    x, parameters = images(network, 3).double(), dict(network.named_parameters())

    def loss(weights, image):
        return functional_call(network, weights, image[None]).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for number in range(3):
        alone = grad(loss)(parameters, x[number])
        for key, value in alone.items():
            torch.testing.assert_close(each[key][number], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_children_in_order_are_the_forward_pass(name):
    network = narrow_network(name).eval()
    x = images(network)
    with torch.no_grad():
        walked = x
        for _, layer in network.named_children():
            walked = layer(walked)
        assert torch.equal(walked, network(x))
        features = network.forward_features(x)
        assert torch.equal(network.forward_head(features), walked)
        pre_logits = network.forward_head(features, pre_logits=True)
        assert torch.equal(network.classifier(pre_logits), walked)
    assert not any(list(layer.children()) for layer in network.children())


def test_the_paper_s_network_prints_like_a_sequence():
    lines = repr(narrow_network("paper")).splitlines()
    names = [line.strip().partition(")")[0].lstrip("(") for line in lines[1:-1]]
    assert names == [
        *("conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3", "relu3", "conv4", "relu4"),
        *("conv5", "relu5", "pool5", "flatten", "fc6", "relu6", "dropout6", "fc7", "relu7", "dropout7", "fc8"),
    ]
    assert "alpha multiplies the sum of squares" in repr(narrow_network("paper").norm1)
    assert "alpha multiplies the mean of squares" in repr(narrow_network("caffenet").norm1)


@pytest.mark.parametrize("name", ["paper", "torchvision", "keras", "lenet5", "cifar-11pct"])
def test_torchvision_extracts_features_by_the_layers_names(name):
    from torchvision.models.feature_extraction import create_feature_extractor

    network = narrow_network(name).eval()
    x = images(network)
    wanted = [layer for layer in network.layer_shapes() if "norm" in layer or layer.startswith(("conv", "relu", "fc"))]
    extractor = create_feature_extractor(network, {layer: layer for layer in wanted})
    with torch.no_grad():
        outputs, ours = extractor(x), network.layer_outputs(x, wanted)
    assert list(outputs) == wanted
    assert all(torch.equal(outputs[layer], ours[layer]) for layer in wanted)


def test_torchinfo_sees_the_layers():
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is in the dev extra")
    network = narrow_network("paper").eval()
    shown = torchinfo.summary(network, input_data=[images(network)], verbose=0)
    assert shown.total_params == sum(parameter.numel() for parameter in network.parameters())
    assert {layer.var_name for layer in shown.summary_list} >= set(dict(network.named_children()))


def test_captum_attributes_to_a_layer_unchanged():
    captum = pytest.importorskip("captum.attr", reason="captum is in the dev extra")
    network = narrow_network("torchvision").eval()
    x = images(network, 1)
    found = captum.LayerGradCam(network, network.relu5).attribute(x, target=0)
    assert found.shape[2:] == network.layer_outputs(x, ["relu5"])["relu5"].shape[2:]
    assert captum.Saliency(network).attribute(x.requires_grad_(), target=0).shape == x.shape


def test_masks_are_inputs_under_compile_too():
    network = narrow_network("paper").train()
    x = images(network)
    masks = draw_masks(network.dropout_sites, len(x), 0, 0, x.device)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, masks), network(x, masks), rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_the_classifier_can_be_replaced():
    network = narrow_network("paper").eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.reset_classifier(3, seed=5)
    assert network(images(network)).shape == (2, 3)
    assert (network.num_classes, network.classes) == (3, ("0", "1", "2"))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items() if "fc8" not in key)
    again = narrow_network("paper")
    again.reset_classifier(3, seed=5)
    assert torch.equal(again.fc8.weight, network.fc8.weight)
    with pytest.raises(ValueError, match="needs at least 1 class"):
        network.reset_classifier(0)
