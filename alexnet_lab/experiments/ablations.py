"""The paper's ingredients taken away one at a time, at one fixed budget.

All trainings are ``BASE`` with one ingredient changed: same images, seeds, epochs and rate. So they say what it does on
small photographs within minutes, and nothing of what it does on 1.2 million large ones within a week; where nothing
shows at this scale, that is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BASE = "small-cifar10-2012"
SLOWER = f"{BASE}-slower"


@dataclass(frozen=True)
class Ablation:
    """``what``: what is taken away or put in its place; ``section``: of the paper; ``changes``: to the recipe ``BASE``;
    ``base``: the training that it is compared with.
    """

    what: str
    section: str
    changes: tuple[str, ...]
    base: str = BASE


ABLATIONS: Mapping[str, Ablation] = {
    "ablate-normalization": Ablation("no response normalization", "§3.3", ("model.norm_layer=absent",)),
    # Of 2e-3, 6e-4 and 2e-4 the best on held-out images after two epochs; at 2e-3 nothing is learned.
    SLOWER: Ablation("a tenth of the rate", "–", ("optim.lr=6e-4",)),
    "ablate-normalization-slower": Ablation(
        "no response normalization, both at a tenth of the rate",
        "§3.3",
        ("model.norm_layer=absent", "optim.lr=6e-4"),
        SLOWER,
    ),
    "ablate-overlap": Ablation("pools that do not overlap (2 instead of 3)", "§3.4", ("model.pool_kernel=2",)),
    "ablate-columns": Ablation("one column of all kernels, undivided", "§3.2", ("model.groups=1",)),
    "ablate-half": Ablation("one column, all layers half as wide", "§3.2", ("model.groups=1", "model.width=0.5")),
    "ablate-crops-and-flips": Ablation("neither shifts nor flips", "§4.1", ("augment.pad=0", "augment.flip=false")),
    "ablate-colour-noise": Ablation("no colour noise", "§4.1", ("augment.color_noise=none",)),
    "paper-colour-noise": Ablation("colour noise as its text has it", "§4.1", ("augment.color_noise=paper",)),
    "ablate-dropout": Ablation("no dropout", "§4.2", ("model.dropout=0",)),
    "with-batch-norm": Ablation("batch normalization instead", "–", ("model.norm_layer=batch",)),
    "at-24-pixels": Ablation("shrunk to 24 pixels", "–", ("data.image_size=24",)),
    "at-48-pixels": Ablation("enlarged to 48 pixels", "–", ("data.image_size=48",)),
}
