"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour 32×32 images each (Krizhevsky, 2009).

The files are pickles, so they are read only if their md5 is the published one, see ``array_files.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from alexnet.data.sources.array_files import read_cifar, read_cifar_names
from alexnet.data.sources.file_sets import FileSet, file_set_opener
from alexnet.data.sources.records import Part, Source, array_records, fingerprint_paths

CIFAR10 = FileSet(
    "cifar10",
    "CIFAR10",
    ("cifar-10-batches-py", "."),
    (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and give --data-root FOLDER",
)
CIFAR100 = FileSet(
    "cifar100",
    "CIFAR100",
    ("cifar-100-python", "."),
    ("train", "test", "meta"),
    "unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz and give --data-root FOLDER",
)


def open_cifar_files(wanted: FileSet, files: tuple[Path, ...]) -> Source:
    """The source in the batch files of CIFAR. Raises ``UserError`` if the md5 of a file is not the published one."""
    *batches, test, meta = files
    md5 = _published_md5(wanted)

    def parts() -> Iterator[Part]:
        for path in batches:
            yield "train", *read_cifar(path, md5[path.name])
        yield "test", *read_cifar(test, md5[test.name])

    return Source(
        name=wanted.name,
        location=str(meta.parent),
        classes=read_cifar_names(meta, md5[meta.name]),
        fingerprint=fingerprint_paths(files),
        read=lambda: array_records(parts()),
        count=60_000,
        pixel_shape=(32, 32, 3),
    )


def _published_md5(wanted: FileSet) -> dict[str, str]:
    """File name → md5, as torchvision publishes them."""
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, wanted.torchvision)
    return {**dict(dataset.train_list), **dict(dataset.test_list), dataset.meta["filename"]: dataset.meta["md5"]}


open_cifar10 = file_set_opener(CIFAR10, functools.partial(open_cifar_files, CIFAR10))
open_cifar100 = file_set_opener(CIFAR100, functools.partial(open_cifar_files, CIFAR100))
