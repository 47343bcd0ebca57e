"""Ablations: the paper's ingredients removed one at a time, with a fixed budget (paper §3 and §4).

Every training is ``BASE`` with one ingredient changed: same images, seeds, epochs and learning rate. The results are
valid for small images and minutes of training. They do not show what an ingredient does on 1.2 million large images in
a week.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BASE = "small-cifar10-2012"
SLOWER = f"{BASE}-slower"


@dataclass(frozen=True)
class Ablation:
    """``what``: what is removed or replaced. ``section``: of the paper. ``changes``: to the recipe ``BASE``. ``base``:
    the training that it is compared with.
    """

    what: str
    section: str
    changes: tuple[str, ...]
    base: str = BASE


ABLATIONS: Mapping[str, Ablation] = {
    "ablate-normalization": Ablation("no LRN", "§3.3", ("model.norm_layer=none",)),
    # the best of 2e-3, 6e-4 and 2e-4 on held-out images after two epochs; at 2e-3 nothing is learned
    SLOWER: Ablation("a tenth of the learning rate", "–", ("optim.lr=6e-4",)),
    "ablate-normalization-slower": Ablation(
        "no LRN, both at a tenth of the learning rate",
        "§3.3",
        ("model.norm_layer=none", "optim.lr=6e-4"),
        SLOWER,
    ),
    "ablate-overlap": Ablation("pools without overlap (2 instead of 3)", "§3.4", ("model.pool_kernel=2",)),
    "ablate-columns": Ablation("one column with all kernels", "§3.2", ("model.groups=1",)),
    "ablate-half": Ablation("one column, every layer half as wide", "§3.2", ("model.groups=1", "model.width=0.5")),
    "ablate-crops-and-flips": Ablation("no shifts and no flips", "§4.1", ("augment.pad=0", "augment.flip=false")),
    "ablate-colour-noise": Ablation("no colour noise", "§4.1", ("augment.color_noise=none",)),
    "paper-colour-noise": Ablation("colour noise by the paper's formula", "§4.1", ("augment.color_noise=paper",)),
    "ablate-dropout": Ablation("no dropout", "§4.2", ("model.dropout=0",)),
    "with-batch-norm": Ablation("batch normalization instead of LRN", "–", ("model.norm_layer=batch",)),
    "at-24-pixels": Ablation("images of 24 pixels", "–", ("data.image_size=24",)),
    "at-48-pixels": Ablation("images of 48 pixels", "–", ("data.image_size=48",)),
}
