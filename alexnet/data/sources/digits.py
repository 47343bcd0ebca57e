"""The digits that come with scikit-learn: 1,797 grey 8×8 images, the test set of the UCI set "Optical Recognition of
Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet.data.sources.records import DIGIT_NAMES, Log, Part, Source, array_records, fingerprint
from alexnet.data.splits import content_hash, hold_out

TEST_FRACTION = 0.2  # ⌈0.2 · 1797⌉ = 360


def open_digits(path: Path | None = None, roots: Sequence[Path] = (), log: Log = lambda line: None) -> Source:
    """The digits: 1,437 to train on and 360 to test on, stratified. They are in the package: no argument is used."""
    version = importlib.metadata.version("scikit-learn")
    return Source(
        name="digits",
        location="scikit-learn",
        classes=DIGIT_NAMES,
        fingerprint=fingerprint([(f"digits of scikit-learn {version}", 1797, 0)]),
        read=lambda: array_records(_parts()),
        count=1797,
        pixel_shape=(8, 8, 1),
    )


def _parts() -> Iterator[Part]:
    from sklearn.datasets import load_digits

    raw, targets = load_digits(return_X_y=True)  # values 0 to 16
    pixels = np.round(raw * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    hashes = np.array([content_hash(image) for image in pixels], dtype=np.uint64)
    test = hold_out(targets, hashes, TEST_FRACTION)
    yield "train", pixels[~test], targets[~test]
    yield "test", pixels[test], targets[test]
