"""Tiny ImageNet in its unpacked form: 64×64 photographs, 500 a class to train on and 50 a class in ``val``.

The published form (Stanford's CS231n, 200 classes) has ``train/<wnid>/images/``, and ``val/images/`` with its labels in
``val_annotations.txt``. Class folders in ``val`` work too, as do fewer classes. As with ILSVRC-2012, ``val`` is the
test set here: the labels of its own ``test`` were never published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet.core.errors import UserError
from alexnet.data.sources.class_folders import ClassFolder
from alexnet.data.sources.folders import File, folder_source, list_files, read_names, subfolders
from alexnet.data.sources.records import Ignored, Log, Source, unreadable

UNPACKED = "tiny-imagenet-200"  # the folder in the published archive
ANNOTATIONS = "val_annotations.txt"
_LAYOUT = (
    "expected: train/<wnid>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt, as published",
    "or train/<wnid>/*.JPEG and val/<wnid>/*.JPEG",
)


def open_tiny_imagenet(path: Path | None, roots: Sequence[Path], log: Log = lambda line: None) -> Source:
    """The source at ``path``, else in ``tiny-imagenet-200`` or ``tiny-imagenet`` below a root. Never downloaded."""
    candidates = [path] if path else [root / name for root in roots for name in (UNPACKED, "tiny-imagenet")]
    found = next((folder for folder in candidates if (folder / "train").is_dir() and (folder / "val").is_dir()), None)
    if found is None:
        looked = [f"looked in {folder}" for folder in candidates]
        where = (
            f"{path} does not hold tiny-imagenet" if path else "tiny-imagenet was not found: give tiny-imagenet:PATH"
        )
        raise UserError(f"{where}, a folder with train/ and val/", [*looked, *_LAYOUT])
    ignored = Ignored()
    files = _train(found, ignored) | _test(found, ignored)
    return folder_source(found, "tiny-imagenet", files, read_names([found]), ignored)


def _train(root: Path, ignored: Ignored) -> dict[ClassFolder, list[File]]:
    files = {}
    for wnid in subfolders(root / "train", ignored):
        inner = root / "train" / wnid / "images"  # the bounding boxes are in a text file beside it
        parts = ("train", wnid, "images") if inner.is_dir() else ("train", wnid)
        files[ClassFolder("train", wnid, parts)] = list_files(root.joinpath(*parts), ignored)
    if not files:
        raise UserError(f"{root / 'train'} has no class folders", _LAYOUT)
    return files


def _test(root: Path, ignored: Ignored) -> dict[ClassFolder, list[File]]:
    if not (root / "val" / ANNOTATIONS).is_file():
        folders = [ClassFolder("test", wnid, ("val", wnid)) for wnid in subfolders(root / "val", ignored)]
        if not folders or [folder.label for folder in folders] == ["images"]:
            raise UserError(
                f"{root / 'val'} has no class folders and its labels are missing: put {ANNOTATIONS} there", _LAYOUT
            )
        return {folder: list_files(root / folder.path, ignored) for folder in folders}
    labels = _labels(root / "val" / ANNOTATIONS)
    files: dict[ClassFolder, list[File]] = {}
    for file in list_files(root / "val" / "images", ignored):
        if (wnid := labels.get(file[0])) is None:
            ignored.add("file without a label", f"val/images/{file[0]}")
        else:
            files.setdefault(ClassFolder("test", wnid, ("val", "images")), []).append(file)
    return dict(sorted(files.items()))


def _labels(path: Path) -> dict[str, str]:
    """File name → wnid, from lines "val_0.JPEG	n03444034	0	32	44	62"."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    labels = {}
    for number, line in enumerate(lines, 1):
        name, *rest = line.split("\t")
        if not rest:
            raise UserError(f"{path}, line {number}: expected a file, a tab and a class, not {line[:80]!r}")
        labels[name] = rest[0]
    return labels
