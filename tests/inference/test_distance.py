"""The perceptual distance: equal to lpips, zero for equal images, symmetric, finite gradients, heads by their hash."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.core.errors import UserError
from alexnet.inference.distance import (
    TRUNK,
    PerceptualDistance,
    distances_of_pairs,
    has_published_trunk,
    installed_heads,
    perceptual_distance,
    read_heads,
    unit_maps,
)
from alexnet.models.alexnet import LinearLayer
from alexnet.models.registry import build, create_model, get_architecture
from alexnet.weights import layer_hashes

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@pytest.fixture(scope="module")
def network():
    """torchvision's network, narrow in its fully connected layers only, with its preprocessing."""
    architecture = replace(get_architecture("torchvision"), hidden=(LinearLayer(8), LinearLayer(8)))
    model = build("torchvision", architecture, 2, 3, None)
    model.init_weights(0)
    settings = replace(model.preprocessing, pixel_normalization="channel", **IMAGENET)
    model.info = replace(model.info, preprocessing=settings)
    return model


@pytest.fixture(scope="module")
def photographs():
    return [Image.fromarray(image[100:196, 200:328]) for image in load_sample_images().images]


def images(count=2, side=64, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------- the value ---------------------------------------------


def test_it_equals_lpips_with_the_same_convolutions_and_heads(network, photographs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lpips = pytest.importorskip("lpips", reason="the package lpips is not installed: pip install 'alexnet[dev]'")
        judge = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    theirs = [layer for layer in judge.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for number, layer in enumerate(theirs, 1):
        layer.load_state_dict(network.get_submodule(f"conv{number}").state_dict())
    ours = PerceptualDistance(network, read_heads(installed_heads()))
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() for image in photographs]
    pairs = [(pixels[0], pixels[1]), (pixels[0], pixels[0].flip(-1)), (pixels[1], (pixels[1] + 9).clip(0, 255))]
    for one, other in pairs:
        with torch.no_grad():
            expected = float(judge(one / 127.5 - 1, other / 127.5 - 1))
        found = float(ours(*(ours.pixels(picture(image)) for image in (one, other))))
        assert found == pytest.approx(expected, rel=1e-5)
        assert expected > 0.001


def picture(pixels):
    return pixels[0].permute(1, 2, 0).to(torch.uint8).numpy()


def test_it_equals_the_formula(network):
    """Equation 1 of Zhang et al. 2018, with plain loops."""
    heads = [torch.rand(count, generator=torch.Generator().manual_seed(count)) for count in (64, 192, 384, 256, 256)]
    measure = PerceptualDistance(network, heads)
    one, other = images(1), images(1, seed=1)
    total = 0.0
    for first, second, head in zip(measure.activations(one), measure.activations(other), heads, strict=True):
        _, _, height, width = first.shape
        for y in range(height):
            for x in range(width):
                a, b = first[0, :, y, x].double(), second[0, :, y, x].double()
                difference = a / (a.norm() + 1e-10) - b / (b.norm() + 1e-10)
                total += float((head.double() * difference**2).sum()) / (height * width)
    assert float(measure(one, other)) == pytest.approx(total, rel=1e-5)


def test_it_is_zero_for_equal_images_symmetric_and_not_negative(network):
    measure = PerceptualDistance(network)
    one, other = images(4), images(4, seed=1)
    assert torch.equal(measure(one, one), torch.zeros(4))
    torch.testing.assert_close(measure(one, other), measure(other, one), rtol=1e-6, atol=0)
    assert (measure(one, other) > 0).all()


def test_each_image_of_a_batch_has_its_own_distance(network):
    measure = PerceptualDistance(network)
    one, other = images(3), images(3, seed=1)
    apart = torch.cat([measure(one[i : i + 1], other[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(measure(one, other), apart, rtol=1e-5, atol=1e-7)


def test_gradients_are_finite_also_where_all_maps_are_zero(network):
    measure = PerceptualDistance(network)
    dead = torch.zeros(1, 3, 64, 64, requires_grad=True)
    measure(dead, images(1)).sum().backward()
    assert dead.grad.isfinite().all()
    maps = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit_maps(maps).sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))
    assert torch.equal(unit_maps(torch.zeros(1, 4, 2, 2)), torch.zeros(1, 4, 2, 2))


def test_an_image_can_be_optimized(network):
    """Its gradient leads to the other image: the use as a loss."""
    measure = PerceptualDistance(network)
    target = images(1, seed=1)
    moving = images(1).requires_grad_()
    before = float(measure(moving, target).detach())
    optimizer = torch.optim.Adam([moving], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        measure(moving, target).sum().backward()
        optimizer.step()
    assert float(measure(moving, target).detach()) < before / 2


# --------------------------------------------- networks ---------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "bvlc-alexnet", "keras", "d2l", "small"])
def test_every_alexnet_has_a_distance(variant):
    model = create_model(variant, width=0.125, num_classes=3, seed=0)
    measure = perceptual_distance(model)
    assert measure.heads_name == "uniform"
    assert measure.layers == ("relu1", "relu2", "relu3", "relu4", "relu5")
    one, other = (torch.randn(1, model.in_channels, 96, 96, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    assert float(measure(one, one)) == 0 < float(measure(one, other))


def test_a_network_that_is_no_alexnet_has_none():
    with pytest.raises(UserError, match="lenet5 is no AlexNet: the distance needs its five convolutions"):
        perceptual_distance(create_model("lenet5", seed=0))


# ----------------------------------------------- heads -----------------------------------------------


def test_heads_are_used_only_with_the_weights_that_they_were_made_for(network, monkeypatch, tmp_path):
    assert not has_published_trunk(network)
    assert perceptual_distance(network).heads_name == "uniform"
    hashes = {
        f"conv{number}": layer_hashes.layer_sha256(layer.weight.detach(), layer.bias.detach())
        for number in range(1, 6)
        for layer in [network.get_submodule(f"conv{number}")]
    }
    monkeypatch.setitem(layer_hashes.PUBLISHED, TRUNK, hashes)
    assert has_published_trunk(network)
    assert perceptual_distance(network).heads_name == ("lpips" if installed_heads() else "uniform")
    assert perceptual_distance(network, "uniform").heads_name == "uniform"
    monkeypatch.setattr("alexnet.inference.distance.installed_heads", lambda: None)
    assert perceptual_distance(network).heads_name == "uniform"


def test_a_file_that_is_not_the_heads_is_refused(tmp_path):
    file = tmp_path / "alex.pth"
    torch.save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, file)
    with pytest.raises(UserError, match=r"alex.pth is not LPIPS's heads for AlexNet, version 0.1"):
        read_heads(file)
    with pytest.raises(UserError, match=r"cannot read .*absent\.pth"):
        read_heads(tmp_path / "absent.pth")


def test_the_published_heads_have_the_sizes_of_the_convolutions(network):
    file = installed_heads()
    if file is None:
        pytest.skip("the package lpips is not installed: pip install 'alexnet[dev]'")
    assert [tuple(head.shape) for head in read_heads(file)] == [(64,), (192,), (384,), (256,), (256,)]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([torch.ones(64)], "the heads do not fit torchvision"),
        ([torch.ones(n) for n in (64, 192, 384, 256, 255)], "give one of each size 64, 192, 384, 256, 256"),
        ([-torch.ones(n) for n in (64, 192, 384, 256, 256)], "negative"),
        ([torch.full((n,), torch.nan) for n in (64, 192, 384, 256, 256)], "not numbers"),
    ],
)
def test_heads_that_do_not_fit(heads, message, network):
    with pytest.raises(UserError, match=message):
        PerceptualDistance(network, heads)


# ----------------------------------------------- files -----------------------------------------------


def test_two_photographs_as_path_bytes_image_and_array_have_one_distance(network, photographs, tmp_path):
    measure = PerceptualDistance(network)
    for number, photograph in enumerate(photographs):
        photograph.save(tmp_path / f"{number}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    expected = measure.between(*photographs)
    assert measure.between(*paths) == measure.between(*map(str, paths)) == expected > 0
    assert measure.between(*(path.read_bytes() for path in paths)) == expected
    assert measure.between(*(np.array(photograph) for photograph in photographs)) == expected
    assert measure.between(paths[0], paths[0]) == 0


def test_images_of_two_sizes_need_resizing(network, photographs):
    measure = PerceptualDistance(network)
    smaller = photographs[0].resize((100, 90))
    with pytest.raises(UserError, match=r"images of 128 × 96 and 100 × 90 pixels are not compared: .*--resize"):
        measure.between(photographs[0], smaller)
    assert 0 < measure.between(photographs[0], smaller, resize=True) < measure.between(*photographs, resize=True)


def test_an_image_that_is_too_small_is_one_line(network):
    tiny = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"images of 8 × 8 pixels are too small for this network: give --resize"):
        PerceptualDistance(network).between(tiny, tiny)


def test_a_pair_that_cannot_be_read_does_not_stop_the_others(network, photographs, tmp_path):
    for number, photograph in enumerate(photographs):
        photograph.save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    names = [str(tmp_path / name) for name in ("0.png", "bad.png", "1.png")]
    rows = list(distances_of_pairs(PerceptualDistance(network), [(names[0], name) for name in names]))
    assert [row.distance is None for row in rows] == [False, True, False]
    assert rows[0].distance == 0
    assert Path(names[1]).name in rows[1].error


def test_a_grey_network_takes_colour_photographs(photographs):
    model = create_model("small", width=0.25, seed=0)
    assert model.in_channels == 1
    assert perceptual_distance(model).between(*photographs) > 0
