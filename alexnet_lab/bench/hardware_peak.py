"""What the machine can do at most: matrix products and copies, measured in the same run as what is held to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F

from alexnet.kernels.int8 import Int8Product
from alexnet.runtime.device import GIGA, DeviceConfig, multiplies_bf16
from alexnet_lab.bench.interleaved import rate

SIDE = 4096  # of a product's matrices
COPY_BYTES = 256 * 2**20  # more than any cache holds
SECONDS = 0.5


@dataclass(frozen=True)
class HardwarePeak:
    """``fp32_gflops`` and ``bf16_gflops``: a square matrix product, by whichever of torch's two libraries is faster, 0
    where bf16 is emulated; ``copy_gigabytes``: bytes read and written per second by a copy within memory, / 10⁹;
    ``int8_gflops``: a product of whole numbers, 0 where nobody asked for it.
    """

    fp32_gflops: float
    bf16_gflops: float
    copy_gigabytes: float
    int8_gflops: float = 0.0

    def gflops(self, precision: str) -> float:
        """The product's rate in ``"fp32"``, ``"bf16"`` or ``"int8"``."""
        return {"fp32": self.fp32_gflops, "bf16": self.bf16_gflops, "int8": self.int8_gflops}[precision]


def highest(*measured: HardwarePeak) -> HardwarePeak:
    """The highest of each rate: a machine that was slow for a moment can do what it did in another."""
    return HardwarePeak(*(max(rates) for rates in zip(*map(astuple, measured), strict=True)))


def measure_peak(device_config: DeviceConfig, *, int8: bool = False) -> HardwarePeak:
    """Some seconds on a CPU, less on a GPU."""
    bf16 = product_rate(device_config, torch.bfloat16, SIDE) if multiplies_bf16(device_config.device) else 0.0
    whole = int8_rate(device_config, SIDE) if int8 else 0.0
    return HardwarePeak(product_rate(device_config, torch.float32, SIDE), bf16, copy_rate(device_config), whole)


def product_rate(device_config: DeviceConfig, dtype: torch.dtype, size: int) -> float:
    """GFLOP/s of a ``size``³ product: as ``torch.mm`` does it, or as a convolution by one pixel, which on a CPU is
    another library's and in fp32 up to twice as fast.
    """
    side = math.isqrt(size)
    a = torch.ones((size, size), dtype=dtype, device=device_config.device)
    maps, kernels = a.view(1, side, side, size).permute(0, 3, 1, 2), a.view(size, size, 1, 1)

    ways = (lambda: torch.mm(a, a), lambda: F.conv2d(maps, kernels))
    return max(_rate(way, 2 * size**3, device_config) for way in ways)


def int8_rate(device_config: DeviceConfig, size: int) -> float:
    """Billions of additions and multiplications a second of a ``size``³ product of uint8 by int8."""
    product, a = Int8Product(torch.ones(size, size)), torch.ones((size, size), dtype=torch.uint8)
    return _rate(lambda: product(a), 2 * size**3, device_config)


def copy_rate(device_config: DeviceConfig, size: int = COPY_BYTES) -> float:
    """Gigabytes per second, each byte counted where it is read and where it is written."""
    source = torch.ones(size, dtype=torch.uint8, device=device_config.device)
    target = torch.empty_like(source)

    return _rate(lambda: target.copy_(source), 2 * size, device_config)


def _rate(do: Callable[[], object], each: int, device_config: DeviceConfig) -> float:
    """Billions a second of what is done ``each`` time, after one time that does not count."""

    def work() -> Iterator[int]:
        while True:
            do()
            yield each

    pieces = work()
    next(pieces)
    return rate(pieces, SECONDS, device_config) / GIGA
