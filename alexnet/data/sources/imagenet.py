"""ILSVRC-2012 as it is unpacked: ``train/<wnid>/``, and ``val/`` in class folders or flat beside its truth.

Classes are the sorted WordNet ids, the order that Caffe, torch and torchvision use; the development kit's numbers 1 to
1000 are in another order and are translated through its ``meta.mat``. ILSVRC's ``val`` is the test set here: the real
test labels were never published. Truth for a flat ``val`` comes from Kaggle's ``LOC_val_solution.csv`` or from the
development kit, unpacked or not.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.core.errors import UserError
from alexnet.data.sources.folders import File, Place, folder_source, list_files, read_names, subfolders
from alexnet.data.sources.records import Ignored, Source, unreadable

KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"
KAGGLE_TRUTH = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
_META = "meta.mat"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

_LAYOUT = (
    "expected: train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or val/ILSVRC2012_val_00000001.JPEG and so on",
    f"a flat val/ needs its truth beside it: {DEVKIT}/, {DEVKIT}.tar.gz or {KAGGLE_TRUTH}",
)


def is_ilsvrc(path: Path) -> bool:
    """Whether a folder shows that it is ILSVRC-2012: Kaggle's tree, the development kit, or a flat ``val``."""
    images = _images(path)
    if images is None:
        return False
    beside = any((path / name).exists() for name in (DEVKIT, f"{DEVKIT}.tar.gz", KAGGLE_TRUTH))
    return images != path or beside or any((images / "val").glob("ILSVRC2012_val_*"))


def open_imagenet(place: Path | None, roots: Iterable[Path]) -> Source:
    """The source at ``place``, else in ``imagenet`` below one of the roots or in the root itself."""
    candidates = [place] if place else [path for root in roots for path in (root / "imagenet", root)]
    given = next((path for path in candidates if _images(path)), None)
    if given is None:
        looked = [f"looked in {path}" for path in candidates]
        where = f"{place} does not hold imagenet" if place else "imagenet was not found: give imagenet:PATH"
        raise UserError(f"{where}, a folder with train/ and val/", [*looked, *_LAYOUT])
    given = given.resolve()
    images = _images(given) or given
    truth_roots = list(dict.fromkeys([given, images]))
    if images.as_posix().endswith(KAGGLE_IMAGES):
        truth_roots.append(images.parents[2])  # where Kaggle's archive has its tables
    ignored = Ignored()
    files = _train(images, ignored) | _test(images, truth_roots, ignored)
    names = read_names(truth_roots) or _devkit_names(truth_roots)
    return folder_source(images, "imagenet", files, names, ignored)


def _images(path: Path) -> Path | None:
    return next((folder for folder in (path, path / KAGGLE_IMAGES) if (folder / "train").is_dir()), None)


def _train(images: Path, ignored: Ignored) -> dict[Place, list[File]]:
    wnids = subfolders(images / "train", ignored)
    if not wnids:
        raise UserError(f"{images / 'train'} has no class folders: unpack the tar of each class into a folder", _LAYOUT)
    places = [Place("train", wnid, ("train", wnid)) for wnid in wnids]
    return {place: list_files(images / place.path, ignored) for place in places}


def _test(images: Path, truth_roots: list[Path], ignored: Ignored) -> dict[Place, list[File]]:
    if not (images / "val").is_dir():
        raise UserError(f"{images} has train/ but no val/, which is the test set of imagenet", _LAYOUT)
    wnids = subfolders(images / "val", ignored)
    if not wnids:
        return _flat_test(images, truth_roots, ignored)
    places = [Place("test", wnid, ("val", wnid)) for wnid in wnids]
    return {place: list_files(images / place.path, ignored) for place in places}


def _flat_test(images: Path, truth_roots: list[Path], ignored: Ignored) -> dict[Place, list[File]]:
    found = list_files(images / "val", ignored)
    truth = (_kaggle_truth(truth_roots) or _devkit_truth(truth_roots)) if found else {}
    if found and not truth:
        raise UserError(
            f"{images / 'val'} is flat and its truth is missing: put {DEVKIT}/ or {KAGGLE_TRUTH} into {truth_roots[0]}",
            [f"looked in {root}" for root in truth_roots],
        )
    places: dict[Place, list[File]] = {}
    for file in found:
        wnid = truth.get(Path(file[0]).stem)
        if wnid is None:
            ignored.add("file that the truth does not name", f"val/{file[0]}")
        else:
            places.setdefault(Place("test", wnid, ("val",)), []).append(file)
    if not places:
        raise UserError(f"no images in {images / 'val'}: expected ILSVRC2012_val_00000001.JPEG and so on", _LAYOUT)
    return dict(sorted(places.items()))


def _kaggle_truth(roots: list[Path]) -> dict[str, str]:
    """Image name without suffix → wnid, from rows "ILSVRC2012_val_00048981,n03995372 85 1 499 272"."""
    path = next((root / KAGGLE_TRUTH for root in roots if (root / KAGGLE_TRUTH).is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, LookupError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is not Kaggle's table of ImageId and PredictionString: {error!r}") from error


def _devkit_truth(roots: list[Path]) -> dict[str, str]:
    """Image name without suffix → wnid, from the development kit: line n is image n's ILSVRC2012_ID."""
    lines = _devkit_file(roots, _GROUND_TRUTH)
    synsets = _synsets(roots)
    if lines is None or synsets is None:
        return {}
    try:
        wnid = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return {f"ILSVRC2012_val_{n:08d}": wnid[int(line)] for n, line in enumerate(lines.split(), start=1)}
    except (ValueError, LookupError) as error:
        raise UserError(f"the {DEVKIT} beside {roots[0]} does not fit together: {error!r}") from error


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
    except Exception as error:  # loadmat raises whatever its parser meets in a damaged file
        raise UserError(f"the {_META} of {DEVKIT} cannot be read: {error!r}") from error


def _devkit_file(roots: list[Path], name: str) -> bytes | None:
    """A file of the development kit, from its folder or from its archive, or None if there is no kit."""
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
