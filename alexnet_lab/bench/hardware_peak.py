"""The hardware peak: rates of matrix products and copies, measured in the same run as the work that they limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F

from alexnet.kernels.int8 import Int8Product
from alexnet.runtime.device import GIGA, DeviceConfig, multiplies_bf16
from alexnet_lab.bench.interleaved import rate

SIDE = 4096  # of the square matrices
COPY_BYTES = 256 * 2**20  # larger than any cache
SECONDS = 0.5


@dataclass(frozen=True)
class HardwarePeak:
    """``fp32_gflops``, ``bf16_gflops``: a square matrix product, by the faster of torch's two libraries; bf16 is 0
    where the hardware does not multiply it. ``copy_gigabytes``: bytes read and written per second by a copy in memory,
    / 10⁹. ``int8_gflops``: a product of uint8 and int8; 0 if not measured.
    """

    fp32_gflops: float
    bf16_gflops: float
    copy_gigabytes: float
    int8_gflops: float = 0.0

    def gflops(self, precision: str) -> float:
        """The rate of a product in ``"fp32"``, ``"bf16"`` or ``"int8"``."""
        return {"fp32": self.fp32_gflops, "bf16": self.bf16_gflops, "int8": self.int8_gflops}[precision]


def highest(*measured: HardwarePeak) -> HardwarePeak:
    """The highest of each rate, because a machine is slow at times."""
    return HardwarePeak(*(max(rates) for rates in zip(*map(astuple, measured), strict=True)))


def measure_peak(device_config: DeviceConfig, *, int8: bool = False) -> HardwarePeak:
    """Measure the peak; takes some seconds on a CPU and less on a GPU."""
    bf16 = product_rate(device_config, torch.bfloat16, SIDE) if multiplies_bf16(device_config.device) else 0.0
    whole = int8_rate(device_config, SIDE) if int8 else 0.0
    return HardwarePeak(product_rate(device_config, torch.float32, SIDE), bf16, copy_rate(device_config), whole)


def product_rate(device_config: DeviceConfig, dtype: torch.dtype, size: int) -> float:
    """GFLOP/s of a size³ product: the faster of ``torch.mm`` and a 1 × 1 convolution.

    On a CPU they call different libraries, and in fp32 the second is up to twice as fast.
    """
    side = math.isqrt(size)
    a = torch.ones((size, size), dtype=dtype, device=device_config.device)
    maps, kernels = a.view(1, side, side, size).permute(0, 3, 1, 2), a.view(size, size, 1, 1)

    products = (lambda: torch.mm(a, a), lambda: F.conv2d(maps, kernels))
    return max(_rate(product, 2 * size**3, device_config) for product in products)


def int8_rate(device_config: DeviceConfig, size: int) -> float:
    """10⁹ operations per second of a size³ product of uint8 and int8; an addition and a multiplication are two."""
    product, a = Int8Product(torch.ones(size, size)), torch.ones((size, size), dtype=torch.uint8)
    return _rate(lambda: product(a), 2 * size**3, device_config)


def copy_rate(device_config: DeviceConfig, size: int = COPY_BYTES) -> float:
    """Gigabytes per second; each byte counts twice, once read and once written."""
    source = torch.ones(size, dtype=torch.uint8, device=device_config.device)
    target = torch.empty_like(source)

    return _rate(lambda: target.copy_(source), 2 * size, device_config)


def _rate(operation: Callable[[], object], amount: int, device_config: DeviceConfig) -> float:
    """10⁹ units per second, where each call of ``operation`` does ``amount`` of them. The first call does not count."""

    def work() -> Iterator[int]:
        while True:
            operation()
            yield amount

    units = work()
    next(units)
    return rate(units, SECONDS, device_config) / GIGA
