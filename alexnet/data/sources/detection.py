"""Images with boxes around their objects: a folder for detection, in the format of COCO, PASCAL VOC or YOLO.

**COCO** (Lin et al. 2014): one JSON file for each split, ``annotations.json`` beside ``images/``, or COCO's own layout,
``annotations/instances_train2017.json`` beside ``train2017/``. Categories are classes in the order of their ids.
**PASCAL VOC** (Everingham et al. 2010): ``JPEGImages/``, ``Annotations/`` with an XML file for each image, and lists in
``ImageSets/Main/``; VOC's ``val`` is the test set if the test images have no annotations. **YOLO**: ``images/`` and
``labels/`` with a text file for each image, a line "class x y width height" for each box, as shares of the image, and
``classes.txt`` or ``data.yaml`` with the names of the classes; an image without a text file has no objects.

Images without objects are valid: they are examples of background.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from alexnet.core.errors import UserError
from alexnet.core.extras import require
from alexnet.core.files import read_bytes, read_json, read_text
from alexnet.core.names import printable
from alexnet.data.decode import ImageRefusedError
from alexnet.data.sources.folders import File, list_files, may_be_image, subfolders
from alexnet.data.sources.paired_folders import CLASSES_FILE, check_names, read_classes, splits, stem_of
from alexnet.data.sources.records import (
    BoxReader,
    Ignored,
    Record,
    Source,
    fingerprint,
    slug,
    stat,
    unreadable,
)
from alexnet.data.sources.segmentation import VOC_CLASSES as CLASSES_OF_PIXELS
from alexnet.data.sources.segmentation import VOC_IMAGES
from alexnet.data.sources.split_names import UNLABELLED, split_of

IMAGES, LABELS, COCO_FILE, COCO_FOLDER = "images", "labels", "annotations.json", "annotations"
YAML_FILES = ("data.yaml", "dataset.yaml", "data.yml")
ROBOFLOW_FILE = "_annotations.coco.json"
VOC_BOXES, VOC_LISTS = "Annotations", "ImageSets/Main"
VOC_CLASSES = CLASSES_OF_PIXELS[1:]  # without the background
MOST_CLASSES = 10_000
ANNOTATION_LIMIT = 1 << 20  # bytes of the annotations of one image
COCO_LIMIT = 1 << 30  # bytes of a JSON file: that of COCO 2017 has 449 million
EXPECTED = (
    f"COCO ({COCO_FILE} beside {IMAGES}/), PASCAL VOC ({VOC_IMAGES}/ and {VOC_BOXES}/) or YOLO ({IMAGES}/, {LABELS}/ "
    f"and {CLASSES_FILE})"
)

Rows = list[tuple[float, float, float, float, float, float]]


@dataclass(frozen=True)
class _Boxed:
    """An image and how its boxes are read; ``files``: what both depend on, for the fingerprint."""

    split: str | None
    image: str
    boxes: BoxReader
    files: tuple[File, ...]


def open_detection(root: Path) -> Source:
    """The images and boxes in a folder. Raises ``UserError`` for a folder of another layout and for damaged files."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: expected {EXPECTED}")
    ignored = Ignored()
    if (root / VOC_BOXES).is_dir() and (root / VOC_IMAGES).is_dir():
        found, classes = _voc(root, ignored)
    elif coco := _coco_files(root, ignored):
        found, classes = _coco(root, coco, ignored)
    else:
        found, classes = _yolo(root, ignored)
    if not found:
        raise UserError(f"{root} has no image with boxes: expected {EXPECTED}", ignored.warnings())
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise UserError(f"{root} has {len(classes):,} classes: detection needs 1 to {MOST_CLASSES:,}")

    def read() -> Iterator[Record]:
        for each in found:
            yield Record(each.split, 0, each.image, root / each.image, boxes=each.boxes)

    described = ((f"{each.split}:{path}", size, mtime) for each in found for path, size, mtime in each.files)
    return Source(
        name=slug(root.name),
        location=str(root),
        classes=classes,
        fingerprint=fingerprint(described),
        read=read,
        count=len(found),
        warnings=tuple(ignored.warnings()),
        trainable=any(each.split in (None, "train") for each in found),
        annotations="boxes",
    )


# COCO


