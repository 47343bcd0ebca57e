"""Representations compared: dissimilarity matrices (RDM), and centred kernel alignment (CKA).

RDM: the correlation distance 1 − r between the features of each pair of images (Kriegeskorte, Mur and Bandettini,
"Representational similarity analysis", Frontiers in Systems Neuroscience 2:4, 2008).

CKA: Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited" (ICML 2019), linear
kernel, equation 4 with HSIC of equation 3. With few images and many units it is near 1 even for unrelated features.
``unbiased=True`` takes the estimator of HSIC by Song et al. ("Feature Selection via Dependence Maximization", JMLR 13,
2012, equation 5), whose expectation for unrelated features is 0 (Nguyen, Raghu and Kornblith, ICLR 2021).

Features are read in blocks of units, so memory-mapped arrays may be larger than memory. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError

MOST_IMAGES = 10_000  # a matrix of all pairs then has 800 MB
BLOCK_NUMBERS = 1 << 22  # features in memory at a time
FEWEST, FEWEST_UNBIASED = 2, 4  # images

Array = NDArray[np.float32] | NDArray[np.float64]


def correlation_distances(features: Array) -> NDArray[np.float64]:
    """The RDM ``(n, n)`` of features ``(n, …)``: 1 − Pearson's r of each pair of images, 0 … 2, 0 on the diagonal.

    It is NaN in the row and column of an image whose features are NaN (it could not be read) or all equal: r is not
    defined there. Raises ``UserError`` for more than ``MOST_IMAGES`` images.
    """
    check_images(len(features))
    flat = features.reshape(len(features), -1)
    total = np.zeros(len(flat))
    for block in _blocks(flat):
        total += block.sum(axis=1)
    mean = (total / flat.shape[1])[:, None]
    products = np.zeros((len(flat), len(flat)))
    for block in _blocks(flat):
        block -= mean
        products += block @ block.T
    squares = np.diag(products).copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.where(squares > 0, squares, np.nan))
        distances: NDArray[np.float64] = np.clip(1 - products / np.outer(lengths, lengths), 0, 2)
    defined = np.flatnonzero(np.isfinite(lengths))
    distances[defined, defined] = 0
    return distances


def cka(x: Array, y: Array, *, unbiased: bool = False) -> float:
    """Linear CKA of the features ``(n, …)`` and ``(n, …)`` of the same images; 1 for equal ones.

    Images with NaN in either are left out. ``unbiased``: see the top of this module. NaN if the features of all images
    are equal. Raises ``UserError`` for different numbers of images, for too few and for too many.
    """
    if len(x) != len(y):
        raise UserError(f"CKA compares features of the same images, not of {len(x):,} and {len(y):,}")
    kept = readable(x) & readable(y)
    return aligned(centred_products(x, kept), centred_products(y, kept), unbiased=unbiased)


def readable(features: Array) -> NDArray[np.bool_]:
    """Which images ``(n,)`` have features that are not NaN."""
    good = np.ones(len(features), np.bool_)
    for block in _blocks(features.reshape(len(features), -1)):
        good &= ~np.isnan(block).any(axis=1)
    return good


def centred_products(features: Array, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """X Xᵀ ``(m, m)`` for the images ``kept`` ``(n,)``, where X has the mean of each unit subtracted.

    Raises ``UserError`` for fewer than ``FEWEST_UNBIASED`` images and for more than ``MOST_IMAGES``.
    """
    count = int(kept.sum())
    check_images(count)
    if count < FEWEST_UNBIASED:
        raise UserError(f"CKA needs at least {FEWEST_UNBIASED} images that can be read, not {count}")
    products = np.zeros((count, count))
    for block in _blocks(features.reshape(len(features), -1)):
        some = block[kept]
        some -= some.mean(axis=0)
        products += some @ some.T
    return products


def aligned(k: NDArray[np.float64], l: NDArray[np.float64], *, unbiased: bool = False) -> float:  # noqa: E741 – the paper's name
    """CKA of two matrices of :func:`centred_products`."""
    measure = _unbiased_hsic if unbiased else _hsic
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(measure(k, l) / np.sqrt(np.float64(measure(k, k)) * np.float64(measure(l, l))))


def check_images(count: int) -> None:
    """Raise ``UserError`` for more images than a matrix of all pairs may have."""
    if count > MOST_IMAGES:
        raise UserError(f"a matrix of all pairs of {count:,} images is too large: give at most {MOST_IMAGES:,} images")


def _hsic(k: NDArray[np.float64], l: NDArray[np.float64]) -> float:  # noqa: E741
    """(n − 1)² HSIC of equation 3: tr(K H L H), where K and L are centred already."""
    return float(np.vdot(k, l))


def _unbiased_hsic(k: NDArray[np.float64], l: NDArray[np.float64]) -> float:  # noqa: E741
    """N (n − 3) times the unbiased estimator."""
    n = len(k)
    k, l = k.copy(), l.copy()  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    rows_k, rows_l = k.sum(axis=0), l.sum(axis=0)
    through = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return float(np.vdot(k, l) + through - 2 / (n - 2) * (rows_k @ rows_l))


def _blocks(flat: Array) -> Iterator[NDArray[np.float64]]:
    """Copies of blocks of columns in float64, ``(n, some)``."""
    width = max(1, BLOCK_NUMBERS // max(1, len(flat)))
    for first in range(0, flat.shape[1], width):
        yield np.array(flat[:, first : first + width], np.float64)
