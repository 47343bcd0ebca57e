"""Small made folders for segmentation: coloured shapes on noise, which a narrow network learns in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.data.masks import encode_mask

CLASSES = ("background", "square", "bar")


def scene(random, side=48):
    """An image with a red square or a green bar, and its mask."""
    pixels = random.integers(60, 120, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    top, left = random.integers(2, side - 22, 2)
    kind = int(random.integers(1, 3))
    height, width = (18, 18) if kind == 1 else (8, 20)
    mask[top : top + height, left : left + width] = kind
    pixels[mask == kind] = (220, 40, 40) if kind == 1 else (40, 220, 40)
    return pixels, mask


def write_segmentation(folder: Path, counts=(("train", 12), ("val", 4), ("test", 6)), side=48, seed=0) -> Path:
    """A folder with images/, masks/ and classes.txt below each split; a border of 255 around one mask."""
    random = np.random.default_rng(seed)
    for split, count in counts:
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        for number in range(count):
            pixels, mask = scene(random, side)
            mask[:2] = 255
            Image.fromarray(pixels).save(folder / split / "images" / f"{number:03d}.png")
            (folder / split / "masks" / f"{number:03d}.png").write_bytes(encode_mask(mask))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder
