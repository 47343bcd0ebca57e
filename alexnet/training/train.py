"""One step, one loop: a recipe and a store become a trained model.

Everything a step does is a function of (weights, optimizer state, step number, validation errors so far), so those are
all that a checkpoint holds, and a training that was interrupted ends where one that was not would have ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alexnet.config import Preprocessing, Recipe
from alexnet.core.errors import StoppedError, UserError
from alexnet.data.augment import augment, draw
from alexnet.data.loader import Batch, Loader, Order
from alexnet.data.splits import hold_out
from alexnet.data.store import Store
from alexnet.model.layers import Masks, draw_masks
from alexnet.model.network import Classifier
from alexnet.model.saved import SavedModel
from alexnet.model.variants import create_model
from alexnet.runtime.checkpoint import load_newest, save_checkpoint
from alexnet.runtime.device import Machine
from alexnet.runtime.interrupts import Interrupts
from alexnet.runtime.log import Reporter, RunLog
from alexnet.runtime.run import Run
from alexnet.training.evaluate import Counts, log_probabilities
from alexnet.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer, set_rate
from alexnet.training.schedule import learning_rate

CHECKPOINT_SECONDS = 300.0
LINES_PER_EPOCH = 10
STALL_STEPS = 100  # a loss that sits at ln(classes) for so many steps is worth a warning
STALL_MARGIN = 0.02


def train_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    masks: Masks,
    rate: float,
    label_smoothing: float,
    machine: Machine,
) -> tuple[Tensor, Tensor]:
    """One update of the weights. ``images`` ``(N, C, S, S)``, ``labels`` ``(N,)``.

    Returns the batch's mean loss and its number of right answers, both 0-d on the device, from before the update.
    """
    set_rate(optimizer, rate)
    with machine.autocast():
        logits = model(images, masks)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


class Tally:
    """Running sums of loss, right answers and images, kept on the device in float64 so that no step waits for them."""

    def __init__(self, device: torch.device, sums: list[float] | None = None) -> None:
        self.sums = torch.tensor(sums or [0.0, 0.0, 0.0], dtype=torch.float64, device=device)

    def add(self, loss: Tensor, right: Tensor, images: int) -> None:
        """Count a batch by its mean loss and its right answers."""
        self.sums += torch.stack((loss.double() * images, right.double(), torch.full_like(right, images).double()))

    def take(self) -> tuple[float, float]:
        """Mean loss and accuracy since the last time; starts again."""
        loss, right, images = self.sums.tolist()
        self.sums.zero_()
        return loss / images, right / images


@dataclass
class Progress:
    """Where a training stands: what a checkpoint holds beside the tensors."""

    step: int = 0
    errors: list[float] = field(default_factory=list)  # validation error after each epoch
    best_error: float = math.inf
    seconds: float = 0.0  # spent training, over all its sittings


class Training:
    """A recipe, a store and a run folder on a machine; :meth:`fit` goes to the end from wherever the run stands."""

    def __init__(self, recipe: Recipe, store: Store, run: Run, seed: int, machine: Machine, reporter: Reporter) -> None:
        self.recipe, self.store, self.run, self.seed = recipe, store, run, seed
        self.machine, self.reporter = machine, reporter
        self.train_index, self.val_index = split_indices(recipe, store)
        network = build_network(recipe, store, seed)
        self.saved = SavedModel(
            network=machine.place(network),
            variant=recipe.model.variant,
            classes=tuple(store.classes),
            readable_classes=tuple(store.readable_classes),
            preprocessing=build_preprocessing(recipe, store, network.image_size),
            mean_image=torch.from_numpy(store.mean_image) if recipe.data.scaling.startswith("mean-image") else None,
        )
        self.mean_image = None if self.saved.mean_image is None else self.saved.mean_image.to(machine.device)
        self.optimizer = build_optimizer(self.network, recipe.optim)
        self.order = Order(self.train_index, recipe.train.batch_size, seed)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.interval, self.epoch = Tally(machine.device), Tally(machine.device)
        self._began = 0.0
        self._stall_warned = False

    @property
    def network(self) -> Classifier:
        """The network in training."""
        return self.saved.network

    @property
    def total_steps(self) -> int:
        """Steps from the first to the last."""
        return self.order.steps_per_epoch * self.recipe.train.epochs

    def fit(self, on_evaluation: Callable[[Run], None]) -> SavedModel:
        """Train to the end and return the model that the recipe keeps. ``on_evaluation`` runs after each epoch.

        Raises ``StoppedError`` after a checkpoint if a signal asked for it, and ``UserError`` if the loss
        is no longer finite.
        """
        with RunLog(self.run.folder) as log, Interrupts() as interrupts:
            self.restore(log)
            self.reporter.begin(f"training {self.recipe.name}", self.total_steps, self.progress.step)
            saved_at = time.monotonic()
            clock, self._began = Clock(), saved_at - self.progress.seconds
            with self.loader() as batches:
                for batch in batches:
                    self.step(batch)
                    clock.count(len(batch.index))
                    if self.progress.step % self.line_every == 0 or self.epoch_ended:
                        self.write_line(log, clock)
                    if self.epoch_ended:
                        self.end_epoch(log)
                        on_evaluation(self.run)
                        clock.restart()
                    late = time.monotonic() - saved_at > CHECKPOINT_SECONDS
                    if self.epoch_ended or late or interrupts.status:
                        self.checkpoint(log)
                        saved_at = time.monotonic()
                    if interrupts.status:
                        line = f"stopped after step {self.progress.step}; the same command continues there"
                        raise StoppedError(line, interrupts.status)
            self.reporter.finish()
        if self.recipe.train.keep == "best-on-val":
            self.network.load_state_dict(self.best)
        return self.saved

    def loader(self) -> Loader:
        """The batches still to come."""
        images, labels = self.store.images, self.store.labels
        return Loader(images, labels, self.order, self.machine.device, self.progress.step, self.total_steps)

    def step(self, batch: Batch) -> None:
        """Augment, draw, update, count."""
        recipe, store = self.recipe, self.store
        colours = store.colours if recipe.augment.color_noise != "none" else None
        draws = draw(recipe.augment, store.side, self.seed, batch.epoch, batch.index, batch.position, colours)
        images = augment(batch.pixels, draws, recipe.augment, self.saved.preprocessing, self.mean_image)
        masks = draw_masks(self.network.dropout_sites, len(images), self.seed, batch.step, self.machine.device)
        self.network.train()
        loss, right = train_step(
            self.network, self.optimizer, images, batch.labels, masks, self.rate(), recipe.train.label_smoothing,
            self.machine,
        )  # fmt: skip
        for tally in (self.interval, self.epoch):
            tally.add(loss, right, len(images))
        self.progress.step += 1

    def rate(self) -> float:
        """The learning rate of the coming step."""
        return learning_rate(
            self.recipe.optim, self.progress.step, self.total_steps, self.order.steps_per_epoch, self.progress.errors
        )

    @property
    def line_every(self) -> int:
        """Steps between two lines of metrics."""
        return max(1, self.order.steps_per_epoch // LINES_PER_EPOCH)

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step was an epoch's last."""
        return self.progress.step > 0 and self.progress.step % self.order.steps_per_epoch == 0

    def write_line(self, log: RunLog, clock: Clock) -> None:
        """One line of metrics, one of speed, and word to whoever watches."""
        step, rate = self.progress.step, self.rate()
        loss, accuracy = self.interval.take()
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at step {step} of {self.recipe.name}: lower the rate, e.g. "
                f"--set optim.rate={self.recipe.optim.rate / 10:g}, and start again in another folder with --out"
            )
        epoch = step / self.order.steps_per_epoch
        log.metrics(step=step, epoch=round(epoch, 4), loss=loss, accuracy=accuracy, rate=rate)
        log.event("speed", step=step, images_per_second=round(clock.rate, 1))
        self.reporter.advance(step, loss=loss, accuracy=accuracy, images_per_second=clock.rate)
        self.warn_if_stalled(log, loss)

    def warn_if_stalled(self, log: RunLog, loss: float) -> None:
        """Say once, with likely causes, that the loss sits where a network that knows nothing has it."""
        chance = math.log(self.network.num_classes)
        if self._stall_warned or self.progress.step < STALL_STEPS or abs(loss - chance) > STALL_MARGIN:
            return
        self._stall_warned = True
        text = (
            f"the loss still sits at ln({self.network.num_classes}) = {chance:.3f} after {self.progress.step} steps, "
            "where guessing has it. Likely causes: a rate too low or too high (optim.rate), weights that start too "
            "small for the depth, pixels on another scale than the recipe's (data.scaling), labels that do not match "
            "the images"
        )
        log.event("stalled", step=self.progress.step, loss=loss)
        self.reporter.say(text)

    def end_epoch(self, log: RunLog) -> None:
        """Count validation (and test, where the recipe plots it) and write the epoch's line."""
        loss, accuracy = self.epoch.take()
        step = self.progress.step
        line: dict[str, Any] = {"step": step, "epoch": step // self.order.steps_per_epoch}
        line |= {"train_loss": loss, "train_top1": accuracy}
        if len(self.val_index):
            line |= self.measure("val", self.val_index)
            self.remember(1 - line["val_top1"])
        if self.recipe.train.test_curve:
            line |= self.measure("test", self.store.subset("test"))
        log.metrics(**line)
        figures = ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in line.items() if isinstance(v, float))
        self.reporter.say(f"epoch {line['epoch']}/{self.recipe.train.epochs}: {figures}")

    def measure(self, name: str, index: NDArray[np.int64]) -> dict[str, float]:
        """Loss and accuracy of one view on some images of the store."""
        counts = Counts(self.network.num_classes)
        for output, labels in log_probabilities(self.saved, self.store, index, self.machine):
            counts.add(output, labels)
        return {f"{name}_loss": counts.loss / counts.images, f"{name}_top1": counts.top1 / counts.images}

    def remember(self, error: float) -> None:
        """Add a validation error; keep the weights if the recipe wants the best and these are."""
        self.progress.errors.append(error)
        if self.recipe.train.keep == "best-on-val" and error < self.progress.best_error:
            self.progress.best_error = error
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def checkpoint(self, log: RunLog) -> None:
        """Write the state. A disk that refuses costs a warning, not the training."""
        tensors = {
            "model": self.network.state_dict(),
            "optimizer": optimizer_tensors(self.network, self.optimizer),
            **({"best": self.best} if self.best else {}),
        }
        self.progress.seconds = time.monotonic() - self._began
        state = {
            "seconds": self.progress.seconds,
            "errors": self.progress.errors,
            "best_error": self.progress.best_error if self.best else None,
            "interval": self.interval.sums.tolist(),
            "epoch": self.epoch.sums.tolist(),
            "metrics_bytes": log.mark(),
            "recipe": self.recipe.name,
            "data": self.store.digest,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        try:
            save_checkpoint(self.run.checkpoints, self.progress.step, tensors, state)
        except OSError as error:
            log.event("checkpoint-failed", step=self.progress.step, reason=str(error))
            self.reporter.say(f"warning: no checkpoint at step {self.progress.step}: {error}; training goes on")

    def restore(self, log: RunLog) -> None:
        """Go to the newest whole checkpoint, if there is one; forget the metrics after it."""
        found, complaints = load_newest(self.run.checkpoints)
        for complaint in complaints:
            log.event("damaged-checkpoint", reason=complaint)
            self.reporter.say(f"warning: {complaint}")
        if found is None:
            log.cut(0)
            log.event("start", step=0, seed=self.seed)
            return
        state = found.state
        self.network.load_state_dict(found.tensors["model"])
        restore_optimizer(self.network, self.optimizer, found.tensors["optimizer"])
        self.best = {name: value.to(self.machine.device) for name, value in found.tensors.get("best", {}).items()}
        self.progress = Progress(found.step, list(state["errors"]), state["best_error"] or math.inf, state["seconds"])
        self.interval = Tally(self.machine.device, state["interval"])
        self.epoch = Tally(self.machine.device, state["epoch"])
        if not log.cut(state["metrics_bytes"]):
            self.reporter.say("warning: metrics.jsonl is shorter than it was; its earlier lines are lost")
        if state["torch"] != torch.__version__ or state["threads"] != torch.get_num_threads():
            self.reporter.say("warning: another torch or thread count than before: the last bits may differ")
        log.event("resume", step=found.step, seed=self.seed)
        if found.step < self.total_steps:
            self.reporter.say(f"continuing after step {found.step}")


class Clock:
    """Images a second since the clock was last started; pauses between epochs do not count."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start again from nothing."""
        self._start, self._images = time.monotonic(), 0

    def count(self, images: int) -> None:
        """So many more images are done."""
        self._images += images

    @property
    def rate(self) -> float:
        """Images a second."""
        return self._images / max(1e-9, time.monotonic() - self._start)


def split_indices(recipe: Recipe, store: Store) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The store's images to fit and to validate on: its own val, or the share of train that the recipe holds out."""
    train, val = store.subset("train"), store.subset("val")
    if recipe.train.test_curve and not len(store.subset("test")):
        raise UserError(
            f"recipe {recipe.name!r} plots test after each epoch and {store.name} has no test images: "
            "add --set train.test_curve=false"
        )
    if len(val) or recipe.data.validation == 0:
        return train, val
    held = hold_out(store.labels[train], store.hashes[train], recipe.data.validation)
    return train[~held], train[held]


def build_network(recipe: Recipe, store: Store, seed: int) -> Classifier:
    """The recipe's network for the store's classes and channels, its weights drawn."""
    if recipe.augment.color_noise != "none" and store.channels != 3:
        raise UserError(f"augment.color_noise needs colour and {store.name} is grey: --set augment.color_noise=none")
    crop, pad = recipe.augment.crop, recipe.augment.pad
    if (crop or 0) > store.side + 2 * pad or pad >= store.side:
        raise UserError(
            f"augment.crop={crop} with augment.pad={pad} does not fit the stored images of {store.side} pixels: "
            f"choose a smaller one, e.g. --set augment.crop={store.side}"
        )
    return create_model(
        recipe.model.variant, len(store.classes), store.channels, recipe.data.image_size, seed=seed,
        **recipe.model.departures(),
    )  # fmt: skip


def build_preprocessing(recipe: Recipe, store: Store, image_size: int) -> Preprocessing:
    """What turns the store's pixels into this network's input."""
    scaling = recipe.data.scaling
    constants = {"unit": (0.0, 255.0), "symmetric": (127.5, 127.5)}
    if scaling == "channel":
        mean, deviation = store.mean, store.deviation
    else:
        mean, deviation = ((value,) * store.channels for value in constants.get(scaling, (0.0, 1.0)))
    channels: Literal[1, 3] = 1 if store.channels == 1 else 3
    crop = recipe.augment.crop or store.side
    return Preprocessing(channels, store.side, crop, image_size, scaling, tuple(mean), tuple(deviation))
