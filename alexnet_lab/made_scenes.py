"""``python -m alexnet_lab.made_scenes``: made images for segmentation and detection, with masks and boxes.

Shapes of five classes, cut out of real photographs, lie on other real photographs: 1 to 4 in each image, turned,
overlapping, with 10 to 40 % of its side. So neither colour nor texture gives a class away, only the outline. Everything
follows from a random seed and from the photographs, of which train and test have different ones. The images are made:
an accuracy on them says that a network has learned, and nothing about photographs of real objects.

``write`` makes a folder for ``alexnet train segmentation --data FOLDER`` and ``alexnet train detection``. ``baseline``
measures what thresholds on edges reach without any training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from alexnet.core.errors import UserError
from alexnet.core.files import publish_folder, read_json, write_bytes, write_json, write_text
from alexnet.core.randomness import derive_key
from alexnet.data.decode import ImageRefusedError, decode
from alexnet.data.masks import encode_mask
from alexnet.data.sources import list_images
from alexnet.metrics.detection import DetectionMetrics
from alexnet.metrics.segmentation import SegmentationMetrics
from alexnet_lab.commands import exit_status

SHAPES = ("disc", "square", "triangle", "star", "cross")
CLASSES = ("background", *SHAPES)
SIDE = 160
COUNTS = {"train": 1000, "test": 200}
TEST_SHARE = 5  # one photograph in so many belongs to test
LEAST, LARGEST = 0.10, 0.40  # side of a shape, as a share of the image's
MOST_SHAPES = 4
VISIBLE = 0.25  # of its area: a shape of which less is visible has no box
PARTS = 4  # of a shipped photograph along each side
EDGE = 60.0  # of the gradient's length, 0 … 1443: the baseline's threshold


@dataclass(frozen=True)
class Scene:
    """A made image: ``pixels`` ``(S, S, 3)`` and ``mask`` ``(S, S)`` uint8, and its objects.

    ``boxes``: class, left, top, right, bottom in pixels, of what is visible of each object.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: list[tuple[int, int, int, int, int]]


def outline(shape: str, size: float, turn: float) -> list[tuple[float, float]]:
    """The corners of a shape around (0, 0) of about ``size`` pixels, turned by ``turn`` radians."""
    steps = {"disc": 64, "square": 4, "triangle": 3, "star": 10}
    if shape == "cross":
        arm = 1 / 3
        corners = [
            (arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1),
            (-arm, -1), (-arm, -arm), (-1, -arm), (-1, arm), (-arm, arm), (-arm, 1),
        ]  # fmt: skip
    else:
        angles = 2 * np.pi * np.arange(steps[shape]) / steps[shape]
        radii = np.where(np.arange(steps[shape]) % 2, 0.4, 1.0) if shape == "star" else np.ones(steps[shape])
        corners = [(r * np.cos(a), r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]
    cosine, sine = np.cos(turn), np.sin(turn)
    return [(size / 2 * (cosine * x - sine * y), size / 2 * (sine * x + cosine * y)) for x, y in corners]


def make_scene(photographs: Sequence[Path], split: str, number: int, seed: int, side: int = SIDE) -> Scene:
    """Image ``number`` of a split; it depends on (seed, split, number) and on the photographs only."""
    random = np.random.default_rng(derive_key(seed, f"scene {split}", number))
    count = int(random.integers(1, MOST_SHAPES + 1))
    chosen = random.choice(len(photographs), count + 1, replace=False)
    pixels = _cut(photographs[chosen[0]], side, random)
    mask, owner = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    areas, kinds = [], []
    for place, photograph in enumerate(chosen[1:], 1):
        kind = int(random.integers(len(SHAPES)))
        size, turn = side * random.uniform(LEAST, LARGEST), random.uniform(0, 2 * np.pi)
        x, y = random.uniform(size / 2, side - size / 2, 2)
        stencil = Image.new("1", (side, side))
        ImageDraw.Draw(stencil).polygon([(x + dx, y + dy) for dx, dy in outline(SHAPES[kind], size, turn)], fill=1)
        inside = np.array(stencil)
        pixels = np.where(inside[..., None], _cut(photographs[photograph], side, random), pixels)
        mask[inside], owner[inside] = kind + 1, place
        areas.append(int(inside.sum()))
        kinds.append(kind + 1)
    boxes = []
    for place, (kind, area) in enumerate(zip(kinds, areas, strict=True), 1):
        rows, columns = np.nonzero(owner == place)
        if len(rows) >= VISIBLE * area:
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            boxes.append((kind, int(left), int(top), int(right), int(bottom)))
    return Scene(pixels.astype(np.uint8), mask, boxes)


def _cut(photograph: Path, side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """A square part of a photograph with 50 to 100 % of its short side, as ``(side, side, 3)``."""
    image = decode(photograph.read_bytes(), target=2 * side).convert("RGB")
    size = int(min(image.size) * random.uniform(0.5, 1.0))
    left, top = (int(random.integers(0, length - size + 1)) for length in image.size)
    return np.array(image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + size, top + size)))


