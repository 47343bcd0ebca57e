"""Trained weights by name: where they are found, what they are, and how accurate they are.

A name is ``<variant>/<training set>``, such as ``torchvision/imagenet``. There are two kinds:

* **Published weights** of other people are one file each. A file is looked for by its own name, first in
  ``--weights-root``, then in ``weights`` in the folder of downloads (``$ALEXNET_HOME``), then where torch.hub keeps its
  files. It is used if its hash is the published one, whoever downloaded it. Otherwise it is downloaded
  (``download.py``). A file with another hash is refused by name, and never changed or removed.
* **Included weights** are model folders in this package, so they need no network. ``python -m alexnet_lab.trunks``
  writes them from a run.

Sources: torchvision's table of weights (``torchvision/models/alexnet.py``), and the readme files of Caffe's
``models/bvlc_alexnet`` and ``models/bvlc_reference_caffenet`` (BVLC/caffe).
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from alexnet.config import Preprocessing
from alexnet.core.errors import UserError, cannot_read, unknown
from alexnet.core.files import open_regular, read_json
from alexnet.core.names import printable
from alexnet.data.home import data_home
from alexnet.runtime.log import Reporter
from alexnet.weights.download import download
from alexnet.weights.preprocessing import CAFFE_IMAGENET, TORCHVISION_IMAGENET

NEAR = 0.01  # of the published size; the exact sizes of Caffe's files are published nowhere
CENTER_CROP = "one centre crop of each of the 50,000 validation images of ILSVRC-2012, measured by its authors"


@dataclass(frozen=True)
class PublishedWeights:
    """A published weights file.

    ``variant``: the network. ``file``: its name. ``bytes``: its size; for Caffe's files, whose exact size is published
    nowhere, about that. ``hash``: ``sha256:`` or ``sha1:`` and hexadecimal digits. ``top1``, ``top5``: accuracy in
    percent; ``measured``: how it was measured. ``preprocessing``: what the weights expect.
    """

    variant: str
    address: str
    bytes: int
    hash: str
    licence: str
    top1: float
    top5: float
    measured: str
    preprocessing: Preprocessing

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class IncludedWeights:
    """Weights that this project trained, in a model folder of this package with a ``card.json``.

    ``recipe``, ``seed``, ``commit``: the training, and the version of this project that ran it. ``licence``: also a
    note about the images that the weights derive from. ``top1``: accuracy in percent; ``measured``: how it was
    measured.
    """

    name: str
    variant: str
    recipe: str
    seed: int
    commit: str
    licence: str
    top1: float
    measured: str


WEIGHTS: dict[str, PublishedWeights] = {
    "torchvision/imagenet": PublishedWeights(
        variant="torchvision",
        address="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        bytes=244_408_911,
        hash="sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        licence="BSD-3-Clause (torchvision); trained on ImageNet, whose images are for research",
        top1=56.522,
        top5=79.066,
        measured=CENTER_CROP,
        preprocessing=TORCHVISION_IMAGENET,
    ),
    "bvlc-alexnet/imagenet": PublishedWeights(
        variant="bvlc-alexnet",
        address="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        bytes=243_900_000,
        hash="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        licence="unrestricted",
        top1=57.1,
        top5=80.2,
        measured=CENTER_CROP,
        preprocessing=CAFFE_IMAGENET,
    ),
    "caffenet/imagenet": PublishedWeights(
        variant="caffenet",
        address="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        bytes=243_900_000,
        hash="sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        licence="unrestricted (older copies of its readme: non-commercial)",
        top1=57.4,
        top5=80.4,
        measured=CENTER_CROP,
        preprocessing=CAFFE_IMAGENET,
    ),
}
"""Name → published weights. To add a file, add a row."""

INCLUDED = Path(__file__).parent / "included"
CARD = "card.json"
SHORT = {"trunk": "trunk/tiny-imagenet"}
"""Short name → name of included weights."""


@functools.cache
def included_weights() -> dict[str, IncludedWeights]:
    """Name → weights in this package. To add some: ``python -m alexnet_lab.trunks RUN``."""
    cards = (IncludedWeights(**read_json(path)) for path in sorted(INCLUDED.glob(f"*/{CARD}")))
    return {card.name: card for card in cards}


def list_weights() -> dict[str, PublishedWeights | IncludedWeights]:
    """Name → all weights that have a name."""
    return {**included_weights(), **WEIGHTS}


def is_weights_name(name: str) -> bool:
    """Whether a MODEL is the name of published or included weights, or a short name."""
    return name in WEIGHTS or is_included(name)


def is_included(name: str) -> bool:
    """Whether a MODEL is the name of included weights, or a short name."""
    return full_name(name) in included_weights()


def full_name(name: str) -> str:
    """The name that a short name stands for; any other name as it is."""
    return SHORT.get(name, name)


def included_folder(name: str) -> Path:
    """The model folder of included weights."""
    return INCLUDED / full_name(name).replace("/", "-")


def get_published(name: str) -> PublishedWeights:
    """The published weights of this name. Raises ``UserError`` that suggests the nearest."""
    if name not in WEIGHTS:
        raise unknown("name of weights", name, list_weights())
    return WEIGHTS[name]


def folders(weights_root: Path | None = None) -> list[Path]:
    """The folders in which files are looked for, in order: ``weights_root``, our own, torch.hub's.

    Raises ``UserError`` if ``weights_root`` is no folder.
    """
    if weights_root is not None and not weights_root.is_dir():
        raise UserError(f"--weights-root {weights_root}: there is no such folder")
    return [*([weights_root] if weights_root else []), own_folder(), torch_hub_folder()]


def own_folder() -> Path:
    """The folder of downloaded weights; it may not exist yet."""
    return data_home() / "weights"


def torch_hub_folder() -> Path:
    """The folder in which torch.hub keeps files: ``$TORCH_HOME``, else below ``$XDG_CACHE_HOME`` or ``~/.cache``.

    As in ``torch/hub.py`` (``_get_torch_home``), so that a file which torchvision has downloaded is used.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"  # noqa: PTH111 – never raises