def _coco_files(root: Path, ignored: Ignored) -> dict[str | None, tuple[str, str]]:
    """Split → (the JSON file, the folder of its images), relative to ``root``; empty for another layout."""
    for name, images in ((COCO_FILE, IMAGES), (ROBOFLOW_FILE, "")):
        if (root / name).is_file():
            return {None: (name, images)}
    found: dict[str | None, tuple[str, str]] = {}
    for name in subfolders(root, ignored):
        split = split_of(name)
        if split in (None, UNLABELLED):
            continue
        for file, images in ((f"{name}/{COCO_FILE}", f"{name}/{IMAGES}"), (f"{name}/{ROBOFLOW_FILE}", name)):
            if (root / file).is_file():
                _add_split(root, found, split, (file, images))
    if found:
        return found
    for path in sorted((root / COCO_FOLDER).glob("instances_*.json")) if (root / COCO_FOLDER).is_dir() else ():
        name = path.stem.removeprefix("instances_")
        split = split_of(name.rstrip("0123456789"))
        folder = next((place for place in (name, f"{IMAGES}/{name}") if (root / place).is_dir()), None)
        if split not in (None, UNLABELLED) and folder is not None:
            _add_split(root, found, split, (f"{COCO_FOLDER}/{path.name}", folder))
    if "val" in found and "test" not in found and "train" in found and (root / COCO_FOLDER).is_dir():
        ignored.note("there are no test images with annotations, so the images of val are the test images")
        found["test"] = found.pop("val")
    return found


def _add_split(root: Path, found: dict[str | None, tuple[str, str]], split: str | None, files: tuple[str, str]) -> None:
    if split in found:
        raise UserError(f"{root} has two sets of annotations for {split}, {found[split][0]} and {files[0]}: keep one")
    found[split] = files


def _coco(
    root: Path, files: Mapping[str | None, tuple[str, str]], ignored: Ignored
) -> tuple[list[_Boxed], tuple[str, ...]]:
    found: list[_Boxed] = []
    known: dict[int, str] = {}
    several: list[tuple[str | None, str, _CocoFile]] = []
    for split, (file, images) in files.items():
        content = _CocoFile.read(root / file)
        for number, name in content.categories.items():
            if known.setdefault(number, name) != name:
                raise UserError(f"{root / file}: category {number} is {name!r}, and {known[number]!r} in another split")
        several.append((split, images, content))
    places = {number: place for place, number in enumerate(sorted(known))}
    classes = tuple(known[number] for number in sorted(known))
    if len(set(classes)) < len(classes):
        raise UserError(f"{root}: two categories have the same name")
    for split, images, content in several:
        if not (root / images).is_dir():
            raise UserError(f"{root / files[split][0]} has no folder {images}/ beside it: expected {EXPECTED}")
        there = {each[0]: _below(images, each) for each in list_files(root / images, ignored)}
        annotations = content.file(root)
        for number, name in content.images.items():
            name = name if name in there else name.removeprefix(f"{IMAGES}/")
            if name not in there:
                ignored.add("annotations of an image that is not there", name)
                continue
            rows = content.boxes.get(number, [])
            file = PurePosixPath(annotations[0]).name
            boxes = _reader([(places[category], *rest) for category, *rest in rows], content.sizes[number], file)
            image = there.pop(name)
            found.append(_Boxed(split, image[0], boxes, (image, annotations)))
        for name, image in sorted(there.items()):
            if may_be_image(name):
                ignored.add("image that the annotations do not list", image[0])
    return found, classes


@dataclass(frozen=True)
class _CocoFile:
    """The checked content of a file: id → name of categories and images; image → stated size, and its boxes."""

    path: Path
    categories: dict[int, str]
    images: dict[int, str]
    sizes: dict[int, tuple[Any, Any]]
    boxes: dict[int, list[tuple[int, float, float, float, float, float]]]

    @classmethod
    def read(cls, path: Path) -> _CocoFile:
        """Raises ``UserError`` for a file that is damaged or of another format."""
        try:
            content = read_json(path, COCO_LIMIT)
            categories = {_id(each): printable(str(each["name"])) for each in _entries(content, "categories")}
            images = {_id(each): _relative(each.get("file_name")) for each in _entries(content, "images")}
            sizes = {each["id"]: (each.get("width"), each.get("height")) for each in content["images"]}
            boxes: dict[int, list[tuple[int, float, float, float, float, float]]] = {}
            for each in _entries(content, "annotations"):
                image, category, box = each.get("image_id"), each.get("category_id"), each.get("bbox")
                if image not in images or category not in categories:
                    raise ValueError(f"annotation {each.get('id')} is of an unknown image or category")
                if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
                    raise ValueError(f"annotation {each.get('id')}: bbox is not four numbers")
                left, top, width, height = map(float, box)
                crowd = float(bool(each.get("iscrowd", 0)))
                boxes.setdefault(image, []).append((category, left, top, left + width, top + height, crowd))
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path} is damaged, or no annotations of COCO", [reason]) from error
        for what, entries in (("images", images), ("categories", categories)):
            if len(entries) < len(content[what]) or len(set(entries.values())) < len(entries):
                raise UserError(f"{path} has two {what} with the same id or the same name")
        return cls(path, categories, images, sizes, boxes)

    def file(self, root: Path) -> File:
        """Path below ``root``, size and time, for a fingerprint."""
        found = stat(self.path)
        return self.path.relative_to(root).as_posix(), found.st_size, found.st_mtime_ns


