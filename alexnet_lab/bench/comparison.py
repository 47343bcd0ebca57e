"""What is compared: the contestants, and how much work an image is; and the row of figures that comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet.runtime.device import GIGA
from alexnet_lab.bench.hardware_peak import HardwarePeak
from alexnet_lab.bench.interleaved import Candidate, Timed, ratios

OURS, STOCK = "ours", "stock"


@dataclass(frozen=True)
class Comparison:
    """``candidates``: by name, ``"ours"`` and ``"stock"``, which is ``beside``. For each image the work takes ``flop``
    floating-point operations, or moves ``moved`` bytes: what its ceiling is known by.
    """

    what: str
    beside: str
    variant: str
    batch: int
    precision: str
    candidates: Mapping[str, Candidate]
    flop: float = 0.0
    moved: float = 0.0

    def ceiling(self, hardware_peak: HardwarePeak) -> tuple[str, float]:
        """Which of the machine's rates bounds the work, and the images per second if it were all that counts; 0 where
        none is known.
        """
        if self.flop:
            return f"{self.precision} matrix product", hardware_peak.gflops(self.precision) * GIGA / self.flop
        if self.moved:
            return "memory copy", hardware_peak.copy_gigabytes * GIGA / self.moved
        return "", 0.0


@dataclass(frozen=True)
class Row:
    """``ours`` and ``stock``: median images per second; ``ratio``: the median over rounds of their ratios, and
    ``ratio_range`` the lowest and highest; ``ceiling``: the machine's rate that ``ceiling_fraction`` is a share of;
    ``peak_memory``: bytes; ``first_seconds``: the first piece of work, with what is compiled in it. ``rounds``:
    contestant → images per second, one after another.
    """

    what: str
    beside: str
    variant: str
    batch: int
    precision: str
    ours: float
    stock: float
    ratio: float
    ratio_range: tuple[float, float]
    ceiling: str
    ceiling_fraction: float | None
    peak_memory: int
    stock_peak_memory: int
    first_seconds: float
    rounds: Mapping[str, tuple[float, ...]]


def make_row(comparison: Comparison, hardware_peak: HardwarePeak, timed: Mapping[str, Timed]) -> Row:
    """The figures of a contest that was held."""
    ours, stock = timed[OURS], timed[STOCK]
    by_round = ratios(ours, stock)
    ceiling, images_at_most = comparison.ceiling(hardware_peak)
    return Row(
        what=comparison.what,
        beside=comparison.beside,
        variant=comparison.variant,
        batch=comparison.batch,
        precision=comparison.precision,
        ours=ours.rate,
        stock=stock.rate,
        ratio=statistics.median(by_round),
        ratio_range=(min(by_round), max(by_round)),
        ceiling=ceiling,
        ceiling_fraction=ours.rate / images_at_most if images_at_most else None,
        peak_memory=ours.peak_memory,
        stock_peak_memory=stock.peak_memory,
        first_seconds=ours.first_seconds,
        rounds={name: one.rates for name, one in timed.items()},
    )
