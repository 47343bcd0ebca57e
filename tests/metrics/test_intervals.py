"""The confidence interval of an accuracy, against Wilson's formula written out."""

import math

import pytest

from alexnet.metrics.intervals import accuracy_interval

Z = 1.959963984540054  # the normal distribution's quantile at 97.5 %


def wilson(right, images):
    """Wilson 1927, as in the Wikipedia article "Binomial proportion confidence interval"."""
    share = right / images
    centre = (share + Z**2 / (2 * images)) / (1 + Z**2 / images)
    reach = Z / (1 + Z**2 / images) * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)


@pytest.mark.parametrize("images", [1, 7, 360, 10_000, 50_000])
def test_the_interval_is_wilsons(images):
    for right in {0, 1, images // 3, images}:
        found = accuracy_interval(right, images)
        assert found == pytest.approx(wilson(right, images), abs=1e-12)
        assert 0 <= found[0] <= right / images <= found[1] <= 1


def test_all_and_none_right():
    assert accuracy_interval(0, 10)[0] == 0
    assert accuracy_interval(10, 10)[1] == 1


@pytest.mark.parametrize(("right", "images"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(right, images):
    with pytest.raises(ValueError, match="is not an accuracy"):
        accuracy_interval(right, images)
