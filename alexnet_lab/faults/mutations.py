"""Changed copies of a file: bits, cuts, and numbers that formats use as sizes, positions and methods."""

from __future__ import annotations

import random
from collections.abc import Iterator

INTERESTING = (0, 1, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
HEADERS = 4096  # bytes at the beginning and at the end of a file, where most formats have their structure


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``count`` changed copies of ``data``, by a random seed."""
    draws = random.Random(seed)
    for _ in range(count):
        yield mutated(data, draws)


def mutated(data: bytes, draws: random.Random) -> bytes:
    """One to four changes; half of them are in the first or last ``HEADERS`` bytes."""
    changed = bytearray(data)
    for _ in range(draws.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        place = draws.randrange(draws.choice((len(changed), min(HEADERS, len(changed)))))
        if draws.random() < 0.3:
            place = len(changed) - 1 - place
        match draws.randrange(6):
            case 0 | 1:
                changed[place] ^= 1 << draws.randrange(8)
            case 2:
                changed[place] = draws.randrange(256)
            case 3:
                width = draws.choice((2, 4, 8))
                number = draws.choice(INTERESTING) & ((1 << 8 * width) - 1)
                changed[place : place + width] = number.to_bytes(width, "little")
            case 4:
                del changed[place : place + draws.choice((1, 4, 64, len(changed)))]
            case 5:
                part = changed[place : place + draws.randrange(1, 64)]
                other = draws.randrange(len(changed))
                changed[other:other] = part
    return bytes(changed)
