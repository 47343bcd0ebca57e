"""RDM and CKA against SciPy and against the formulas written out."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from alexnet.analysis import similarity
from alexnet.analysis.similarity import cka, correlation_distances
from alexnet.core.errors import UserError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few columns, so that several are added up."""
    monkeypatch.setattr(similarity, "BLOCK_NUMBERS", 100)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_distances_are_those_of_scipy():
    features = draw(9, 4, 5, 6) + 100  # a large mean, which must not cost digits
    expected = squareform(pdist(features.reshape(9, -1).astype(np.float64), "correlation"))
    np.testing.assert_allclose(correlation_distances(features), expected, rtol=0, atol=1e-12)
    direct = 1 - np.corrcoef(features.reshape(9, -1).astype(np.float64))
    np.testing.assert_allclose(correlation_distances(features), direct, rtol=0, atol=1e-12)
    assert (np.diag(correlation_distances(features)) == 0).all()


def test_opposite_and_scaled_features():
    features = np.array([[1, 2, 3], [10, 20, 30], [3, 2, 1]], np.float32)
    np.testing.assert_allclose(correlation_distances(features), [[0, 0, 2], [0, 0, 2], [2, 2, 0]], atol=1e-12)


def test_an_image_without_features_has_no_distances():
    features = draw(5, 7)
    features[2], features[4] = np.nan, 3
    distances = correlation_distances(features)
    undefined = np.isnan(distances)
    assert undefined[[2, 4]].all()
    assert undefined[:, [2, 4]].all()
    assert not undefined[np.ix_([0, 1, 3], [0, 1, 3])].any()


def hsic(k, l):  # noqa: E741
    """Equation 3 of Kornblith et al., with the centring matrix written out."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ l @ h) / (n - 1) ** 2


def unbiased_hsic(k, l):  # noqa: E741
    """The U-statistic by its definition: sums over tuples of different images (Song et al. 2012, theorem 2)."""
    n = len(k)

    def mean(size, term):
        return np.mean([term(*each) for each in itertools.permutations(range(n), size)])

    return (
        mean(2, lambda i, j: k[i, j] * l[i, j])
        + mean(4, lambda i, j, q, r: k[i, j] * l[q, r])
        - 2 * mean(3, lambda i, j, q: k[i, j] * l[i, q])
    )


@pytest.mark.parametrize(("unbiased", "formula"), [(False, hsic), (True, unbiased_hsic)])
def test_cka_is_that_of_the_formula(unbiased, formula):
    x, y = draw(7, 3, 5), draw(7, 11, seed=1)
    y[:, :3] += x[:, :, 0]
    k, l = (each.reshape(7, -1).astype(np.float64) @ each.reshape(7, -1).T for each in (x, y))  # noqa: E741
    expected = formula(k, l) / np.sqrt(formula(k, k) * formula(l, l))
    assert cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=1e-6)


def test_cka_in_the_form_of_features():
    x, y = (each - each.mean(0) for each in (draw(30, 6).astype(float), draw(30, 4, seed=1).astype(float)))
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert cka(x + 5, y - 2) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_cka_does_not_change_with_rotation_scale_and_shift(unbiased):
    x = draw(12, 8)
    rotation = np.linalg.qr(draw(8, 8, seed=1))[0]
    assert cka(x, 3 * x @ rotation + 1, unbiased=unbiased) == pytest.approx(1, abs=1e-5)


def test_of_unrelated_features_only_the_unbiased_form_is_near_zero():
    x, y = draw(40, 4000), draw(40, 4000, seed=1)
    assert cka(x, y) > 0.9
    assert abs(cka(x, y, unbiased=True)) < 0.1


def test_images_that_could_not_be_read_are_left_out():
    x, y = draw(10, 6), draw(10, 5, seed=1)
    kept = [0, 1, 3, 4, 5, 6, 8, 9]
    x[2], y[7] = np.nan, np.nan
    assert cka(x, y) == pytest.approx(cka(x[kept], y[kept]), abs=1e-12)
    assert np.isnan(cka(np.ones((6, 3)), draw(6, 3)))


def test_other_images_few_images_and_many_images_are_refused(monkeypatch):
    with pytest.raises(UserError, match="CKA compares features of the same images, not of 5 and 6"):
        cka(draw(5, 2), draw(6, 2))
    with pytest.raises(UserError, match="CKA needs at least 4 images that can be read, not 3"):
        cka(draw(3, 2), draw(3, 2))
    monkeypatch.setattr(similarity, "MOST_IMAGES", 4)
    with pytest.raises(UserError, match="a matrix of all pairs of 5 images is too large: give at most 4"):
        correlation_distances(draw(5, 2))
