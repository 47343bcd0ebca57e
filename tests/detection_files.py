"""Small made folders for detection: coloured shapes on noise, in the formats of COCO, PASCAL VOC and YOLO."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("square", "bar")
COUNTS = (("train", 12), ("val", 4), ("test", 6))


def scene(random, width=48, height=48):
    """An image with up to two shapes, a red square or a green bar, and its boxes (class, left, top, right, bottom)."""
    pixels = random.integers(60, 120, (height, width, 3), dtype=np.uint8)
    boxes = []
    for column in range(int(random.integers(0, 3))):
        kind = int(random.integers(0, 2))
        tall, wide = (16, 16) if kind == 0 else (8, 20)
        left = int(random.integers(0, width // 2 - wide + 1)) + column * width // 2
        top = int(random.integers(0, height - tall + 1))
        pixels[top : top + tall, left : left + wide] = (220, 40, 40) if kind == 0 else (40, 220, 40)
        boxes.append((kind, left, top, left + wide, top + tall))
    return pixels, boxes


def scenes(counts=COUNTS, seed=0, **size):
    """(split, name, pixels, boxes) of each image."""
    random = np.random.default_rng(seed)
    return [(split, f"{number:03d}", *scene(random, **size)) for split, count in counts for number in range(count)]


def write_coco(folder: Path, counts=COUNTS, seed=0, **size) -> Path:
    """A folder with images/ and annotations.json below each split. The ids of the categories are 7 and 3."""
    contents = {}
    for split, name, pixels, boxes in scenes(counts, seed, **size):
        (folder / split / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / split / "images" / f"{name}.png")
        content = contents.setdefault(
            split,
            {"images": [], "annotations": [], "categories": [{"id": 7, "name": "bar"}, {"id": 3, "name": "square"}]},
        )
        content["images"].append({"id": int(name), "file_name": f"{name}.png"})
        for kind, left, top, right, bottom in boxes:
            content["annotations"].append({
                "id": len(content["annotations"]), "image_id": int(name), "category_id": (3, 7)[kind],
                "bbox": [left, top, right - left, bottom - top],
            })  # fmt: skip
    for split, content in contents.items():
        (folder / split / "annotations.json").write_text(json.dumps(content))
    return folder


def write_voc(folder: Path, counts=COUNTS, seed=0, **size) -> Path:
    """The layout of PASCAL VOC, with classes.txt; VOC counts pixels from 1."""
    lists = {}
    for split, name, pixels, boxes in scenes(counts, seed, **size):
        stem = f"{split}_{name}"
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{stem}.png")
        objects = "".join(
            f"<object><name>{CLASSES[kind]}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
            f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind, left, top, right, bottom in boxes
        )
        height, width = pixels.shape[:2]
        (folder / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
        )
        lists.setdefault(split, []).append(stem)
    for split, names in lists.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{each}\n" for each in names))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder


def write_yolo(folder: Path, counts=COUNTS, seed=0, **size) -> Path:
    """images/SPLIT and labels/SPLIT with classes.txt; an image without objects has no file of labels."""
    for split, name, pixels, boxes in scenes(counts, seed, **size):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / split / f"{name}.png")
        height, width = pixels.shape[:2]
        lines = [
            f"{kind} {(left + right) / 2 / width} {(top + bottom) / 2 / height} {(right - left) / width} "
            f"{(bottom - top) / height}\n"
            for kind, left, top, right, bottom in boxes
        ]
        if lines:
            (folder / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder
