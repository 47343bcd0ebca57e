"""Random numbers without state: each draw is a function of a seed, a purpose and a counter (epoch, image).

The result therefore does not depend on the number of workers, on the order of their work, or on interruptions. The
generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
vectorised over counters; the tests compare it with the published known answers.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def derive_key(*parts: int | str) -> int:
    """A 63-bit key from a seed and a purpose, e.g. ``derive_key(seed, "dropout", step, "fc6")``.

    63 bits, because it is also used as the seed of a ``torch.Generator``, which is a signed integer.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def philox4x32(counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: int) -> NDArray[np.uint64]:
    """Philox4x32-10: four 32-bit words for each 128-bit counter.

    ``counter``: four broadcastable arrays of integers in [0, 2³²). ``key``: 64 bits. Returns ``(4, …)`` ``uint64``
    values below 2³².
    """
    c = [np.array(part, dtype=np.uint64) for part in np.broadcast_arrays(*counter)]
    k = [np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32 & 0xFFFFFFFF)]
    for _ in range(10):
        a, b = _MULTIPLIERS[0] * c[0], _MULTIPLIERS[1] * c[2]
        c = [b >> _32 ^ c[1] ^ k[0], b & _LOW, a >> _32 ^ c[3] ^ k[1], a & _LOW]
        k = [(k[0] + _WEYL[0]) & _LOW, (k[1] + _WEYL[1]) & _LOW]
    return np.stack(c)


def _words(key: int, epoch: int, index: ArrayLike, block: int) -> NDArray[np.uint64]:
    """Four 32-bit words ``(4, *index.shape)`` for each index: block number ``block`` of (key, epoch, index)."""
    index = np.asarray(index, dtype=np.uint64)
    return philox4x32((index & _LOW, index >> _32, np.uint64(epoch), np.uint64(block)), key)


def uniform(key: int, epoch: int, index: ArrayLike, draws: int) -> NDArray[np.float64]:
    """``draws`` uniform numbers in [0, 1) for each index: ``(draws, *index.shape)`` float64, multiples of 2⁻³²."""
    words = np.concatenate([_words(key, epoch, index, block) for block in range((draws + 3) // 4)])
    return words[:draws].astype(np.float64) / 2.0**32


def normal(key: int, epoch: int, index: ArrayLike, draws: int) -> NDArray[np.float64]:
    """``draws`` standard normal numbers for each index: ``(draws, *index.shape)`` float64 (Box and Muller, 1958)."""
    pairs = (draws + 1) // 2
    u = uniform(key, epoch, index, 2 * pairs)
    radius = np.sqrt(-2.0 * np.log1p(-u[:pairs]))  # log1p(-u): u = 0 is possible, u = 1 is not
    angle = 2.0 * np.pi * u[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:draws]


def integers(draws: NDArray[np.float64], bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Uniform draws in [0, 1) as int64 in [0, ``bound``); an array of bounds is broadcast against ``draws``."""
    return np.minimum((draws * bound).astype(np.int64), bound - 1)


def permutation(key: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation of ``range(count)``, ``(count,)`` int64: indices sorted by their 64-bit draws, ties by index."""
    words = _words(key, epoch, np.arange(count), 0)
    return np.argsort(words[0] << _32 | words[1], kind="stable")
