"""Names of layers: the paper's, torchvision's, and what a hook on torchvision's own network sees."""

import pytest
import torch
import torchvision

from alexnet import create_model
from alexnet.core.errors import UserError
from alexnet.inference.layer_names import rectified_in_place, resolve_layers, torchvision_names
from alexnet.weights.torchvision import LAYERS, to_torchvision

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return create_model("torchvision", num_classes=5, seed=0).eval()


def test_torchvisions_names_are_those_of_its_weights(network):
    names = torchvision_names(network)
    assert {ours: theirs for ours, theirs, _ in LAYERS}.items() <= {
        v: k for k, v in names.items() if v != "relu6"
    }.items()
    without_dropout = create_model("torchvision", num_classes=5, dropout=0.0, width=0.125, image_size=64, seed=0)
    assert torchvision_names(without_dropout) == names
    assert torchvision_names(create_model("one-tower", width=0.125, num_classes=5, seed=0)) == {}


def test_a_name_of_torchvision_is_the_output_of_that_layer_there(network):
    """Each layer of torchvision's network is called with a copy, so that no ReLU changes what was recorded."""
    theirs = torchvision.models.alexnet(num_classes=5)
    theirs.load_state_dict(to_torchvision(network.state_dict()))
    theirs.eval()
    x, expected = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), {}
    network.image_size = 64
    with torch.no_grad():
        y = x
        for part, layers in (("features", theirs.features), ("avgpool", [theirs.avgpool]), ("", [torch.nn.Flatten()]),
                             ("classifier", theirs.classifier)):  # fmt: skip
            for place, layer in enumerate(layers):
                y = layer(y.clone())
                expected[part if part == "avgpool" else f"{part}.{place}"] = y
        hooked = {}
        for name in ("features.10", "classifier.4"):
            theirs.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: hooked.update({name: o}))
        theirs(x)
        names = torchvision_names(network)
        ours = network.layer_outputs(x, set(names.values()))
    for name, layer in names.items():
        torch.testing.assert_close(ours[layer], expected[name], rtol=1e-4, atol=1e-5)
    for name, seen in rectified_in_place(network, {name: names[name] for name in hooked}).items():
        assert (names[name], seen) in {("conv5", "relu5"), ("fc7", "relu7")}
        after = network.layer_outputs(x, [seen])[seen]
        torch.testing.assert_close(hooked[name], after, rtol=1e-4, atol=1e-5)  # the hook sees the ReLU's output


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("conv5,relu5", {"conv5": "conv5", "relu5": "relu5"}),
        (" fc6 , fc6,features.10", {"fc6": "fc6", "features.10": "conv5"}),
        (["avgpool", "classifier.3", "classifier.6"], {"avgpool": "avgpool5", "classifier.3": "relu6",
                                                       "classifier.6": "fc8"}),
    ],
)  # fmt: skip
def test_names_are_resolved_in_their_order(network, names, expected):
    assert list(resolve_layers(network, names).items()) == list(expected.items())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("conv6", "unknown layer 'conv6': did you mean 'conv5'?"),
        ("features.13", "unknown layer 'features.13': did you mean 'features."),
        ("Conv5", "unknown layer 'Conv5': did you mean 'conv5'?"),
        (" , ", "no layer is named: give one or several of conv1, relu1"),
        ("flatten", "unknown layer 'flatten'"),
    ],
)
def test_a_wrong_name_suggests(network, names, message):
    with pytest.raises(UserError) as caught:
        resolve_layers(network, names)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_alias_is_noted_for_the_papers_names(network):
    assert rectified_in_place(network, resolve_layers(network, "conv5,fc7,features.11,features.12")) == {}
