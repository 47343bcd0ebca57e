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
from collections.abc import Sequence
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


def join_groups(hashes: NDArray[np.uint64], groups: Sequence[str]) -> NDArray[np.uint64]:
    """For each of ``n`` images the group that it must stay with, ``(n,)`` uint64, independent of their order.

    Images of equal ``hashes`` ``(n,)`` belong together, and so do images with the same name in ``groups`` ("" means no
    group). If A belongs with B and B with C, all three are one group. It is named by the lowest hash in it.
    """
    parent: dict[object, object] = {}

    def root(item: object) -> object:
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    numbers = hashes.tolist()
    for number, group in zip(numbers, groups, strict=True):
        if group:
            parent[root(number)] = root(group)
    lowest: dict[object, int] = {}
    for number in numbers:
        lowest[root(number)] = min(number, lowest.get(root(number), number))
    return np.array([lowest[root(number)] for number in numbers], np.uint64)


def hold_out(
    targets: ArrayLike, hashes: NDArray[np.uint64], fraction: float, *, large_groups: bool = False
) -> NDArray[np.bool_]:
    """Which of ``n`` items to hold out, ``(n,)`` bool: of each class its share, the items with the lowest hashes.

    ``targets``: ``(n,)`` integers ≥ 0; ``hashes``: ``(n,)`` uint64, equal for equal content (or see
    :func:`join_groups`); ``fraction``: in [0, 1).
    In total ⌈fraction · n⌉ items are held out, where ``n`` counts classes with three or more items. It is fewer if a
    group of equal hashes is larger than the remaining share of its class, which is not exceeded. With ``large_groups``
    it may be exceeded by half a group, because otherwise no group of several images might fit. Raises
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
        if all(quota[label] * (2 if large_groups else 1) >= count for label, count in group.items()):
            held[order[start:stop]] = True
            for label, count in group.items():
                quota[label] -= count
    return held


def split_by_hash(targets: ArrayLike, hashes: NDArray[np.uint64], *, large_groups: bool = False) -> NDArray[np.int8]:
    """80 % train, 10 % val, 10 % test, as ``(n,)`` int8 indices into ``SPLITS``. Arguments: :func:`hold_out`."""
    targets = np.asarray(targets, dtype=np.int64)
    split = np.full(len(targets), SPLITS.index("train"), dtype=np.int8)
    split[hold_out(targets, hashes, 1 / 10, large_groups=large_groups)] = SPLITS.index("test")
    rest = np.flatnonzero(split == SPLITS.index("train"))
    split[rest[hold_out(targets[rest], hashes[rest], 1 / 9, large_groups=large_groups)]] = SPLITS.index("val")
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
