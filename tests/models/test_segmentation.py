"""Networks for segmentation: those of Long et al. exactly, and maps that are aligned with the image."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.core.errors import UserError
from alexnet.models.bundle import load_model, save_model
from alexnet.models.registry import create_model, list_models
from alexnet.models.segmentation import FCN_PADDING, Grid, bilinear_kernel, resample, upsample_bilinear
from alexnet.training.transfer import transfer_weights

LARGE = ["paper", "cuda-convnet", "bvlc-alexnet", "caffenet", "torchvision", "one-tower", "keras", "batchnorm"]


def narrow(variant, head, classes=4, **settings):
    return create_model(variant, head=head, num_classes=classes, width=0.06, seed=0, **settings).eval()


@pytest.mark.parametrize("head", ["fcn-32s", "fcn-16s"])
@pytest.mark.parametrize("variant", LARGE)
def test_the_scores_have_the_size_of_the_image(variant, head):
    network = narrow(variant, head)
    side = network.image_size
    assert network.task == "segmentation"
    assert network(torch.randn(2, 3, side, side)).shape == (2, 4, side, side)


@pytest.mark.parametrize("variant", ["bvlc-alexnet", "caffenet"])
def test_the_crop_is_that_of_caffe(variant):
    """fcn-alexnet-pascal's prototxt crops 18 pixels; the exact offset is 18.5."""
    network = narrow(variant, "fcn-32s", image_size=500)
    grid = network._grids()["pool5"].after(network.fc6).upsampled(32)
    assert grid.offset(Grid(0.0, 1.0, 500)) == 18
    assert -grid.start / grid.step == 18.5
    assert grid.size == 544  # of 16 × 16 scores: (16 − 1) · 32 + 64


@pytest.mark.parametrize("variant", LARGE)
def test_a_fully_connected_layer_is_a_convolution_of_the_same_weights(variant):
    """The scores of one position of an image that fills the window are the logits of the classifier."""
    classifier = create_model(variant, num_classes=4, width=0.06, seed=3).eval()
    network = narrow(variant, "fcn-32s")
    transferred = transfer_weights(network, classifier)
    assert {"fc6", "fc7"} <= set(transferred.copied) and "score" in transferred.new
    with torch.no_grad():
        network.score.weight.copy_(classifier.fc8.weight[:, :, None, None])
        network.score.bias.copy_(classifier.fc8.bias)
        images = torch.randn(2, 3, classifier.image_size, classifier.image_size)
        x = classifier.forward_features(images)
        expected = classifier.forward_head(x)
        for layer in ("fc6", "fc7"):
            x = network.get_submodule(layer)(x).relu()
            x = x if network.architecture.dropout_scaling == "train" else x * (1 - network.architecture.dropout)
        found = network.score(x)[:, :, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_fc6_and_the_padding_are_those_of_long_et_al():
    network = create_model("caffenet", head="fcn-32s", num_classes=21, width=0.06, seed=0)
    assert network.conv1.padding == (FCN_PADDING,) * 2 == (100, 100)
    assert network.fc6.kernel_size == (6, 6) and network.fc7.kernel_size == (1, 1)
    assert not network.score.weight.any() and not network.score.bias.any()


@pytest.mark.parametrize("factor", [2, 3, 16, 32])
def test_the_kernel_is_caffes_bilinear_filler(factor):
    """BilinearFiller of Caffe's filler.hpp, in plain Python."""
    size = 2 * factor - factor % 2
    f = math.ceil(size / 2)
    c = (2 * f - 1 - f % 2) / (2.0 * f)
    expected = [[(1 - abs(i / f - c)) * (1 - abs(j / f - c)) for j in range(size)] for i in range(size)]
    np.testing.assert_allclose(bilinear_kernel(factor, torch.zeros(1)).numpy(), expected, atol=1e-7)


def test_upsampling_keeps_a_constant_and_a_ramp_inside():
    ramp = torch.arange(6.0)[None, None, None].expand(1, 1, 6, 6)
    up = upsample_bilinear(ramp, 2)[0, 0, 3:-3, 3:-3]
    steps = up[:, 1:] - up[:, :-1]
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5))
    inside = upsample_bilinear(torch.ones(1, 2, 5, 5), 32)[:, :, 32:-32, 32:-32]
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_upscore2_begins_as_bilinear_upsampling_of_each_class():
    network = narrow("caffenet", "fcn-16s")
    scores = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(network.upscore2(scores), upsample_bilinear(scores, 2))


def test_resampling_reads_a_map_at_the_places_of_another():
    """Against torch's own bilinear interpolation of maps whose pixels are areas, and by hand at the edges."""
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    found = resample(x, Grid(1.5, 4.0, 8), Grid(0.0, 1.0, 32))
    expected = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    line = resample(torch.tensor([[[[0.0, 10.0], [0.0, 10.0]]]]), Grid(2.0, 4.0, 2), Grid(0.0, 1.0, 8))[0, 0, 0]
    assert line.tolist() == [0, 0, 0, 2.5, 5, 7.5, 10, 10]


@pytest.mark.parametrize("variant", ["trunk", "small", "batchnorm"])
@pytest.mark.parametrize("side", [64, 97])
def test_a_pyramid_has_scores_for_each_pixel(variant, side):
    network = narrow(variant, "unet", image_size=side, in_channels=3)
    assert network(torch.randn(1, 3, side, side)).shape == (1, 4, side, side)


def test_the_levels_of_the_decoder_are_the_maps_before_each_pool_and_lie_where_their_windows_do():
    network = narrow("trunk", "unet", image_size=160)
    assert list(network._levels) == ["relu5", "relu2", "relu1"]
    grids = network._grids()
    assert [grids[name].step for name in network._levels] == [8, 4, 2]
    # conv1 pads 2 of 5 pixels: its first window is centred on pixel 0; a pool of 3 begins one map pixel later.
    assert [grids[name].start for name in network._levels] == [6, 2, 0]


def test_a_model_is_saved_and_loaded(tmp_path):
    network = narrow("trunk", "unet", image_size=48)
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    x = torch.randn(1, 3, 48, 48)
    assert loaded.head == "unet" and torch.equal(loaded(x), network(x))


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match=r"needs a last pool with a step of 32 pixels: choose model.head=unet"):
        narrow("trunk", "fcn-32s")
    with pytest.raises(UserError, match=r"cannot have model.head=unet"):
        create_model("lenet5", head="unet")
    assert "trunk" in list_models()
