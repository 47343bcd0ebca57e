"""Statistics of one layer's weights: are they still what an initialization draws, or has training changed them?

Every initialization of published AlexNets draws independent numbers from one distribution. Three things follow, and
training breaks all of them:

* The numbers have the distribution and the scale of the scheme (Kolmogorov–Smirnov test; the variance of n draws with
  kurtosis κ has the relative standard error √((κ − 1)/n)).
* The largest singular value of an m × n matrix of independent numbers with the standard deviation σ is close to the
  Marchenko–Pastur edge σ·(√m + √n), and its square varies as the law of Tracy and Widom says: centre (√m + √n)², scale
  (√m + √n)·(1/√m + 1/√n)^⅓, both times σ² (I. M. Johnstone, "On the distribution of the largest eigenvalue in principal
  components analysis", Annals of Statistics 29, 2001). Trained layers have singular values far above it (C. H. Martin
  and M. W. Mahoney, "Implicit self-regularization in deep neural networks", JMLR 22, 2021).
* The rows have nearly equal norms: the variance of their squared norms is (κ − 1)·n·σ⁴.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SAMPLE = 200_000  # weights in a Kolmogorov–Smirnov test, evenly spaced in the layer
KS_P = 1e-7  # a smaller p-value rejects a scheme: one of ten million fresh layers
FITTED_P = 1e-4  # of the same test against the scale of the layer itself
VARIANCE_Z = 6.0
EDGE_Z = 8.0  # distance from the Marchenko–Pastur edge in units of the Tracy–Widom scale
ROWS_Z = 6.0
MINIMUM = 256  # a layer with fewer weights is not judged
ROUNDING = 1 + 2**-7  # a file may hold the bound of a uniform distribution in bf16
STANDARD_DEVIATIONS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
"""Of Gaussian initializations: 0.01 (paper §5), 0.03 (cuda-convnet), 0.005 (Caffe), 0.001 (this project's fc8), and
others of tutorials."""
BIASES = (0.0, 0.1, 1.0)
"""The constants with which published AlexNets begin: 0 and 1 (paper §5), 0.1 (Caffe)."""
TINY = 1e-6
LANCZOS_STEPS = 50  # for a layer of independent numbers the value is then less than 0.2 % too low
Shape = Literal["gaussian", "uniform"]
State = Literal["initial", "random", "trained", "unknown"]


@dataclass(frozen=True)
class Scheme:
    """A known initialization of a layer. ``name``: in words; ``std``: the standard deviation of its weights."""

    name: str
    shape: Shape
    std: float


@dataclass(frozen=True)
class LayerStatistics:
    """What the weights of a layer are like.

    ``std``, ``norm`` (Euclidean), ``kurtosis`` (3 for Gaussian, 1.8 for uniform numbers), ``largest`` (the largest
    absolute weight). ``edge_ratio``: the largest singular value over the Marchenko–Pastur edge, 1 for independent
    numbers; ``edge_z``: the same in units of the Tracy–Widom scale. ``rows_z``: how much more the rows' norms differ
    than those of independent numbers, in standard errors. ``nearest``: the known initialization with the nearest
    distribution, ``distance`` its Kolmogorov–Smirnov distance (0 … 1). ``state``: ``"initial"``, as a known
    initialization draws it; ``"random"``, independent numbers of another scale; ``"trained"``; or ``"unknown"``, too
    few weights to tell.
    """

    state: State
    std: float
    norm: float
    kurtosis: float
    largest: float
    edge_ratio: float
    edge_z: float
    rows_z: float
    nearest: str
    distance: float


def known_schemes(shape: tuple[int, ...]) -> Iterator[Scheme]:
    """The initializations of published AlexNets for a weight ``(out, in, …)``; see ``models/layers.py``."""
    receptive = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * receptive, shape[0] * receptive
    for std in STANDARD_DEVIATIONS:
        yield Scheme(f"Gaussian with standard deviation {std:g}", "gaussian", std)
    yield Scheme("He's normal rule", "gaussian", math.sqrt(2 / fan_in))
    yield Scheme("PyTorch's default, uniform", "uniform", 1 / math.sqrt(3 * fan_in))
    yield Scheme("Glorot's uniform rule", "uniform", math.sqrt(2 / (fan_in + fan_out)))


def layer_statistics(weight: Tensor, groups: int = 1) -> LayerStatistics:
    """The statistics of a finite weight ``(out, in / groups, …)``, floating point, on the CPU."""
    rows = weight.detach().flatten(1)
    count = rows.numel()
    mean = float(rows.mean(dtype=torch.float64))
    norm = float(torch.linalg.vector_norm(rows, dtype=torch.float64))
    std = math.sqrt(max(norm**2 / count - mean**2, 0.0))
    sample = _sample(rows)
    spread = float(sample.std(correction=0)) or 1.0
    kurtosis = float(((sample - sample.mean()) / spread).pow(4).mean())
    largest = float(rows.abs().max())
    edge_ratio, edge_z = _edge(rows, groups, std)
    rows_z = _row_dispersion(rows, std, kurtosis)
    distances = {scheme: _distance(sample, scheme) for scheme in known_schemes(tuple(weight.shape))}
    nearest = min(distances, key=distances.__getitem__)
    is_random = edge_z < EDGE_Z and rows_z < ROWS_Z
    state: State = "trained"
    if count < MINIMUM:
        state = "unknown"
    elif is_random and any(
        _p_value(distance, len(sample)) > KS_P and _fits(scheme, std, mean, largest, count)
        for scheme, distance in distances.items()
    ):
        state = "initial"
    elif is_random and std > 0 and _is_one_distribution(sample, std):
        state = "random"
    return LayerStatistics(
        state, std, norm, kurtosis, largest, edge_ratio, edge_z, rows_z, nearest.name, distances[nearest]
    )


def constant_value(values: Tensor) -> float | None:
    """The value of a vector whose entries are all equal; None if they differ or if there are fewer than two."""
    if len(values) < 2 or not bool((values == values[0]).all()):
        return None
    return float(values[0])


def _sample(rows: Tensor) -> Tensor:
    """Up to ``SAMPLE`` weights, sorted, float64. An odd step keeps the sample from following one column."""
    flat = rows.flatten()
    step = max(1, len(flat) // SAMPLE) | 1 if len(flat) > SAMPLE else 1
    return flat[::step][:SAMPLE].double().sort().values


def _distance(sample: Tensor, scheme: Scheme) -> float:
    """The Kolmogorov–Smirnov distance between a sorted sample and a scheme's distribution."""
    if scheme.shape == "gaussian":
        theory = torch.special.ndtr(sample / scheme.std)
    else:
        theory = (sample / (2 * math.sqrt(3) * scheme.std) + 0.5).clamp(0, 1)
    count = len(sample)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return float(torch.maximum((steps[1:] - theory).max(), (theory - steps[:-1]).max()))


def _p_value(distance: float, count: int) -> float:
    """The asymptotic p-value of a Kolmogorov–Smirnov distance."""
    x = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance  # Stephens's correction for few numbers
    if x < 0.3:
        return 1.0
    terms = math.fsum((-1.0) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 30))
    return min(1.0, max(0.0, 2 * terms))