def _entries(content: Any, name: str) -> list[dict[str, Any]]:
    """The list ``name`` of a JSON document. Raises ``ValueError`` for anything else than a list of objects."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{name!r} is missing, or no list of objects")
    return entries


def _id(entry: Mapping[str, Any]) -> int:
    value = entry.get("id")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"the id {value!r} is no integer")  # noqa: TRY004 – the value of a file
    return value


def _relative(name: Any) -> str:
    """A file name of annotations. Raises ``ValueError`` for one that leaves the folder."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the file name {printable(str(name))!r} is not inside the folder")
    return path.as_posix()


def _reader(rows: Sequence[Sequence[float]], stated: tuple[Any, Any] = (None, None), file: str = "") -> BoxReader:
    """A reader that returns ``rows``. ``stated``: the size of the image in the annotations ``file``, if known."""

    def read(width: int, height: int) -> Sequence[Sequence[float]]:
        _check_size((width, height), stated, file)
        return rows

    return read


def _check_size(size: tuple[int, int], stated: tuple[Any, Any], file: str) -> None:
    """Raise ``ImageRefusedError`` if the annotations in ``file`` were made for an image of another size."""
    texts = tuple(str(value).strip() for value in stated)
    if texts not in (tuple(map(str, size)), ("None", "None"), ("0", "0")):
        shown = " × ".join(map(printable, texts))
        raise ImageRefusedError(f"is {size[0]} × {size[1]} pixels, and {file} was made for {shown}")


# PASCAL VOC


def _voc(root: Path, ignored: Ignored) -> tuple[list[_Boxed], tuple[str, ...]]:
    require("defusedxml", "detection", "reading the XML files of PASCAL VOC")
    classes = read_classes(root, [root]) if (root / CLASSES_FILE).is_file() else VOC_CLASSES
    numbers = {name: number for number, name in enumerate(classes)}
    images: dict[str, File] = {}
    for each in list_files(root / VOC_IMAGES, ignored):
        if may_be_image(each[0]) and images.setdefault(stem_of(each[0]), each) is not each:
            raise UserError(f"{root / VOC_IMAGES} has two images called {printable(stem_of(each[0]))}: keep one")
    files = {
        stem_of(each[0]): each for each in list_files(root / VOC_BOXES, ignored) if each[0].lower().endswith(".xml")
    }
    lists: dict[str | None, list[str]] = {}
    for name in ("train", "val", "test", "trainval"):
        if (path := root / VOC_LISTS / f"{name}.txt").is_file():
            try:
                lists[name] = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
            except OSError as error:
                raise unreadable(path, error) from error
    together = lists.pop("trainval", [])
    if together and "train" not in lists:
        lists["train"] = [name for name in together if name not in lists.get("val", ())]
    if lists and not any(name in files for name in lists.get("test", ())) and "val" in lists:
        ignored.note("there are no test images with annotations, so the images of val.txt are the test images")
        lists["test"] = lists.pop("val")
    listed = {name for names in lists.values() for name in names} if lists else set(images)
    for name in sorted((images.keys() | files.keys()) - listed):
        ignored.add("image or annotations in no list" if lists else "annotations without an image", name)
    found = []
    for split, names in (lists or {None: sorted(images)}).items():
        for name in names:
            if name not in images or name not in files:
                ignored.add("image or annotations that are not there", name)
                continue
            image, file = _below(VOC_IMAGES, images[name]), _below(VOC_BOXES, files[name])
            found.append(_Boxed(split, image[0], _voc_reader(root / file[0], numbers), (image, file)))
    return found, classes


def _voc_reader(path: Path, numbers: Mapping[str, int]) -> BoxReader:
    def read(width: int, height: int) -> Rows:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring

        data = _small(path)
        try:
            tree = fromstring(data)
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # LookupError: unknown encoding
            raise ImageRefusedError(f"has the damaged annotations {path.name}") from error
        if (size := tree.find("size")) is not None:
            _check_size((width, height), (size.findtext("width"), size.findtext("height")), path.name)
        rows: Rows = []
        for item in tree.iter("object"):
            name = (item.findtext("name") or "").strip()
            if name not in numbers:
                raise ImageRefusedError(f"has an object of the unknown class {printable(name)!r} in {path.name}")
            box = item.find("bndbox")
            try:
                corners = [float((box.findtext(side) if box is not None else None) or "") for side in _VOC_SIDES]
            except ValueError as error:
                raise ImageRefusedError(f"has an object without a box in {path.name}") from error
            left, top, right, bottom = corners  # VOC counts pixels from 1, and the last one belongs to the box
            aside = float((item.findtext("difficult") or "0").strip() == "1")
            rows.append((numbers[name], left - 1, top - 1, right, bottom, aside))
        return rows

    return read


_VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _small(path: Path) -> bytes:
    """The content of the annotations of one image. Raises ``ImageRefusedError`` for a large file, and ``OSError``."""
    try:
        return read_bytes(path, ANNOTATION_LIMIT)
    except OSError as error:
        raise ImageRefusedError(f"has annotations that cannot be read: {error.strerror or error}") from error


# YOLO


def _yolo(root: Path, ignored: Ignored) -> tuple[list[_Boxed], tuple[str, ...]]:
    folders = _yolo_folders(root, ignored)
    if not folders:
        raise UserError(f"{root} has no boxes: expected {EXPECTED}")
    places = [root / place for _, labels in folders.values() for place in (labels.rpartition("/")[0], labels)]
    classes = _yolo_classes(root, [root, *places])
    found = []
    for split, (images, labels) in folders.items():
        files = {stem_of(each[0]): each for each in list_files(root / labels, ignored) if each[0].endswith(".txt")}
        seen = set[str]()
        for each in list_files(root / images, ignored):
            if not may_be_image(each[0]):
                continue
            image, stem = _below(images, each), stem_of(each[0])
            if stem in seen:
                raise UserError(f"{root / images} has two images called {printable(stem)}: both have the same labels")
            seen.add(stem)
            if stem not in files:
                ignored.note("images without a file of labels have no objects")
                found.append(_Boxed(split, image[0], _reader([]), (image,)))
                continue
            file = _below(labels, files[stem])
            found.append(_Boxed(split, image[0], _yolo_reader(root / file[0]), (image, file)))
        for stem in sorted(files.keys() - seen - {Path(CLASSES_FILE).stem}):
            ignored.add("labels without an image", f"{labels}/{files[stem][0]}")
    if found and all(len(each.files) == 1 for each in found):
        raise UserError(f"{root}: no image has a file of labels of the same name: expected {EXPECTED}")
    return found, classes


def _yolo_classes(root: Path, places: Sequence[Path]) -> tuple[str, ...]:
    """The names in ``classes.txt`` in one of ``places``, else those under ``names`` in a YAML file of ``root``.

    Raises ``UserError``.
    """
    files = [root / name for name in YAML_FILES if (root / name).is_file()]
    if any((place / CLASSES_FILE).is_file() for place in places) or not files:
        return read_classes(root, places)
    yaml = require("yaml", "detection", f"reading {files[0].name}")
    try:
        content = yaml.safe_load(read_text(files[0], ANNOTATION_LIMIT))
    except OSError as error:
        raise unreadable(files[0], error) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{files[0]} is damaged: write {CLASSES_FILE} with a class name in each line") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(map(repr, names)) == sorted(map(repr, range(len(names)))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise UserError(f"{files[0]} has no list of class names under names: write {CLASSES_FILE}")
    return check_names(files[0], [printable(str(name).strip()) for name in names])


def _yolo_folders(root: Path, ignored: Ignored) -> dict[str | None, tuple[str, str]]:
    """Split → (the folder of its images, that of its labels): ``train/images`` or ``images/train``."""
    if (root / IMAGES).is_dir() and (root / LABELS).is_dir():
        below: dict[str | None, tuple[str, str]] = {
            split: (f"{IMAGES}/{name}", f"{LABELS}/{name}")
            for name in subfolders(root / IMAGES, ignored)
            if (split := split_of(name)) not in (None, UNLABELLED) and (root / LABELS / name).is_dir()
        }
        return below or {None: (IMAGES, LABELS)}
    return {
        split: ("/".join((*folder, IMAGES)), "/".join((*folder, LABELS)))
        for split, folder in splits(root, IMAGES, ignored).items()
        if root.joinpath(*folder, LABELS).is_dir()
    }


def _yolo_reader(path: Path) -> BoxReader:
    def read(width: int, height: int) -> Rows:
        rows: Rows = []
        data = _small(path)
        try:
            for line in data.decode("utf-8").splitlines():
                if not line.strip():
                    continue
                number, x, y, w, h, *more = (float(word) for word in line.split())
                if more:
                    raise ValueError("outlines are not read")
                if not all(map(math.isfinite, (number, x, y, w, h))):
                    raise ValueError("not finite")
                left, top = (x - w / 2) * width, (y - h / 2) * height
                rows.append((number, left, top, left + w * width, top + h * height, 0.0))
        except ValueError as error:  # UnicodeDecodeError is one
            raise ImageRefusedError(
                f'has damaged labels in {path.name}: expected lines "class x y width height", shares of the image'
            ) from error
        return rows

    return read


def _below(folder: str, file: File) -> File:
    """A file whose path is relative to ``folder``, relative to the folder above it."""
    return (f"{folder}/{file[0]}" if folder else file[0]), file[1], file[2]
