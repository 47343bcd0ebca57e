"""Sources to prepare: made arrays and made folders, and a place for stores that is not the user's."""

import hashlib
import itertools

import numpy as np
import pytest

from alexnet.data.sources import Record, Source

_number = itertools.count()


@pytest.fixture
def array_source():
    """Make a source from ``(N, H, W, C)`` pixels, labels and splits."""

    def make(pixels, targets, splits=None, classes=None, **changes):
        splits = splits or [None] * len(pixels)
        kinds = classes or tuple(f"class {label}" for label in range(max(targets) + 1))

        def read():
            for number, (image, label, split) in enumerate(zip(pixels, targets, splits, strict=True)):
                yield Record(split, int(label), f"made/{number:05d}", image)

        fields = {
            "name": "made",
            "location": "memory",
            "classes": kinds,
            "fingerprint": hashlib.sha256(f"{next(_number)}".encode()).hexdigest(),
            "read": read,
            "count": len(pixels),
            "pixel_shape": pixels[0].shape if isinstance(pixels[0], np.ndarray) else None,
        }
        return Source(**(fields | changes))

    return make
