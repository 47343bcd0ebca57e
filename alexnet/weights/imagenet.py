"""The 1000 classes of ILSVRC-2012 and the mean image of its training set, which published weights need.

``ilsvrc2012/classes.txt``: WordNet id and words of each class, in the order of the ids, which is the order of the
outputs of Caffe's, torchvision's and most other published weights (from timm's ``data/_info``, Apache-2.0; the words
are WordNet's). ``ilsvrc2012/mean_image.safetensors``: Caffe's ``ilsvrc_2012_mean.npy`` (BVLC/caffe, BSD-2-Clause) as
RGB.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from alexnet.core.tensors import load_tensors
from alexnet.models.bundle import distinct_labels

CLASSES = 1000
FOLDER = Path(__file__).parent / "ilsvrc2012"


def class_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The WordNet ids of the 1000 classes, and their first words: ``n01440764`` and ``tench``.

    Where two classes have the same first word ("crane", "maillot"), their label has the id too.
    """
    rows = [line.split(" ", 1) for line in (FOLDER / "classes.txt").read_text(encoding="utf-8").splitlines()]
    ids = tuple(wnid for wnid, _ in rows)
    return ids, distinct_labels(ids, tuple(words.split(",")[0] for _, words in rows))


def ilsvrc_mean_image() -> Tensor:
    """The mean image of ILSVRC-2012's training set, warped to 256 × 256: ``(256, 256, 3)`` fp32, RGB, 0 … 255."""
    return load_tensors(FOLDER / "mean_image.safetensors")["mean_image"]
