"""Attributions say something of the trained network: they change with its weights, and they lie on what it saw.

Both checks are made on a network that learned, here in seconds, which of four shapes is the one bright thing in an
image (Adebayo et al. 2018 for the first; the pointing of Zhang et al. 2016 for the second).
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from alexnet.analysis.attribution import METHODS, attribute
from alexnet.models.layers import draw_masks
from alexnet.models.registry import create_model
from alexnet.models.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")
CHANNELS, SIDE, SHAPE, STEPS = 1, 28, 7, 100


def shapes(count, seed, channels=CHANNELS, side=SIDE, size=SHAPE):
    """Images ``(N, C, S, S)`` of faint noise with one bright square, cross, ring or bar, its class and mask."""
    draws, third = np.random.default_rng(seed), size // 3
    stencils = np.zeros((4, size, size), np.float32)
    middle = slice(third, size - third)
    stencils[0], stencils[2] = 1, 1
    stencils[2, middle, middle] = 0
    stencils[1, middle], stencils[1, :, middle] = 1, 1
    stencils[3, :, middle] = 1
    images = draws.normal(0, 0.1, (count, channels, side, side)).astype(np.float32)
    labels, masks = draws.integers(0, 4, count), np.zeros((count, side, side), bool)
    for image, label, mask in zip(images, labels, masks, strict=True):
        top, left = draws.integers(0, side - size, 2)
        place = np.s_[top : top + size, left : left + size]
        image[:, place[0], place[1]] += 2 * stencils[label] * draws.uniform(0.5, 1, (channels, 1, 1)).astype(np.float32)
        mask[place] = True
    return torch.from_numpy(images), torch.from_numpy(labels), masks


@pytest.fixture(scope="module")
def trained():
    """A network that tells the shapes apart, and 50 images with what is bright in them."""
    network = create_model("small", num_classes=4, in_channels=CHANNELS, image_size=SIDE, seed=0).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(STEPS):
        images, labels, _ = shapes(48, step)
        masks = draw_masks(network.dropout_sites, 48, 0, step, torch.device("cpu"))
        optimizer.zero_grad()
        F.cross_entropy(network(images, masks), labels).backward()
        optimizer.step()
    network.eval()
    images, labels, masks = shapes(50, 10_000)
    with torch.no_grad():
        assert (network(images).argmax(1) == labels).float().mean() > 0.9
    return network, images, labels, masks


@pytest.fixture(scope="module")
def maps(trained):
    """Method → maps ``(50, S, S)`` for the true classes."""
    network, images, labels, _ = trained
    found = [attribute(network, image, int(label)) for image, label in zip(images, labels, strict=True)]
    return {name: np.stack([item[name].numpy() for item in found]) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_of_the_image_and_not_negative(trained, maps, method):
    assert maps[method].shape == (50, *trained[1].shape[2:])
    assert np.isfinite(maps[method]).all()
    assert maps[method].min() >= 0
    assert (maps[method].max(axis=(1, 2)) > 0).mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_the_mass_lies_on_the_bright_object(trained, maps, method):
    """Its share of the mass is at least twice its share of the area, on the mean of 50 images; an empty map has 0."""
    masks = trained[3]
    shares = [found[mask].sum() / max(found.sum(), 1e-30) for found, mask in zip(maps[method], masks, strict=True)]
    assert len(shares) == 50
    assert np.mean(shares) >= 2 * masks.mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_random_weights_looks_elsewhere(trained, maps, method):
    """After all weights are drawn anew the maps have little to do with the earlier ones."""
    network, images, labels, _ = trained
    drawn = copy.deepcopy(network)
    drawn.init_weights(12345)
    with torch.no_grad():
        drawn.fc8.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    correlations = []
    for image, label, before in zip(images, labels, maps[method], strict=True):
        after = METHODS[method](drawn.eval().requires_grad_(True), image[None], int(label)).detach().numpy()
        if before.std() > 0 and after.std() > 0:
            correlations.append(spearmanr(before.ravel(), after.ravel()).statistic)
    assert len(correlations) >= 40
    assert np.mean(correlations) < 0.5


def test_the_network_is_left_as_it_was(trained):
    network, images, labels, _ = trained
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attribute(network, images[0], int(labels[0]))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_asked(name, slim):
    row = VARIANTS[name]
    side = {"small": 28, "lenet5": 28}.get(name, 80 if row.architecture else None)
    network = create_model(name, num_classes=4, in_channels=row.in_channels, image_size=side, seed=0, **slim(name, 8))
    shape = (row.in_channels, network.image_size, network.image_size)
    found = attribute(network, torch.randn(shape, generator=torch.Generator().manual_seed(0)), 2)
    assert list(found) == list(METHODS)
    assert {tuple(value.shape) for value in found.values()} == {shape[1:]}
    assert all(torch.isfinite(value).all() for value in found.values())