def photographs_in(folder: Path) -> dict[str, list[Path]]:
    """Split → the photographs in a folder that can be decoded. Raises ``UserError`` if there are too few."""
    usable = []
    for path in list_images(folder):
        try:
            decode(path.read_bytes(), target=SIDE)
        except (ImageRefusedError, OSError):
            continue
        usable.append(path)
    found = {
        "test": usable[::TEST_SHARE],
        "train": [path for number, path in enumerate(usable) if number % TEST_SHARE],
    }
    if len(found["test"]) <= MOST_SHAPES:
        least = TEST_SHARE * MOST_SHAPES + 1
        raise UserError(f"{folder} has {len(usable)} photographs that can be read: give a folder with {least} or more")
    return found


def shipped_photographs(place: Path) -> dict[str, list[Path]]:
    """Split → parts of one of the two photographs that scikit-learn ships, written as files into ``place``."""
    from sklearn.datasets import load_sample_images

    found: dict[str, list[Path]] = {}
    for split, pixels in zip(COUNTS, load_sample_images().images, strict=True):
        image = Image.fromarray(pixels)
        width, height = (size // PARTS for size in image.size)
        for number in range(PARTS**2):
            left, top = number % PARTS * width, number // PARTS * height
            path = place / f"{split}-{number}.png"
            image.crop((left, top, left + width, top + height)).save(path)
            found.setdefault(split, []).append(path)
    return found


def write(folder: Path, out: Path, seed: int = 0, counts: dict[str, int] | None = None) -> None:
    """:func:`write_scenes` with the photographs in a folder. Raises ``UserError`` if there are too few."""
    write_scenes(photographs_in(folder), out, seed, counts or COUNTS)


def write_scenes(photographs: Mapping[str, Sequence[Path]], out: Path, seed: int, counts: Mapping[str, int]) -> None:
    """Write made images with masks, ``classes.txt`` and COCO's ``annotations.json`` for each split.

    ``photographs``: split → its photographs, more than ``MOST_SHAPES``; ``counts``: split → number of images.
    """
    with publish_folder(out) as place:
        write_text(place / "classes.txt", "".join(f"{name}\n" for name in CLASSES))
        for split, count in counts.items():
            coco: dict[str, list[dict[str, Any]]] = {
                "images": [], "annotations": [],
                "categories": [{"id": number, "name": name} for number, name in enumerate(SHAPES, 1)],
            }  # fmt: skip
            for part in ("images", "masks"):
                (place / split / part).mkdir(parents=True)
            for number in range(count):
                scene, name = make_scene(photographs[split], split, number, seed), f"{number:05d}.png"
                Image.fromarray(scene.pixels).save(place / split / "images" / name)
                write_bytes(place / split / "masks" / name, encode_mask(scene.mask))
                coco["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
                for kind, left, top, right, bottom in scene.boxes:
                    box = [left, top, right - left, bottom - top]
                    coco["annotations"].append({
                        "id": len(coco["annotations"]) + 1, "image_id": number, "category_id": kind, "bbox": box,
                        "area": box[2] * box[3], "iscrowd": 0,
                    })  # fmt: skip
            write_json(place / split / "annotations.json", coco)


def edge_mask(pixels: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    """The baseline's mask of an image ``(S, S, 3)``: what strong edges enclose has the class ``label``."""
    grey = pixels.astype(np.float64).mean(axis=2)
    length = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
    closed = ndimage.binary_closing(length > EDGE * 2, iterations=2)
    filled = ndimage.binary_opening(ndimage.binary_fill_holes(closed), iterations=2)
    return np.where(filled, label, 0).astype(np.uint8)


def baseline(folder: Path) -> SegmentationMetrics:
    """The metrics of :func:`edge_mask` on the test images, with the commonest class of the training masks."""
    import torch

    pixels = np.zeros(len(CLASSES), np.int64)
    for path in sorted((folder / "train" / "masks").glob("*.png")):
        pixels += np.bincount(np.array(Image.open(path)).ravel(), minlength=len(CLASSES))
    label = int(pixels[1:].argmax()) + 1
    metrics = SegmentationMetrics(len(CLASSES), "edges", "test", CLASSES)
    for path in sorted((folder / "test" / "images").glob("*.png")):
        found = edge_mask(np.array(Image.open(path)), label)
        true = np.array(Image.open(folder / "test" / "masks" / path.name))
        pairs = true.astype(np.int64).ravel() * len(CLASSES) + found.ravel()
        counts = np.bincount(pairs, minlength=len(CLASSES) ** 2).astype(np.float64)
        metrics.add(torch.from_numpy(np.concatenate([counts, [0.0, 1.0]]))[None])
    return metrics


def box_baseline(folder: Path) -> DetectionMetrics:
    """The average precision of the boxes around the parts of :func:`edge_mask` on the test images.

    They have the commonest class of the training boxes; larger ones have higher scores.
    """
    import torch

    train, test = (read_json(folder / split / "annotations.json") for split in COUNTS)
    kinds = [each["category_id"] - 1 for each in train["annotations"]]
    label = int(np.bincount(kinds, minlength=len(SHAPES)).argmax())
    metrics = DetectionMetrics(len(SHAPES), "edges", "test", SHAPES)
    for image in test["images"]:
        pixels = np.array(Image.open(folder / "test" / "images" / image["file_name"]))
        parts = ndimage.find_objects(ndimage.label(edge_mask(pixels, 1))[0])
        boxes = torch.tensor([(x.start, y.start, x.stop, y.stop) for y, x in parts], dtype=torch.float32).view(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        labels = torch.full((len(boxes),), label)
        found = {"boxes": boxes, "scores": areas / SIDE**2, "labels": labels}
        own = [each for each in test["annotations"] if each["image_id"] == image["id"]]
        rows = [(each["category_id"] - 1, *_corners(each["bbox"]), 0) for each in own]
        metrics.add([found], np.array(rows, np.float32).reshape(1, -1, 6), [0.0])
    return metrics


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = box
    return left, top, left + width, top + height


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_lab.made_scenes", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("write", help="make the images").add_argument
    add("photographs", type=Path, help="a folder of photographs")
    add("--out", type=Path, required=True, metavar="FOLDER")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    for split, count in COUNTS.items():
        add(f"--{split}", type=int, default=count, metavar="N", help=f"images to make (default: {count:,})")
    commands.add_parser("baseline", help="thresholds on edges").add_argument("folder", type=Path)
    given = parser.parse_args(words)

    def work() -> None:
        if given.command == "write":
            write(given.photographs, given.out, given.seed, {split: getattr(given, split) for split in COUNTS})
            return
        found = baseline(given.folder)
        print(f"thresholds on edges: mean IoU {found.mean_iou:.1%}, pixel accuracy {found.pixel_accuracy:.1%}")
        print(f"boxes around them: mAP50 {box_baseline(given.folder).map50:.1%}")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
