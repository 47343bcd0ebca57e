"""Changed copies of a file: bits, cuts, and numbers that formats use as sizes, positions and methods."""

import random


def mutations(data: bytes, count: int, seed: int):
    """``count`` changed copies of ``data``; half of the changes are in the first or last 4 kB, where headers are."""
    draw = random.Random(seed)
    interesting = [0, 1, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            if not changed:
                break
            end = draw.choice((len(changed), min(4096, len(changed))))
            place = draw.randrange(end)
            if draw.random() < 0.3:
                place = len(changed) - 1 - place
            match draw.randrange(6):
                case 0 | 1:
                    changed[place] ^= 1 << draw.randrange(8)
                case 2:
                    changed[place] = draw.randrange(256)
                case 3:
                    width = draw.choice((2, 4, 8))
                    number = draw.choice(interesting) & ((1 << 8 * width) - 1)
                    changed[place : place + width] = number.to_bytes(width, "little")
                case 4:
                    del changed[place : place + draw.choice((1, 4, 64, len(changed)))]
                case 5:
                    part = changed[place : place + draw.randrange(1, 64)]
                    other = draw.randrange(len(changed))
                    changed[other:other] = part
        yield bytes(changed)
