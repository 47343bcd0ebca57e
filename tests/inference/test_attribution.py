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

from alexnet.inference.attribution import METHODS, attribute
from alexnet.model.layers import draw_masks
from alexnet.model.variants import VARIANTS, create_model

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, SHAPE = 28, 7


def shapes(count, seed):
    """Images ``(N, 1, SIDE, SIDE)`` of faint noise with one bright square, cross, ring or bar, its class and mask."""
    draws = np.random.default_rng(seed)
    stencils = np.zeros((4, SHAPE, SHAPE), np.float32)
    stencils[0] = 1
    stencils[1, 2:5], stencils[1, :, 2:5] = 1, 1
    stencils[2] = 1
    stencils[2, 2:5, 2:5] = 0
    stencils[3, :, 2:5] = 1
    images = draws.normal(0, 0.1, (count, 1, SIDE, SIDE)).astype(np.float32)
    labels, masks = draws.integers(0, 4, count), np.zeros((count, SIDE, SIDE), bool)
    for image, label, mask in zip(images, labels, masks, strict=True):
        top, left = draws.integers(0, SIDE - SHAPE, 2)
        place = np.s_[top : top + SHAPE, left : left + SHAPE]
        image[0][place] += 2 * stencils[label]
        mask[place] = True
    return torch.from_numpy(images), torch.from_numpy(labels), masks


@pytest.fixture(scope="module")
def trained(one_thread):
    """A small AlexNet that tells the shapes apart, and 50 images with what is bright in them."""
    network = create_model("small", 4, 1, SIDE, seed=0).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(120):
        images, labels, _ = shapes(64, step)
        masks = draw_masks(network.dropout_sites, 64, 0, step, torch.device("cpu"))
        optimizer.zero_grad()
        F.cross_entropy(network(images, masks), labels).backward()
        optimizer.step()
    network.eval()
    images, labels, masks = shapes(50, 10_000)
    with torch.no_grad():
        assert (network(images).argmax(1) == labels).float().mean() > 0.95
    return network, images, labels, masks


@pytest.fixture(scope="module")
def maps(trained):
    """Method → maps ``(50, SIDE, SIDE)`` for the true classes."""
    network, images, labels, _ = trained
    found = [attribute(network, image, int(label)) for image, label in zip(images, labels, strict=True)]
    return {name: np.stack([item[name].numpy() for item in found]) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_of_the_image_and_not_negative(maps, method):
    assert maps[method].shape == (50, SIDE, SIDE)
    assert np.isfinite(maps[method]).all()
    assert maps[method].min() >= 0
    assert (maps[method].max(axis=(1, 2)) > 0).mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_the_mass_lies_on_the_bright_object(trained, maps, method):
    """Its share of the mass is at least twice its share of the area, on the mean of 50 images."""
    masks = trained[3]
    shares = [
        found[mask].sum() / found.sum() for found, mask in zip(maps[method], masks, strict=True) if found.sum() > 0
    ]
    assert np.mean(shares) >= 2 * masks.mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_random_weights_looks_elsewhere(trained, maps, method):
    """After all weights are drawn anew the maps have little to do with the earlier ones."""
    network, images, labels, _ = trained
    drawn = copy.deepcopy(network)
    drawn.initialise(12345)
    with torch.no_grad():
        drawn.fc8.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    correlations = []
    for image, label, before in list(zip(images, labels, maps[method], strict=True))[:20]:
        after = METHODS[method](drawn.eval().requires_grad_(True), image[None], int(label)).detach().numpy()
        if before.std() > 0 and after.std() > 0:
            correlations.append(spearmanr(before.ravel(), after.ravel()).statistic)
    assert len(correlations) >= 5
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
    network = create_model(name, 4, row.in_channels, side, seed=0, **slim(name, 8))
    shape = (row.in_channels, network.image_size, network.image_size)
    found = attribute(network, torch.randn(shape, generator=torch.Generator().manual_seed(0)), 2)
    assert list(found) == list(METHODS)
    assert {tuple(value.shape) for value in found.values()} == {shape[1:]}
    assert all(torch.isfinite(value).all() for value in found.values())