def _fits(scheme: Scheme, std: float, mean: float, largest: float, count: int) -> bool:
    """Whether variance, mean and range are those of ``count`` draws of a scheme."""
    kurtosis = 3.0 if scheme.shape == "gaussian" else 1.8
    variance_z = (std**2 / scheme.std**2 - 1) / math.sqrt((kurtosis - 1) / count)
    mean_z = mean / (scheme.std / math.sqrt(count))
    inside = scheme.shape == "gaussian" or largest <= math.sqrt(3) * scheme.std * ROUNDING
    return abs(variance_z) < VARIANCE_Z and abs(mean_z) < VARIANCE_Z and inside


def _is_one_distribution(sample: Tensor, std: float) -> bool:
    """Whether the sample is Gaussian or uniform with its own scale."""
    return any(
        _p_value(_distance(sample, Scheme("", shape, std)), len(sample)) > FITTED_P for shape in ("gaussian", "uniform")
    )


def _edge(rows: Tensor, groups: int, std: float) -> tuple[float, float]:
    """The largest singular value over the Marchenko–Pastur edge, and its distance in Tracy–Widom scales.

    Of several groups, the largest counts.
    """
    if std == 0 or len(rows) % groups:
        return 0.0, 0.0
    m, n = len(rows) // groups, rows.shape[1]
    edge = math.sqrt(m) + math.sqrt(n)
    scale = edge * (1 / math.sqrt(m) + 1 / math.sqrt(n)) ** (1 / 3)
    found = max(largest_singular_value(part) for part in rows.chunk(groups)) / std
    return found / edge, (found**2 - edge**2) / scale


def largest_singular_value(matrix: Tensor) -> float:
    """The largest singular value of ``(m, n)``, finite; of a large matrix a lower bound, at most 0.2 % too low.

    A large matrix is not multiplied by itself: the Lanczos bidiagonalization of G. Golub and W. Kahan ("Calculating the
    singular values and pseudo-inverse of a matrix", SIAM J. Numer. Anal. 2, 1965) reads it twice for each step.
    """
    wide = matrix.float()
    if min(wide.shape) <= 512:
        gram = (wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide).double()
        return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))
    right = torch.randn(wide.shape[1], generator=torch.Generator().manual_seed(0))
    lefts, rights = torch.empty(LANCZOS_STEPS, wide.shape[0]), torch.empty(LANCZOS_STEPS, wide.shape[1])
    bidiagonal = torch.zeros(LANCZOS_STEPS, LANCZOS_STEPS, dtype=torch.float64)
    length = float(right.norm())
    for step in range(LANCZOS_STEPS):
        rights[step] = right / length
        left = _orthogonal(wide @ rights[step], lefts[:step])
        length = float(left.norm())
        bidiagonal[step, step] = length
        if length <= TINY * float(bidiagonal[0, 0]):
            break  # the matrix has no more directions
        lefts[step] = left / length
        right = _orthogonal(lefts[step] @ wide, rights[: step + 1])
        length = float(right.norm())
        if step + 1 == LANCZOS_STEPS or length <= TINY * float(bidiagonal[0, 0]):
            break
        bidiagonal[step, step + 1] = length
    return float(torch.linalg.matrix_norm(bidiagonal, 2))


def _orthogonal(vector: Tensor, others: Tensor) -> Tensor:
    """A vector without its parts along orthonormal ``others`` ``(k, n)``; twice, because fp32 leaves a rest."""
    for _ in range(2):
        vector = vector - (others @ vector) @ others
    return vector


def _row_dispersion(rows: Tensor, std: float, kurtosis: float) -> float:
    """How much more the squared norms of rows differ than those of independent numbers, in standard errors."""
    m, n = rows.shape
    if std == 0 or m < 8:
        return 0.0
    squares = torch.linalg.vector_norm(rows, dim=1).double().square()
    expected = max(kurtosis - 1, 0.5) * n * std**4
    return (float(squares.var()) / expected - 1) / math.sqrt(2 / (m - 1))
