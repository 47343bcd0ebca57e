"""What a training needs on disk: its checkpoints, its model, and the prepared dataset if it does not exist yet."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from alexnet.config import Recipe
from alexnet.data.prepared import prepared_path, stored_shape
from alexnet.data.sources import Source
from alexnet.models.registry import build, get_architecture
from alexnet.runtime.checkpoint import KEPT
from alexnet.training.build import resize_of
from alexnet.training.optimizer import build_optimizer, optimizer_tensors

LARGE = 1e9  # bytes: a training that needs more states its sizes before it begins


@dataclass(frozen=True)
class DiskNeed:
    """Bytes. ``checkpoint``: one checkpoint; ``model``; ``images``: 0 if prepared already, None if unknown."""

    checkpoint: int
    model: int
    images: int | None

    @property
    def run(self) -> int:
        """The most that the run folder holds at a time: the kept checkpoints, the one being written, the model."""
        return (KEPT + 1) * self.checkpoint + self.model

    def lines(self, folder: Path, prepared: Path, *, keep_checkpoints: bool) -> list[str]:
        """What to tell the user: nothing below ``LARGE`` bytes, else one line for each place with its free space."""
        if self.run + (self.images or 0) <= LARGE:
            return []
        left = self.model + KEPT * self.checkpoint * keep_checkpoints
        lines = [
            f"disk: the run needs up to {self.run / 1e9:.1f} GB in {folder} until it has finished, then "
            f"{left / 1e9:.1f} GB; {_free(folder)}"
        ]
        if self.images:
            size = f"{self.images / 1e9:.1f} GB"
            lines.append(f"disk: the prepared dataset needs {size} in {prepared}; {_free(prepared)}")
        elif self.images is None:
            lines.append(f"disk: the prepared dataset goes to {prepared}; {_free(prepared)}")
        return lines


def disk_need(recipe: Recipe, source: Source) -> DiskNeed:
    """The bytes that a training of ``recipe`` on ``source`` needs. Raises ``UserError`` for settings that do not fit.

    Parameters, buffers and optimizer states have 4 bytes a value. A recipe that keeps the best weights has them in each
    checkpoint too.
    """
    side, channels = stored_shape(source, recipe.data.resize_size, recipe.data.channels)
    architecture = get_architecture(recipe.model.variant, **recipe.model.overrides())
    network = build(
        recipe.model.variant, architecture, len(source.classes), channels, recipe.data.image_size, device="meta",
        head=recipe.model.head,
    )  # fmt: skip
    states = optimizer_tensors(network, build_optimizer(network, recipe.optim, fused=False))
    weights = sum(value.nbytes for value in network.state_dict().values())
    copies = 2 if recipe.train.keep == "best-on-val" else 1
    return DiskNeed(
        checkpoint=copies * weights + sum(value.nbytes for value in states.values()),
        model=weights,
        images=_images(source, side, channels, recipe),
    )


def _images(source: Source, side: int, channels: int, recipe: Recipe) -> int | None:
    prepared = prepared_path(source, side, channels, resize=resize_of(recipe), view=recipe.data.view)
    if source.shards or prepared.exists():
        return 0
    return None if source.count is None else source.count * side * side * channels


def _free(path: Path) -> str:
    """The free space of the disk that holds ``path``, which may not exist yet."""
    place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return f"{shutil.disk_usage(place).free / 1e9:.1f} GB are free"
