"""The two indices on kernels made for the purpose, whose values are known."""

import math

import pytest
import torch

from alexnet.analysis.filters import colour_index, column_difference, orientation_index

SIDE = 11
STEPS = torch.arange(SIDE, dtype=torch.float64) - SIDE // 2
DOWN, ACROSS = torch.meshgrid(STEPS, STEPS, indexing="ij")
BLOB = torch.exp(-(DOWN**2 + ACROSS**2) / 8)


def gabor(degrees: float, wavelength: float = 5.0) -> torch.Tensor:
    angle = math.radians(degrees)
    along = ACROSS * math.cos(angle) + DOWN * math.sin(angle)
    return BLOB * torch.sin(2 * math.pi * along / wavelength)


def paint(pattern: torch.Tensor, colour: tuple[float, float, float]) -> torch.Tensor:
    return (torch.tensor(colour, dtype=torch.float64)[:, None, None] * pattern)[None]


@pytest.mark.parametrize(
    ("colour", "index"),
    [
        ((1, 1, 1), 0.0),
        ((-2, -2, -2), 0.0),
        ((1, 0, 0), 2 / 3),
        ((0, 0, -3), 2 / 3),
        ((1, -1, 0), 1.0),
        ((1, 1, -2), 1.0),
    ],
)
def test_colour_index_of_plain_colours(colour, index):
    assert colour_index(paint(gabor(30), colour)).item() == pytest.approx(index, abs=1e-12)


def test_colour_index_does_not_see_scale_or_pattern():
    kernels = torch.cat([paint(BLOB, (1, 0.5, 0)), 100 * paint(gabor(70), (1, 0.5, 0))])
    one, other = colour_index(kernels)
    assert one.item() == pytest.approx(other.item())
    assert 0 < one < 2 / 3


@pytest.mark.parametrize("degrees", [0, 22, 45, 90, 135])
def test_orientation_index_of_gratings_is_high_at_every_angle(degrees):
    assert orientation_index(paint(gabor(degrees), (1, 1, 1))).item() > 0.8


@pytest.mark.parametrize(
    "pattern", [BLOB, torch.ones(SIDE, SIDE, dtype=torch.float64), torch.cos(ACROSS * 2) * torch.cos(DOWN * 2)]
)
def test_orientation_index_of_blobs_and_checkerboards_is_nothing(pattern):
    assert orientation_index(paint(pattern, (1, 0, 1))).item() == pytest.approx(0.0, abs=1e-6)


def test_orientation_index_of_an_edge_lies_between():
    edge = torch.sign(ACROSS) * BLOB
    assert 0.5 < orientation_index(paint(edge, (1, 1, 1))).item() <= 1.0


def test_kernels_of_zeros_have_neither():
    assert colour_index(torch.zeros(1, 3, 5, 5)).item() == 0.0
    assert orientation_index(torch.zeros(1, 3, 5, 5)).item() == 0.0


def test_columns_that_differ_are_told_from_columns_that_do_not():
    apart = torch.cat([torch.linspace(0.0, 0.3, 48), torch.linspace(0.6, 0.9, 48)])
    first, second, p = column_difference(apart)
    assert (first, second) == pytest.approx((0.15, 0.75))
    assert p == pytest.approx(1 / 10_001)  # none of ten thousand random deals is as far apart
    alike = torch.linspace(0.0, 1.0, 96)[torch.randperm(96, generator=torch.Generator().manual_seed(1))]
    assert column_difference(alike)[2] > 0.05


def test_a_constant_index_differs_nowhere():
    assert column_difference(torch.full((10,), 0.5)) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("shape", [(3, 11, 11), (4, 1, 11, 11)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"kernels have the shape \(N, 3, k, k\)"):
        colour_index(torch.zeros(shape))
