"""ILSVRC-2012 in its unpacked form: ``train/<wnid>/``, and ``val/`` with class folders or as one folder of files.

Classes are the sorted WordNet ids, the order of Caffe, torch and torchvision; the development kit's numbers 1 to 1000
have another order and are translated with its ``meta.mat``. ILSVRC's ``val`` is the test set here, because the labels
of the real test set were never published. The labels of a ``val`` without class folders come from Kaggle's
``LOC_val_solution.csv`` or from the development kit, unpacked or not.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.sources.class_folders import ClassFolder
from alexnet.data.sources.folders import File, folder_source, list_files, read_names, subfolders
from alexnet.data.sources.records import Ignored, Log, Source, unreadable

KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"
KAGGLE_LABELS = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
_META = "meta.mat"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

_LAYOUT = (
    "expected: train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or val/ILSVRC2012_val_00000001.JPEG and so on",
    f"a val/ without class folders needs its labels beside it: {DEVKIT}/, {DEVKIT}.tar.gz or {KAGGLE_LABELS}",
)


def is_ilsvrc(path: Path) -> bool:
    """Whether a folder is ILSVRC-2012: it has Kaggle's tree, the development kit, or ILSVRC's files in ``val``."""
    images = _images(path)
    if images is None:
        return False
    beside = any((path / name).exists() for name in (DEVKIT, f"{DEVKIT}.tar.gz", KAGGLE_LABELS))
    return images != path or beside or any((images / "val").glob("ILSVRC2012_val_*"))


def open_imagenet(path: Path | None, roots: Sequence[Path], log: Log = lambda line: None) -> Source:
    """The source at ``path``, else in ``imagenet`` below one of the roots or in the root itself. Never downloaded."""
    candidates = [path] if path else [folder for root in roots for folder in (root / "imagenet", root)]
    found = next((folder for folder in candidates if _images(folder)), None)
    if found is None:
        looked = [f"looked in {folder}" for folder in candidates]
        where = f"{path} does not hold imagenet" if path else "imagenet was not found: give imagenet:PATH"
        raise UserError(f"{where}, a folder with train/ and val/", [*looked, *_LAYOUT])
    found = found.resolve()
    images = _images(found) or found
    label_roots = list(dict.fromkeys([found, images]))
    if images.as_posix().endswith(KAGGLE_IMAGES):
        label_roots.append(images.parents[2])  # Kaggle's archive has its tables at the top
    ignored = Ignored()
    files = _train(images, ignored) | _test(images, label_roots, ignored)
    names = read_names(label_roots) or _devkit_names(label_roots)
    return folder_source(images, "imagenet", files, names, ignored)


def _images(path: Path) -> Path | None:
    """The folder with ``train/``: ``path`` itself or Kaggle's subfolder; None if there is none."""
    return next((folder for folder in (path, path / KAGGLE_IMAGES) if (folder / "train").is_dir()), None)


def _train(images: Path, ignored: Ignored) -> dict[ClassFolder, list[File]]:
    wnids = subfolders(images / "train", ignored)
    if not wnids:
        raise UserError(f"{images / 'train'} has no class folders: unpack the tar of each class into a folder", _LAYOUT)
    folders = [ClassFolder("train", wnid, ("train", wnid)) for wnid in wnids]
    return {folder: list_files(images / folder.path, ignored) for folder in folders}


def _test(images: Path, label_roots: list[Path], ignored: Ignored) -> dict[ClassFolder, list[File]]:
    if not (images / "val").is_dir():
        raise UserError(f"{images} has train/ but no val/, which is the test set of imagenet", _LAYOUT)
    wnids = subfolders(images / "val", ignored)
    if not wnids:
        return _test_without_folders(images, label_roots, ignored)
    folders = [ClassFolder("test", wnid, ("val", wnid)) for wnid in wnids]
    return {folder: list_files(images / folder.path, ignored) for folder in folders}


def _test_without_folders(images: Path, label_roots: list[Path], ignored: Ignored) -> dict[ClassFolder, list[File]]:
    listed = list_files(images / "val", ignored)
    labels = (_kaggle_labels(label_roots) or _devkit_labels(label_roots)) if listed else {}
    if listed and not labels:
        raise UserError(
            f"{images / 'val'} has no class folders and its labels are missing: "
            f"put {DEVKIT}/ or {KAGGLE_LABELS} into {label_roots[0]}",
            [f"looked in {root}" for root in label_roots],
        )
    files: dict[ClassFolder, list[File]] = {}
    for file in listed:
        wnid = labels.get(Path(file[0]).stem)
        if wnid is None:
            ignored.add("file without a label", f"val/{file[0]}")
        else:
            files.setdefault(ClassFolder("test", wnid, ("val",)), []).append(file)
    if not files:
        raise UserError(f"no images in {images / 'val'}: expected ILSVRC2012_val_00000001.JPEG and so on", _LAYOUT)
    return dict(sorted(files.items()))


def _kaggle_labels(roots: list[Path]) -> dict[str, str]:
    """Image name without suffix → wnid, from rows "ILSVRC2012_val_00048981,n03995372 85 1 499 272"."""
    path = next((root / KAGGLE_LABELS for root in roots if (root / KAGGLE_LABELS).is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, LookupError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is not Kaggle's table of ImageId and PredictionString: {error!r}") from error


def _devkit_labels(roots: list[Path]) -> dict[str, str]:
    """Image name without suffix → wnid, from the development kit: line n is image n's ILSVRC2012_ID."""
    lines = _devkit_file(roots, _GROUND_TRUTH)
    synsets = _synsets(roots)
    if lines is None or synsets is None:
        return {}
    try:
        wnid = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return {f"ILSVRC2012_val_{n:08d}": wnid[int(line)] for n, line in enumerate(lines.split(), start=1)}
    except (ValueError, LookupError) as error:
        raise UserError(f"the {DEVKIT} of {roots[0]} is not consistent: {error!r}; unpack it again") from error


def _devkit_names(roots: list[Path]) -> dict[str, str]:
    synsets = _synsets(roots)
    if synsets is None:
        return {}
    return {str(wnid): str(words) for wnid, words in zip(synsets["WNID"], synsets["words"], strict=True)}


def _synsets(roots: list[Path]) -> NDArray[np.void] | None:
    """The table ``synsets`` of ``meta.mat`` (a structured array with ILSVRC2012_ID, WNID, words, …), or None."""
    data = _devkit_file(roots, _META)
    if data is None:
        return None
    from scipy.io import loadmat

    try:
        return np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True)["synsets"])
    except Exception as error:  # loadmat can raise any exception for a damaged file
        raise UserError(f"the {_META} of {DEVKIT} cannot be read: {error!r}; unpack it again") from error


def _devkit_file(roots: list[Path], name: str) -> bytes | None:
    """A file of the development kit, from its folder or from its archive; None if there is no kit."""
    for root in roots:
        for folder in (root / DEVKIT / "data", root / "data"):
            if (folder / name).is_file():
                return _read_bytes(folder / name)
        archive = root / f"{DEVKIT}.tar.gz"
        if archive.is_file():
            return _from_archive(archive, f"{DEVKIT}/data/{name}")
    return None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def _from_archive(archive: Path, member: str) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            if file is not None:
                return file.read()
    except (tarfile.TarError, KeyError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{archive} is damaged or lacks {member}", str(error).splitlines()) from error
    raise UserError(f"{archive} lacks {member}")
