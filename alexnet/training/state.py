"""The state of a training: everything that its next step depends on. It is saved to and restored from checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from alexnet.config import Recipe, first_difference
from alexnet.core.errors import UserError
from alexnet.core.schema import from_json, spec, to_json
from alexnet.models.classifier import Classifier
from alexnet.runtime.checkpoint import Checkpoint, save_checkpoint
from alexnet.training.optimizer import optimizer_tensors, restore_optimizer


class AverageMeter:
    """Running sums of the loss, of correct predictions and of images.

    The sums are on the device, in float64, so that no step waits for a transfer.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, right: Tensor, images: int, finite: Tensor) -> None:
        """Add a batch if ``finite``: its mean ``loss`` and its correct predictions ``right``, all 0-d tensors."""
        counts = torch.stack((loss.double() * images, right.double(), torch.full_like(right, images).double()))
        self.sums += torch.where(finite, counts, 0.0)

    def take(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy, 0 … 1, since the last call, and reset the sums."""
        loss, right, images = self.sums.tolist()
        self.sums.zero_()
        return loss / images, right / images


@dataclass(frozen=True)
class Identity:
    """The training that a state belongs to.

    ``data``: the digest of the prepared dataset. ``init``: that of the weights that it starts from, "" for new ones.
    """

    recipe: Recipe
    seed: int
    data: str
    init: str = ""

    def first_difference(self, state: Mapping[str, Any]) -> str | None:
        """The first field in which the training that wrote ``state`` differs from this one; None if it is the same."""
        if differs := first_difference(from_json(Recipe, state["recipe"]), self.recipe):
            return differs
        before = {"init": "", **state}  # earlier versions had no such trainings
        return next((name for name in ("seed", "data", "init") if before[name] != getattr(self, name)), None)


@spec()
class Numbers:
    """The fields of a checkpoint's ``state.json`` other than the identity; see :class:`State`."""

    errors: tuple[float, ...]
    best_error: float | None
    interval: tuple[float, float, float]
    epoch: tuple[float, float, float]
    seconds: float
    metrics_bytes: int

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for values that no training writes."""
        wrong = [
            name for name in ("interval", "epoch") if len(getattr(self, name)) != 3 or min(getattr(self, name)) < 0
        ]
        wrong += [name for name in ("seconds", "metrics_bytes") if getattr(self, name) < 0]
        if wrong:
            raise ValueError(wrong[0])


@dataclass
class State:
    """A training after ``step`` steps.

    ``errors``: the validation error after each epoch, 0 … 1. ``best``: the weights with the lowest error,
    ``best_error``, if the recipe keeps them. ``interval`` and ``epoch``: running sums for the next lines of metrics.
    ``seconds``: training time, including that before interruptions. ``first_bad``: the first step since the start or
    resume whose loss or gradients were not finite, a 0-d tensor on the device; 0 if there is none.
    """

    identity: Identity
    network: Classifier
    optimizer: torch.optim.Optimizer
    interval: AverageMeter
    epoch: AverageMeter
    step: int = 0
    errors: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_error: float = math.inf
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.first_bad = torch.zeros((), dtype=torch.int64, device=self.interval.sums.device)

    def note(self, finite: Tensor) -> None:
        """Store this step in ``first_bad`` if it is the first that was not ``finite`` (such a step changes nothing)."""
        first = (self.first_bad == 0) & ~finite
        self.first_bad += torch.where(first, self.step, 0)

    def update_best(self, error: float, keep_best: bool) -> None:
        """Add a validation error, and keep the weights if it is the lowest so far and ``keep_best``.

        Of equal errors the latest counts as the best. In small validation sets errors are often equal by chance, and
        later weights were trained longer and with a lower learning rate.
        """
        self.errors.append(error)
        if keep_best:
            self.keep_best(error)

    def keep_best(self, error: float) -> None:
        """Keep the weights if their validation error is the lowest so far."""
        if error <= self.best_error:
            self.best_error = error
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def is_finite(self) -> bool:
        """Whether all weights and running averages are finite."""
        return all(bool(value.isfinite().all()) for value in self.network.state_dict().values())

    def save(self, root: Path, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint; ``facts``: further values for its ``state.json``. Raises ``OSError``."""
        tensors, numbers = self._contents()
        save_checkpoint(root, self.step, tensors, {**facts, **numbers})

    def to_bytes(self) -> bytes:
        """The whole state, for the other processes of a group; :meth:`from_bytes` reads it."""
        tensors, numbers = self._contents()
        header = json.dumps({"step": self.step, "state": {**numbers, "metrics_bytes": 0}}).encode()
        flat = {
            f"{group} {name}": value.detach().cpu().contiguous()
            for group, named in tensors.items()
            for name, value in named.items()
        }
        return len(header).to_bytes(8, "little") + header + safetensors.torch.save(flat)

    def from_bytes(self, data: bytes) -> None:
        """Take the state of another process, see :meth:`to_bytes`."""
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        tensors: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, value in safetensors.torch.load(data[8 + size :]).items():
            group, _, key = name.partition(" ")
            tensors.setdefault(group, {})[key] = value
        self._take(Checkpoint(header["step"], tensors, header["state"]))

    def _contents(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        tensors = {
            "model": self.network.state_dict(),
            "optimizer": optimizer_tensors(self.network, self.optimizer),
            **({"best": self.best} if self.best else {}),
        }
        numbers = {
            **to_json(self.identity),
            "errors": self.errors,
            "best_error": self.best_error if self.best else None,
            "interval": self.interval.sums.tolist(),
            "epoch": self.epoch.sums.tolist(),
            "seconds": self.seconds,
        }
        return tensors, numbers

    def restore(self, found: Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises ``UserError`` if the checkpoint is from another training."""
        try:
            differs = self.identity.first_difference(found.state)
            if not differs:
                self._take(found)
                return
        except UserError as error:
            differs = error.line
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            differs = str(error)
        raise UserError(
            f"the checkpoint of step {found.step} is from another training: choose another folder with --out",
            [f"it differs in {differs}"],
        )

    def _take(self, found: Checkpoint) -> None:
        numbers = from_json(Numbers, {item.name: found.state[item.name] for item in fields(Numbers)})
        best = found.tensors.get("best", {})
        if bool(best) != (numbers.best_error is not None) or not _alike(best, self.network.state_dict()):
            raise ValueError("the best weights")
        self.network.load_state_dict(found.tensors["model"])
        restore_optimizer(self.network, self.optimizer, found.tensors["optimizer"])
        device = self.interval.sums.device
        self.best = {name: value.to(device, copy=True) for name, value in best.items()}  # a copy: not memory-mapped
        self.best_error = math.inf if numbers.best_error is None else numbers.best_error
        self.errors = list(numbers.errors)
        self.interval.sums.copy_(torch.tensor(numbers.interval, dtype=torch.float64))
        self.epoch.sums.copy_(torch.tensor(numbers.epoch, dtype=torch.float64))
        self.seconds = numbers.seconds
        self.step = found.step


def _alike(some: Mapping[str, Tensor], all_of_them: Mapping[str, Tensor]) -> bool:
    """Whether ``some`` is empty, or has the names, shapes and dtypes of ``all_of_them``."""
    shapes = [{name: (value.shape, value.dtype) for name, value in group.items()} for group in (some, all_of_them)]
    return not some or shapes[0] == shapes[1]
