"""A comparison of two candidates, the work that one image takes, and the resulting row of figures."""

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
    """``candidates``: ``"ours"`` and ``"stock"``; ``beside`` describes the second. For each image the work takes
    ``flop`` floating-point operations, or moves ``moved`` bytes; its upper bound is computed from that.
    """

    what: str
    beside: str
    variant: str
    batch: int
    precision: str
    candidates: Mapping[str, Candidate]
    flop: float = 0.0
    moved: float = 0.0

    @property
    def title(self) -> str:
        """A line for progress: "training step paper batch 64 bf16"."""
        return " ".join(filter(None, (self.what, self.variant, f"batch {self.batch}", self.precision)))

    def bound(self, hardware_peak: HardwarePeak) -> tuple[str, float]:
        """The operation of the hardware that limits the work, and the images per second at its peak rate.

        ``("", 0.0)`` if the limit is not known.
        """
        if self.flop:
            return f"{self.precision} matrix product", hardware_peak.gflops(self.precision) * GIGA / self.flop
        if self.moved:
            return "memory copy", hardware_peak.copy_gigabytes * GIGA / self.moved
        return "", 0.0


@dataclass(frozen=True)
class Row:
    """``ours``, ``stock``: median images per second. ``ratio``: median over rounds of their ratios; ``ratio_range``:
    the lowest and the highest. ``bound``: the operation of the hardware that limits the work; ``share_of_bound``: our
    share of its peak rate. ``peak_memory``: bytes. ``first_seconds``: our first unit of work, including compilation.
    ``rounds``: candidate → images per second by round.
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
    bound: str
    share_of_bound: float | None
    peak_memory: int
    stock_peak_memory: int
    first_seconds: float
    rounds: Mapping[str, tuple[float, ...]]


def make_row(comparison: Comparison, hardware_peak: HardwarePeak, timed: Mapping[str, Timed]) -> Row:
    """The row of a comparison from the times of its candidates."""
    ours, stock = timed[OURS], timed[STOCK]
    by_round = ratios(ours, stock)
    bound, images_at_most = comparison.bound(hardware_peak)
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
        bound=bound,
        share_of_bound=ours.rate / images_at_most if images_at_most else None,
        peak_memory=ours.peak_memory,
        stock_peak_memory=stock.peak_memory,
        first_seconds=ours.first_seconds,
        rounds={name: one.rates for name, one in timed.items()},
    )
