"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey 28×28 images each, in four idx files.

MNIST: LeCun, Bottou, Bengio and Haffner (1998). Fashion-MNIST: Xiao, Rasul and Vollgraf (2017).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from alexnet.data.sources.array_files import idx_count, read_idx
from alexnet.data.sources.file_sets import FileSet, file_set_opener
from alexnet.data.sources.records import DIGIT_NAMES, Part, Source, array_records, fingerprint_paths

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

MNIST = FileSet(
    "mnist",
    "MNIST",
    ("MNIST/raw", "raw", "."),
    _IDX,
    "download the four files of https://ossci-datasets.s3.amazonaws.com/mnist/ and give --data-root FOLDER",
)
FASHION_MNIST = FileSet(
    "fashion-mnist",
    "FashionMNIST",
    ("FashionMNIST/raw", "raw", "."),
    _IDX,
    "download the four files of https://github.com/zalandoresearch/fashion-mnist and give --data-root FOLDER",
    ("/usr/share/datasets/fashion-mnist",),
)

FASHION_NAMES = (  # the README of github.com/zalandoresearch/fashion-mnist
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def open_idx_files(name: str, classes: tuple[str, ...], files: tuple[Path, ...]) -> Source:
    """The source in four idx files, gzipped or not: training images and labels, test images and labels."""
    images, targets, test_images, test_targets = files

    def parts() -> Iterator[Part]:
        yield "train", *read_idx(images, targets)
        yield "test", *read_idx(test_images, test_targets)

    return Source(
        name=name,
        location=str(images.parent),
        classes=classes,
        fingerprint=fingerprint_paths(files),
        read=lambda: array_records(parts()),
        count=idx_count(targets) + idx_count(test_targets),
        pixel_shape=(28, 28, 1),
    )


open_mnist = file_set_opener(MNIST, functools.partial(open_idx_files, "mnist", DIGIT_NAMES))
open_fashion_mnist = file_set_opener(FASHION_MNIST, functools.partial(open_idx_files, "fashion-mnist", FASHION_NAMES))
