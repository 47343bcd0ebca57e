"""Files of other frameworks become networks that give the same logits."""

from dataclasses import replace

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.inference.transform import ImageTransform
from alexnet.models.registry import create_model
from alexnet.models.variants import VARIANTS
from alexnet.weights.convert import build_network, convert_file
from alexnet.weights.foreign import ForeignLayer, ForeignWeights, NoAlexNetError
from alexnet.weights.formats import FORMATS
from alexnet.weights.identify import identify
from alexnet.weights.load import load_model

ALEXNETS = [name for name, row in VARIANTS.items() if row.architecture is not None]


def images(network, count=2):
    size = network.image_size
    return torch.randn(count, network.in_channels, size, size, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def written(tmp_path):
    """Writes a state dict as a safetensors file."""

    def write(state, name="weights.safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
        return tmp_path / name

    return write


def test_torchvisions_keys(narrow_torchvision, written):
    theirs = narrow_torchvision()
    network, report = convert_file(written(theirs.state_dict()))
    assert (network.variant, report.variant, report.format) == ("torchvision", "torchvision", "safetensors")
    batch = images(network)
    with torch.inference_mode():
        expected = theirs(batch)
        assert expected.std() > 0.1
        torch.testing.assert_close(network(batch), expected, rtol=1e-5, atol=1e-5)
    assert [row.layer for row in report.rows] == [*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"]
    assert [row.source for row in report.rows][:2] == ["features.0", "features.3"]
    assert report.rows[0].norm == pytest.approx(float(theirs.features[0].weight.detach().norm()), rel=1e-5)
    assert network.classes[0] == "n01440764"
    assert network.labels[0] == "tench"
    assert not network.training


@pytest.mark.parametrize(("prefix", "parts"), [("module.", ["module."]), ("model.module.", ["module.", "model."])])
def test_prefixes_are_removed(narrow_torchvision, written, prefix, parts):
    theirs = narrow_torchvision(5)
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    network, report = convert_file(written(state))
    assert torch.equal(network.fc8.weight, theirs.classifier[6].weight)
    assert network.classes == ("0", "1", "2", "3", "4")
    assert report.notes == tuple(f"{part!r} was removed from the names" for part in parts)


def test_the_preprocessing_of_torchvisions_weights_is_torchvisions(narrow_torchvision, written):
    """Within one grey level, which is 0.0175 on this scale: torchvision rounds differently on some processors."""
    network, _ = convert_file(written(narrow_torchvision().state_dict()))
    transform = ImageTransform(network.preprocessing, network.mean_image)
    theirs = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms()
    for pixels in load_sample_images().images:
        difference = (transform(pixels) - theirs(torch.tensor(pixels).permute(2, 0, 1))).abs()
        assert difference.max() < 0.02
        assert transform(Image.fromarray(pixels)).shape == (3, 224, 224)


@pytest.mark.parametrize("name", ALEXNETS)
def test_our_own_keys_of_every_variant(narrow_network, written, name):
    channels = 1 if name in ("d2l", "small") else 3
    ours = narrow_network(name, in_channels=channels)
    network, _ = convert_file(written(ours.state_dict()), variant=name)
    assert network.variant == name
    assert network.image_size == ours.image_size
    batch = images(ours)
    with torch.inference_mode():
        assert torch.equal(network(batch), ours(batch))


def test_a_network_of_full_width_and_few_units_is_that_variant(written, lively, slim):
    ours = lively(create_model("caffenet", num_classes=4, seed=0, **slim("caffenet")))
    network, report = convert_file(written(ours.state_dict()), variant="caffenet")
    batch = images(ours, 1)
    with torch.inference_mode():
        assert torch.equal(network(batch), ours(batch))
    assert "the layers are narrower than those of caffenet" in report.assumptions


def test_equal_shapes_ask_for_the_variant(narrow_network, written):
    path = written(narrow_network("paper").state_dict())
    with pytest.raises(UserError) as caught:
        convert_file(path)
    assert caught.value.line == (
        "the weights fit several networks with equal shapes: paper, cuda-convnet, bvlc-alexnet, caffenet; "
        f"name the right one: alexnet convert {path} --variant paper"
    )
    with pytest.raises(UserError, match="does not hold the weights of torchvision: 3 differences") as caught:
        convert_file(path, variant="torchvision")
    assert caught.value.details[0] == "conv2 (conv2): found 32 × 8 × 5 × 5, expected 32 × 16 × 5 × 5"


def test_a_network_that_is_no_alexnet(written):
    state = {f"layers.{n}.weight": torch.zeros(8, 8, 3, 3) for n in range(6)}
    path = written(state)
    with pytest.raises(NoAlexNetError) as caught:
        convert_file(path)
    assert caught.value.line == (
        f"{path} holds no AlexNet: it has 6 convolutions, 0 linear layers and 0 batch normalizations; an AlexNet has "
        "5, 3, and 5, 4 or none"
    )
    assert caught.value.details[0] == "0: conv 8 × 8 × 3 × 3"
    with pytest.raises(NoAlexNetError) as caught:
        convert_file(path := written({"latent": torch.zeros(4)}))
    assert str(caught.value) == (
        f"{path} holds no AlexNet: it has 1 tensor that belongs to no layer of one, such as latent: (4,)"
    )


def test_a_command_that_uses_weights_prints_one_line_for_another_network(tmp_path, monkeypatch, capsys):
    """``convert`` lists the differences of a near network; no command lists the layers of a far one."""
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.squeezenet1_0(num_classes=3).state_dict(), "squeezenet.pth")
    near = create_model("torchvision", num_classes=3, width=0.05, seed=0).state_dict()
    near["fc7.weight"], near["fc7.bias"] = torch.zeros(300, near["fc7.weight"].shape[1]), torch.zeros(300)
    torch.save(near, "near.pth")
    for command in (["predict", "squeezenet.pth", "cat.jpg"], ["evaluate", "squeezenet.pth", "--data", "digits"],
                    ["export", "squeezenet.pth", "--to", "onnx"], ["summary", "squeezenet.pth"],
                    ["show", "filters", "squeezenet.pth"], ["convert", "squeezenet.pth"]):  # fmt: skip
        assert main(command) == 2
        assert capsys.readouterr().err == (
            "alexnet: squeezenet.pth holds no AlexNet: it has 26 convolutions, 0 linear layers and 0 batch "
            "normalizations; an AlexNet has 5, 3, and 5, 4 or none\n"
        )
    assert main(["predict", "near.pth", "cat.jpg"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("alexnet: near.pth holds the weights of no variant; the nearest is ")
    assert line.endswith("; 'alexnet convert near.pth' lists them")
    assert main(["convert", "near.pth"]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("alexnet: near.pth holds the weights of no variant; the nearest is ")
    assert any(other.startswith("  fc7") for other in others)
    assert len(others) <= 20


def test_numbers_that_are_not_finite_are_refused(narrow_torchvision, written):
    state = narrow_torchvision(5).state_dict()
    state["classifier.6.bias"][2] = torch.inf
    with pytest.raises(UserError, match=r"cannot be used: fc8\.bias holds numbers that are not finite"):
        convert_file(written(state))


def test_parts_of_other_lengths_are_refused(narrow_network, written):
    state = narrow_network("keras").state_dict()
    with pytest.raises(UserError, match=r"norm3: running_var has the shape \(2,\), expected \(48,\)"):
        convert_file(written({**state, "norm3.running_var": torch.ones(2)}), variant="keras")
    with pytest.raises(UserError, match=r"conv3: bias has the shape \(47,\), expected \(48,\)"):
        convert_file(written({**state, "conv3.bias": torch.ones(47)}), variant="keras")
    with pytest.raises(UserError, match="batch normalization 'norm2' has no running mean and variance"):
        convert_file(written({key: state[key] for key in state if key != "norm2.running_mean"}), variant="keras")


def test_a_damaged_file(written, tmp_path, narrow_network):
    path = written(narrow_network("paper").state_dict())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is no complete safetensors file"):
        convert_file(path)
    (tmp_path / "notes.txt").write_text("These are no weights, but a text that is longer than a header.")
    with pytest.raises(
        UserError,
        match=rf"notes.txt is not a weights file that this version reads: it reads {', '.join(FORMATS)}",
    ):
        convert_file(tmp_path / "notes.txt")


@pytest.mark.parametrize(("order", "axes"), [("CHW", (0, 1, 2)), ("HWC", (1, 2, 0)), ("WHC", (2, 1, 0))])
def test_inputs_of_fc6_and_colours_are_brought_into_our_order(narrow_network, order, axes):
    ours = narrow_network("caffenet", num_classes=5)
    layers = []
    for name, layer in ours.named_children():
        if name.startswith(("conv", "fc")):
            weight = layer.weight.detach()
            if name == "fc6":
                side = ours.architecture.map_sizes(ours.image_size)[-1]
                maps = weight.reshape(len(weight), -1, side, side)
                weight = maps.permute(0, *(axis + 1 for axis in axes)).flatten(1)
            if name == "conv1":
                weight = weight.flip(1)
            layers.append(
                ForeignLayer(name, "conv" if name.startswith("conv") else "linear", weight, layer.bias.detach())
            )
    weights = ForeignWeights("test", "caffe", tuple(layers), flatten=order, channel_order="BGR", variant="caffenet")
    network, report = build_network(weights, identify(weights), "file")
    batch = images(ours)
    with torch.inference_mode():
        assert torch.equal(network(batch), ours(batch))
    steps = {row.layer: row.steps for row in report.rows}
    assert steps["conv1"] == ("input channels from BGR to RGB",)
    assert steps["fc6"] == (() if order == "CHW" else (f"inputs from {order} to CHW",))


def test_caffes_conventions_are_bound(narrow_network):
    ours = narrow_network("bvlc-alexnet", num_classes=1000)
    layers = tuple(
        ForeignLayer(name, "conv" if name.startswith("conv") else "linear", layer.weight.detach(), layer.bias.detach())
        for name, layer in ours.named_children()
        if name.startswith(("conv", "fc"))
    )
    weights = ForeignWeights("Caffe", "caffe", layers, variant="bvlc-alexnet")
    network, _ = build_network(weights, identify(weights), "file")
    settings = network.preprocessing
    assert (settings.resize, settings.resize_size, settings.crop) == ("warp", 256, 227)
    assert settings.pixel_normalization == "mean-image"
    assert network.mean_image.shape == (256, 256, 3)
    weights = replace(weights, mean_image=torch.full((227, 227, 3), 100.0))
    network, _ = build_network(weights, identify(weights), "file")
    assert (network.preprocessing.resize_size, network.preprocessing.crop) == (227, 227)
    layers = (*layers[:7], replace(layers[7], weight=layers[7].weight[:5], bias=layers[7].bias[:5]))
    weights = replace(weights, mean_image=None, layers=layers)
    network, report = build_network(weights, identify(weights), "file")
    assert network.preprocessing.pixel_normalization == "channel"
    assert network.preprocessing.mean == (122.679, 116.669, 104.007)
    assert any("convert FILE --mean MEAN takes a mean image" in line for line in report.assumptions)


def test_load_model_takes_a_file(narrow_torchvision, written):
    theirs = narrow_torchvision(5)
    network = load_model(written(theirs.state_dict()))
    assert torch.equal(network.conv1.weight, theirs.features[0].weight)


def test_the_help_of_convert_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    helped = capsys.readouterr().out
    assert [name for name in FORMATS if name not in helped] == []
