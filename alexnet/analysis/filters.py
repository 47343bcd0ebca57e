"""Statistics of first-layer filters: how colourful a filter is, and how much it prefers one orientation.

Krizhevsky, Sutskever and Hinton (2012, §6.1, figure 3) observed that the kernels of one column were mostly
colour-agnostic and those of the other mostly colour-specific. Both properties are indices between 0 and 1 here.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPECTRUM_SIDE = 64  # kernels are padded with zeros to this side, so that orientations are finely sampled


def colour_index(kernels: Tensor) -> Tensor:
    """The share of each kernel's energy that is not grey: Σ (w − w̄)² / Σ w², where w̄ is the mean of R, G and B.

    ``kernels`` ``(N, 3, k, k)``. Returns ``(N,)``: 0 for grey kernels, 1 where R + G + B = 0 at every pixel, 2/3 for
    a kernel of one primary colour. A kernel of zeros has the index 0.
    """
    _check_shape(kernels, channels=3)
    w = kernels.double()
    chromatic = (w - w.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2, 3))
    index: Tensor = chromatic / w.square().sum(dim=(1, 2, 3)).clamp_min(torch.finfo(torch.float64).tiny)
    return index


def orientation_index(kernels: Tensor) -> Tensor:
    """How strongly each kernel prefers one orientation: ``|Σ P(f)·e^{2iθ(f)}| / Σ P(f)`` over its power spectrum P.

    It is one minus the circular variance of orientation (Ringach, Shapley and Hawken, 2002), with the kernel's power
    spectrum in place of a neuron's responses to gratings. The mean and frequencies beyond the Nyquist circle are left
    out, and channels are summed. ``kernels`` ``(N, C, k, k)``. Returns ``(N,)``: near 1 for a grating or an edge, 0 for
    a blob, a checkerboard and a constant.
    """
    _check_shape(kernels)
    w = kernels.double()
    w = w - w.mean(dim=(2, 3), keepdim=True)
    power = torch.fft.fft2(w, s=(SPECTRUM_SIDE, SPECTRUM_SIDE)).abs().square().sum(dim=1)
    frequency = torch.fft.fftfreq(SPECTRUM_SIDE, dtype=torch.float64)
    down, across = torch.meshgrid(frequency, frequency, indexing="ij")
    power = power * (torch.hypot(down, across) <= 0.5)
    power[:, 0, 0] = 0.0
    angle = torch.atan2(down, across)
    along, diagonal = ((power * turn(2 * angle)).sum(dim=(1, 2)) for turn in (torch.cos, torch.sin))
    index: Tensor = torch.hypot(along, diagonal) / power.sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    return index


def column_difference(index: Tensor, shuffles: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Whether two columns differ in an index: the mean of the first half, of the second, and a p-value.

    ``index`` ``(N,)``: the first N/2 values are of the first column's kernels. The p-value is of a permutation test:
    the share of ``shuffles`` random assignments of kernels to columns whose means differ at least as much. ``seed``: of
    these.
    """
    half = len(index) // 2
    first, second = float(index[:half].mean()), float(index[half:].mean())
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand((shuffles, len(index)), generator=generator).argsort(dim=1)
    shuffled = index.double()[orders]
    differences = (shuffled[:, :half].mean(dim=1) - shuffled[:, half:].mean(dim=1)).abs()
    as_large = int((differences >= abs(first - second) - 1e-12).sum())
    return first, second, (as_large + 1) / (shuffles + 1)


def _check_shape(kernels: Tensor, channels: int | None = None) -> None:
    if kernels.dim() != 4 or channels not in (None, kernels.shape[1]):
        raise ValueError(f"kernels have the shape (N, {channels or 'C'}, k, k), not {tuple(kernels.shape)}")
