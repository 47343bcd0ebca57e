"""Train, validation and test splits: stratified by class, chosen by content, independent of the order of the files.

An image is identified by a hash of its content. Duplicates are therefore always in the same split: a copy of a training
image cannot be a test image, even in another class. The number of images per class follows from the largest-remainder
method (Hamilton), so that their sum is exact.
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
"""The names of the splits; ``split_by_hash`` returns indices into them."""

SMALLEST_CLASS = 3
"""All images of a class with fewer images than this are in train."""


def content_hash(data: bytes | NDArray[np.uint8]) -> int:
    """A 64-bit hash of a file or an array: the first eight bytes of the sha256 of its bytes (an array's in C order)."""
    content = data if isinstance(data, bytes) else np.ascontiguousarray(data).data
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def hold_out(targets: ArrayLike, hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which of ``n`` items to hold out, ``(n,)`` bool: of each class its share, the items with the lowest hashes.

    ``targets``: ``(n,)`` integers ≥ 0; ``hashes``: ``(n,)`` uint64, equal for equal content; ``fraction``: in [0, 1).
    In total ⌈fraction · n⌉ items are held out, where ``n`` counts classes with three or more items. It is fewer if a
    group of equal hashes is larger than the remaining share of its class, which is never exceeded. Raises
    ``ValueError`` for a fraction outside its range.
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
    """80 % train, 10 % val, 10 % test, as ``(n,)`` int8 indices into ``SPLITS``. Arguments: :func:`hold_out`."""
    targets = np.asarray(targets, dtype=np.int64)
    split = np.full(len(targets), SPLITS.index("train"), dtype=np.int8)
    split[hold_out(targets, hashes, 1 / 10)] = SPLITS.index("test")
    rest = np.flatnonzero(split == SPLITS.index("train"))
    split[rest[hold_out(targets[rest], hashes[rest], 1 / 9)]] = SPLITS.index("val")
    return split


def _quotas(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many items of each class to hold out, by largest remainder; ties go to the larger class, then the first."""
    exact = Fraction(fraction).limit_denominator(1_000_000)  # 0.1 · 70 is 7, not the 7.000000000000001 of floats
    shares = [exact * int(count) if count >= SMALLEST_CLASS else Fraction(0) for count in counts]
    quota = [math.floor(share) for share in shares]
    missing = math.ceil(sum(shares)) - sum(quota)
    order = sorted(range(len(shares)), key=lambda c: (quota[c] - shares[c], -int(counts[c]), c))
    for label in order[:missing]:
        quota[label] += 1
    return np.array(quota, dtype=np.int64)


def evenly_spaced(index: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` entries of ``index`` ``(n,)``, evenly spaced."""
    return index[np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(np.int64)]
