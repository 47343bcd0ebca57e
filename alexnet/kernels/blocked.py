"""Linear layers computed in blocks of output units, for CPUs with AVX2 but without AVX-512.

On these CPUs the matrix library of torch (MKL) is slow if it multiplies all rows of a large weight matrix at once.
Blocks were up to 2.5 times as fast on an AMD CPU (docs/log.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alexnet.kernels.batch import batch_of
from alexnet.kernels.winograd import uses_avx2

BLOCKS = 8
LEAST = 64  # rows in a block; smaller blocks are not faster


class BlockedLinear(nn.Linear):
    """``nn.Linear``, computed in blocks of rows if that is faster: ``(N, F)`` → ``(N, units)``.

    Inputs of other shapes are computed by ``nn.Linear``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        blocks, images = math.gcd(BLOCKS, self.out_features), len(x)
        few = self.out_features < blocks * LEAST
        if few or x.dim() != 2 or not images or not uses_avx2(x):
            return super().forward(x)
        rows = self.weight.view(blocks, -1, self.in_features)
        if batch_of(x) == 1:  # MKL has another routine for one vector, which is faster with the vector on the left
            return torch.bmm(x.expand(blocks, 1, -1), rows.mT).view(1, -1) + self.bias
        return torch.bmm(rows, x.T.expand(blocks, -1, images)).view(-1, images).T + self.bias
