"""Linear layers in blocks of output units, for CPUs with AVX2 and no AVX-512.

There torch's library (MKL) is slow when it multiplies all rows of a large weight matrix at once: blocks were measured
to be up to 2.5 times as fast on an AMD CPU (docs/log.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alexnet.kernels.winograd import uses_avx2

BLOCKS = 8
LEAST = 64  # rows in a block; smaller blocks bring nothing


class BlockedLinear(nn.Linear):
    """``nn.Linear`` in blocks of rows where that is faster: ``(N, F)`` → ``(N, units)``; other shapes as in torch."""

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        blocks, images = math.gcd(BLOCKS, self.out_features), len(x)
        few = self.out_features < blocks * LEAST
        if few or x.dim() != 2 or not images or not uses_avx2(x):
            return super().forward(x)
        rows = self.weight.view(blocks, -1, self.in_features)
        if images == 1:  # a product with one vector is another routine, and faster with the vector on the left
            return torch.bmm(x.expand(blocks, 1, -1), rows.mT).view(1, -1) + self.bias
        return torch.bmm(rows, x.T.expand(blocks, -1, images)).view(-1, images).T + self.bias