def find(name: str, weights_root: Path | None = None) -> Path | None:
    """The file of published weights in one of the :func:`folders`, or the folder of included weights; None if absent.

    The hash of a file is not checked.
    """
    if is_included(name):
        return included_folder(name)
    file = get_published(name).file
    places = (folder / file for folder in folders(weights_root))
    return next((place for place in places if os.path.isfile(place)), None)  # noqa: PTH113 – never raises


def fetch(name: str, weights_root: Path | None, reporter: Reporter) -> Path:
    """The file of published weights with the published hash, downloaded if it is in none of the :func:`folders`.

    For included weights their folder. Raises ``UserError``: if a file of that name has another hash, and if the file is
    absent and cannot be downloaded.
    """
    if is_included(name):
        return included_folder(name)
    weights = get_published(name)
    if path := find(name, weights_root):
        _check(name, weights, path)
        return path
    looked = [f"looked in {folder}" for folder in folders(weights_root)]
    path = own_folder() / weights.file
    reporter.log(f"{name} is not on this computer: downloading {weights.file} to {path.parent}")
    if problem := download(weights.address, path, weights.bytes, weights.hash, reporter):
        raise UserError(
            f"{weights.file} ({name}) was not found and not downloaded: put it into {path.parent}, or give its folder "
            "with --weights-root",
            [
                *looked, f"download failed: {problem}", f"address: {weights.address}",
                f"{weights.hash.replace(':', ': ')}",
            ],
        )  # fmt: skip
    return path


def _check(name: str, weights: PublishedWeights, path: Path) -> None:
    try:
        found = hash_file(path, weights.hash.partition(":")[0])
    except OSError as error:
        raise cannot_read(path, error) from error
    if found != weights.hash:
        raise UserError(
            f"{printable(str(path))} is not the published {name}: its {found.replace(':', ' is ')}; move it away, and "
            "it is downloaded again",
            [f"expected {weights.hash.replace(':', ' ')}", "give the path of the file to use it as it is"],
        )


def hash_file(path: Path, algorithm: str) -> str:
    """``algorithm:`` and the hexadecimal hash of a file's bytes. Raises ``OSError``."""
    with open_regular(path) as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def published_file(path: Path) -> str | None:
    """The name of the published weights whose file this is, by its hash; None if it is none of them.

    A file is only hashed if its size is near a published one. Raises ``UserError`` if it cannot be read.
    """
    try:
        size = path.stat().st_size
        near = {name: row for name, row in WEIGHTS.items() if abs(size - row.bytes) <= NEAR * row.bytes}
        hashes = {hash_file(path, algorithm) for algorithm in sorted({row.hash.split(":")[0] for row in near.values()})}
    except OSError as error:
        raise cannot_read(path, error) from error
    return next((name for name, row in near.items() if row.hash in hashes), None)
