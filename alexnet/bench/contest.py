"""What is compared: the contestants, and how much work an image is; and the row of figures that comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet.bench.ceilings import Ceilings
from alexnet.bench.turns import Contestant, Timed, ratios
from alexnet.runtime.device import GIGA

OURS, STOCK = "ours", "stock"


@dataclass(frozen=True)
class Contest:
    """``contestants``: by name, ``"ours"`` and ``"stock"``, which is ``beside``. For each image the work takes ``flop``
    floating-point operations, or moves ``moved`` bytes: what its ceiling is known by.
    """

    what: str
    beside: str
    variant: str
    batch: int
    precision: str
    contestants: Mapping[str, Contestant]
    flop: float = 0.0
    moved: float = 0.0

    def ceiling(self, ceilings: Ceilings) -> tuple[str, float]:
        """Which of the machine's rates bounds the work, and the images per second if it were all that counts; 0 where
        none is known.
        """
        if self.flop:
            return f"{self.precision} matrix product", ceilings.gflops(self.precision) * GIGA / self.flop
        if self.moved:
            return "memory copy", ceilings.copy_gigabytes * GIGA / self.moved
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


def make_row(contest: Contest, ceilings: Ceilings, timed: Mapping[str, Timed]) -> Row:
    """The figures of a contest that was held."""
    ours, stock = timed[OURS], timed[STOCK]
    by_round = ratios(ours, stock)
    ceiling, images_at_most = contest.ceiling(ceilings)
    return Row(
        what=contest.what,
        beside=contest.beside,
        variant=contest.variant,
        batch=contest.batch,
        precision=contest.precision,
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
