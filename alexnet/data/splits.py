"""Which images are held out: stratified by class, chosen by content, the same whatever the order of the files.

An image is known by a hash of its content, so duplicates always land on the same side and a copy of a training image
cannot be a test image, even under another class. Quotas per class follow the largest remainder (Hamilton's method),
so that their sum is exact.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPLITS = ("train", "val", "test")
"""What the numbers of ``split_by_hash`` mean."""

SMALLEST_CLASS = 3
"""A class with fewer images than this only trains."""


def content_hash(data: bytes | NDArray[np.uint8]) -> int:
    """64 bits that stand for the content: the first eight bytes of its sha256; of an array, of its bytes in C order."""
    content = data if isinstance(data, bytes) else np.ascontiguousarray(data).data
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def hold_out(targets: ArrayLike, hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which of ``n`` items to hold out, ``(n,)`` bool: each class's share, by lowest hash.

    ``targets``: ``(n,)`` integers ≥ 0; ``hashes``: ``(n,)``, equal for equal content; ``fraction``: in [0, 1).
    In all ⌈fraction · n⌉ items, ``n`` counted over the classes with three or more; fewer only where a group of equal
    hashes does not fit the quotas of its classes, which are never exceeded.
    """
    targets = np.asarray(targets, dtype=np.int64)
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction is {fraction}: expected 0 ≤ fraction < 1")
    quota = _quotas(np.bincount(targets), fraction).tolist()
    held = np.zeros(len(targets), dtype=np.bool_)
    order = np.argsort(hashes, kind="stable")
    changes = np.flatnonzero(np.diff(hashes[order])) + 1
    ordered = targets[order].tolist()
    for start, stop in itertools.pairwise([0, *changes.tolist(), len(ordered)]):
        group = Counter(ordered[start:stop])
        if all(quota[label] >= count for label, count in group.items()):
            held[order[start:stop]] = True
            for label, count in group.items():
                quota[label] -= count
    return held


def split_by_hash(targets: ArrayLike, hashes: NDArray[np.uint64]) -> NDArray[np.int8]:
    """80 % train, 10 % val, 10 % test: ``(n,)`` indices into ``SPLITS``."""
    targets = np.asarray(targets, dtype=np.int64)
    split = np.full(len(targets), SPLITS.index("train"), dtype=np.int8)
    split[hold_out(targets, hashes, 1 / 10)] = SPLITS.index("test")
    rest = np.flatnonzero(split == SPLITS.index("train"))
    split[rest[hold_out(targets[rest], hashes[rest], 1 / 9)]] = SPLITS.index("val")
    return split


def _quotas(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many of each class to hold out: the largest remainder, ties to the larger class and then to the first."""
    exact = Fraction(fraction).limit_denominator(1_000_000)  # 0.1 · 70 is 7, not the 7.000000000000001 of floats
    shares = [exact * int(count) if count >= SMALLEST_CLASS else Fraction(0) for count in counts]
    quota = [math.floor(share) for share in shares]
    missing = math.ceil(sum(shares)) - sum(quota)
    order = sorted(range(len(shares)), key=lambda c: (quota[c] - shares[c], -int(counts[c]), c))
    for label in order[:missing]:
        quota[label] += 1
    return np.array(quota, dtype=np.int64)


def evenly_spaced(index: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of ``index``, at even distances."""
    return index[np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(np.int64)]
