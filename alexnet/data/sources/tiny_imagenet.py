"""Tiny ImageNet as it is unpacked: 64×64 photographs, 500 a class to train on and 50 a class in ``val``.

``train/<wnid>/images/`` and a flat ``val/images/`` beside ``val_annotations.txt``, as its makers publish it (Stanford's
CS231n, 200 classes), or both in class folders, all classes or some. As with ILSVRC-2012, ``val`` is the test set here:
the truth of its own ``test`` was never published.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.data.sources.folders import File, Place, folder_source, list_files, read_names, subfolders
from alexnet.data.sources.records import Ignored, Source, unreadable

UNPACKED = "tiny-imagenet-200"  # what the published archive unpacks to
ANNOTATIONS = "val_annotations.txt"
_LAYOUT = (
    "expected: train/<wnid>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt, as published",
    "or train/<wnid>/*.JPEG and val/<wnid>/*.JPEG",
)


def open_tiny_imagenet(place: Path | None, roots: Iterable[Path]) -> Source:
    """The source at ``place``, else in ``tiny-imagenet-200`` or ``tiny-imagenet`` below one of the roots."""
    candidates = [place] if place else [root / name for root in roots for name in (UNPACKED, "tiny-imagenet")]
    found = next((path for path in candidates if (path / "train").is_dir() and (path / "val").is_dir()), None)
    if found is None:
        looked = [f"looked in {path}" for path in candidates]
        where = (
            f"{place} does not hold tiny-imagenet" if place else "tiny-imagenet was not found: give tiny-imagenet:PATH"
        )
        raise UserError(f"{where}, a folder with train/ and val/", [*looked, *_LAYOUT])
    ignored = Ignored()
    files = _train(found, ignored) | _test(found, ignored)
    return folder_source(found, "tiny-imagenet", files, read_names([found]), ignored)


def _train(root: Path, ignored: Ignored) -> dict[Place, list[File]]:
    files = {}
    for wnid in subfolders(root / "train", ignored):
        inner = root / "train" / wnid / "images"  # beside it are the boxes, in a text file
        parts = ("train", wnid, "images") if inner.is_dir() else ("train", wnid)
        files[Place("train", wnid, parts)] = list_files(root.joinpath(*parts), ignored)
    if not files:
        raise UserError(f"{root / 'train'} has no class folders", _LAYOUT)
    return files


def _test(root: Path, ignored: Ignored) -> dict[Place, list[File]]:
    if not (root / "val" / ANNOTATIONS).is_file():
        places = [Place("test", wnid, ("val", wnid)) for wnid in subfolders(root / "val", ignored)]
        if not places or [place.label for place in places] == ["images"]:
            raise UserError(f"{root / 'val'} is flat and its truth is missing: put {ANNOTATIONS} there", _LAYOUT)
        return {place: list_files(root / place.path, ignored) for place in places}
    truth = _truth(root / "val" / ANNOTATIONS)
    files: dict[Place, list[File]] = {}
    for file in list_files(root / "val" / "images", ignored):
        if (wnid := truth.get(file[0])) is None:
            ignored.add("file that the truth does not name", f"val/images/{file[0]}")
        else:
            files.setdefault(Place("test", wnid, ("val", "images")), []).append(file)
    return dict(sorted(files.items()))


def _truth(path: Path) -> dict[str, str]:
    """File name → wnid, from lines "val_0.JPEG	n03444034	0	32	44	62"."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    truth = {}
    for number, line in enumerate(lines, 1):
        name, *rest = line.split("\t")
        if not rest:
            raise UserError(f"{path}, line {number}: expected a file, a tab and a class, not {line[:80]!r}")
        truth[name] = rest[0]
    return truth
