"""What the names of folders mean: a split, one part of several, or a file type of other tasks.

Sets of images are published under many names for the same three splits: ``training_set``, ``seg_test``, ``X_train``,
``test1``. A folder with such a name is not a class. So names are compared word by word.
"""

from __future__ import annotations

import re

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that mean a split, in lower or upper case."""

UNLABELLED = "unlabelled"
"""The meaning of a folder whose images have no classes, e.g. ``seg_pred``: never a class, and never used."""

_WORDS = SPLIT_NAMES | {
    **dict.fromkeys(("trn", "trainval", "训练", "训练集"), "train"),
    **dict.fromkeys(("validate", "dev", "eval", "evaluation", "验证", "验证集"), "val"),
    **dict.fromkeys(("tst", "holdout", "测试", "测试集"), "test"),
    **dict.fromkeys(
        ("pred", "predict", "prediction", "predictions", "inference", "submission", "unlabeled", "unlabelled"),
        UNLABELLED,
    ),
}
"""Words that mean a split, also beside words of ``_FILLERS``."""

_FILLERS = {
    *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "pic", "pics", "picture"),
    *("pictures", "photo", "photos", "file", "files", "folder", "folders", "dir", "split", "seg", "sample", "samples"),
    *("part", "list", "label", "labels", "class", "classes", "jpg", "png", "new", "final", "full", "raw", "resized"),
}
_GLUED = ("set", "data", "images", "imgs", "img")  # "trainset" is "train" and "set"
_PARTS = {"fold", "kfold", "part", "partition", "split", "shard", "chunk", "subset"}
_PICTURES = {
    *("images", "image", "imgs", "img", "jpegimages", "jpg", "jpeg", "jpegs", "png", "photos", "photo", "pictures"),
    *("pics", "data", "frames", "raw", "original", "originals", "crops", "cropped", "files"),
}
_ANNOTATIONS = {
    *("labels", "label", "annotations", "annotation", "anns", "masks", "mask", "gt", "groundtruth", "segmentation"),
    *("segmentations", "segmentationclass", "segmentationobject", "bboxes", "boxes", "imagesets"),
}


def split_of(name: str) -> str | None:
    """The split that a name means: "train", "val", "test" or ``UNLABELLED``; None for any other name.

    All words of the name must mean the same split or be fillers: "seg_train" is train, "train station" is none.
    """
    if is_plain_split(name):
        return SPLIT_NAMES[name.lower()]
    meanings = set()
    for word in map(_unglued, _words(name)):
        if word in _WORDS:
            meanings.add(_WORDS[word])
        elif not (word in _FILLERS or word.isdigit() or len(word) == 1):
            return None
    if meanings == {"train", "val"}:
        return "train"
    return meanings.pop() if len(meanings) == 1 else None


def split_in(name: str) -> str | None:
    """The split of a file whose name may also have other words: "imagenet1k-train-0012" is train.

    It is that of :func:`split_of`, else the split that the words of ``SPLIT_NAMES`` in the name mean; None if there is
    no such word, or if two of them mean different splits.
    """
    meanings = {SPLIT_NAMES[word] for word in _words(name) if word in SPLIT_NAMES}
    return split_of(name) or (meanings.pop() if len(meanings) == 1 else None)


def is_plain_split(name: str) -> bool:
    """Whether a name is one of ``SPLIT_NAMES``, in lower or upper case."""
    return name.lower() in SPLIT_NAMES


def part_of(name: str) -> tuple[str, ...] | None:
    """For one part of several, e.g. "fold 3": the words without the numbers, equal for all parts; else None."""
    words = _words(name)
    rest = tuple(word for word in words if not word.isdigit())
    return rest if len(rest) < len(words) and _PARTS.intersection(rest) else None


def is_pictures(name: str) -> bool:
    """Whether a name only states that images are inside: "images", "JPEGImages", "photos"."""
    return _letters(name) in _PICTURES


def is_annotations(name: str) -> bool:
    """Whether a name states that labels of other tasks are inside: "labels", "Annotations", "masks"."""
    return _letters(name) in _ANNOTATIONS


def _words(name: str) -> list[str]:
    """The words and numbers of a name in lower case: "X_trainSet 2" → x, train, set, 2."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+|\d+", re.sub(r"hold[-_ ]out", "holdout", parted.lower()))


def _unglued(word: str) -> str:
    ends = (word.removesuffix(end) for end in _GLUED if word.endswith(end))
    return next((start for start in ends if start in _WORDS), word)


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.lower())
