"""Images with a mask for each: a folder for segmentation.

Two layouts are read. ``images/`` and ``masks/`` hold files of the same names, the masks as PNG (``data/masks.py``), and
``classes.txt`` the names of the classes, in the order of their numbers; ``train/``, ``val/`` and ``test/`` may be
above ``images/`` and ``masks/``. The layout of PASCAL VOC (Everingham et al. 2010) has ``JPEGImages/``,
``SegmentationClass/`` and lists in ``ImageSets/Segmentation/``. VOC keeps the masks of its test images secret, so its
``val`` is the test set here, as in the literature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.core.files import read_text
from alexnet.data.masks import MOST_CLASSES
from alexnet.data.sources.paired_folders import (
    Pair,
    check_found,
    described_files,
    pair,
    read_classes,
    splits,
)
from alexnet.data.sources.records import Ignored, Record, Source, fingerprint, slug, unreadable

IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_MASKS, VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EXPECTED = f"{IMAGES}/ and {MASKS}/ with files of the same names, masks as PNG, and classes.txt; or PASCAL VOC's layout"


def open_segmentation(root: Path) -> Source:
    """The images and masks in a folder. Raises ``UserError`` for a folder of another layout."""
    ignored = Ignored()
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected {EXPECTED}")
    if (root / VOC_IMAGES).is_dir():
        pairs, classes = _voc(root, ignored)
    else:
        found = splits(root, IMAGES, ignored)
        if not found:
            raise UserError(f"{root} has no folder {IMAGES}/: expected {EXPECTED}")
        pairs = [
            each
            for split, folder in found.items()
            for each in pair(root, folder, split, IMAGES, MASKS, ".png", ignored)
        ]
        classes = read_classes(root, [root, *(root.joinpath(*folder) for folder in found.values())])
    check_found(root, pairs, ignored, EXPECTED)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UserError(f"{root} has {len(classes)} classes: segmentation needs 2 to {MOST_CLASSES}")

    def read() -> Iterator[Record]:
        for each in pairs:
            yield Record(each.split, 0, each.image, root / each.image, mask=root / each.annotation)

    return Source(
        name=slug(root.name),
        location=str(root),
        classes=classes,
        fingerprint=fingerprint(described_files(pairs)),
        read=read,
        count=len(pairs),
        warnings=tuple(ignored.warnings()),
        trainable=any(each.split in (None, "train") for each in pairs),
        annotations="masks",
    )


def _voc(root: Path, ignored: Ignored) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs and classes of a folder of PASCAL VOC. Its lists name the images of each split."""
    classes = read_classes(root, [root]) if (root / "classes.txt").is_file() else VOC_CLASSES
    lists = {name: root / VOC_LISTS / f"{name}.txt" for name in ("train", "val", "test")}
    listed = {name: _names(path) for name, path in lists.items() if path.is_file()}
    if not listed:
        return pair(root, (), None, VOC_IMAGES, VOC_MASKS, ".png", ignored), classes
    pairs = {
        name: pair(root, (), name, VOC_IMAGES, VOC_MASKS, ".png", Ignored() if name == "test" else ignored, wanted)
        for name, wanted in listed.items()
    }
    if pairs.get("val") and not pairs.get("test"):
        ignored.note("the test images have no masks, so the images of val.txt are the test images")
        pairs["test"] = [Pair("test", each.image, each.annotation, each.files) for each in pairs.pop("val")]
    return [each for some in pairs.values() for each in some], classes


def _names(path: Path) -> list[str]:
    try:
        return read_text(path).split()
    except OSError as error:
        raise unreadable(path, error) from error
